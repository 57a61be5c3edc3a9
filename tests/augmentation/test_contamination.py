"""De-contamination: which runs of words count, and that nothing else does."""

import gzip
import json
from pathlib import Path

import pytest

from sso_data.augmentation.contamination import Contamination, words
from sso_data.config.augmentation import DecontaminateConfig
from sso_data.core.errors import InputError

LONG = (
    "Janet's ducks lay sixteen eggs per day. She eats three for breakfast every morning and "
    "bakes muffins for her friends every day with four."
)
MIDDLE = "Which of these planets has the most moons today?"
SHORT = "Name the largest ocean."


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    file = tmp_path / "bench.jsonl"
    found = [
        {"question": LONG, "answer": "18", "choices": ["A", "16"]},
        {"question": MIDDLE, "answer": "Saturn"},
        {"turns": [{"text": SHORT}], "meta": {"n": 3}},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return file


def overlap(file: Path, query: str, **keys: int) -> tuple[int, str] | None:
    found = Contamination(DecontaminateConfig(files=(file,), **keys)).find(query)
    return (found.row, found.words) if found else None


def test_thirteen_words_in_a_row(benchmark: Path) -> None:
    run = "ducks lay sixteen eggs per day she eats three for breakfast every morning"
    assert overlap(benchmark, f"Please: {run.upper()}, why?") == (1, run)
    assert overlap(benchmark, f"Please: {run.replace('eggs', 'egg')}, why?") is None
    assert overlap(benchmark, f"Why do my {run.replace('ducks ', '')} or so?") is None


def test_a_short_query_counts_as_a_whole(benchmark: Path) -> None:
    """From eight words on it is enough that it stands in a longer text."""
    part = "she eats three for breakfast every morning and"
    assert overlap(benchmark, part) == (1, part)
    assert overlap(benchmark, "eats three for breakfast every morning and") is None
    assert overlap(benchmark, f"perhaps {part}") is None


def test_a_short_benchmark_text_counts_as_a_whole(benchmark: Path) -> None:
    text = " ".join(words(MIDDLE))
    assert overlap(benchmark, MIDDLE) == (2, text)
    assert overlap(benchmark, f"I wonder a lot about this one. {MIDDLE} Say why!") == (2, text)
    assert overlap(benchmark, "Which of these planets has the most moons now?") is None


def test_very_short_texts_must_agree(benchmark: Path) -> None:
    assert overlap(benchmark, "name the LARGEST ocean") == (3, "name the largest ocean")
    assert overlap(benchmark, "Name the largest ocean of the world.") is None
    assert overlap(benchmark, "Saturn") == (2, "saturn")
    assert overlap(benchmark, "A 16?") is None, "answers of a letter or a number count for nothing"
    assert overlap(benchmark, "") is None


def test_the_lengths_can_be_chosen(benchmark: Path) -> None:
    assert overlap(benchmark, "My goose eats three for breakfast too", ngram=4) == (
        1,
        "eats three for breakfast",
    )
    assert overlap(benchmark, "Name the largest ocean of all!", ngram=6, shortest=4) == (
        3,
        "name the largest ocean",
    )


def test_runs_never_cross_two_texts(benchmark: Path) -> None:
    across = " ".join([*words(LONG)[-7:], *words(MIDDLE)[:7]])
    assert overlap(benchmark, across) is None


def test_scripts_without_spaces_count_by_characters(tmp_path: Path) -> None:
    file = tmp_path / "bench.txt"
    file.write_text("珍妮特的鸭子每天下十六个蛋，她早餐吃三个，还用四个给朋友烤松饼。\n")
    assert overlap(file, "请解释：鸭子每天下十六个蛋，她早餐吃三个，对吗？") is not None
    assert overlap(file, "请解释：为什么鸭子每天只下一个蛋，而鸡下两个？") is None


def test_any_format_of_prompts_and_several_files(benchmark: Path, tmp_path: Path) -> None:
    table = tmp_path / "bench.csv"
    table.write_text("id,question\n1,How many legs does a spider with two missing legs have?\n")
    packed = tmp_path / "bench.jsonl.gz"
    packed.write_bytes(gzip.compress(benchmark.read_bytes()))
    found = Contamination(DecontaminateConfig(files=(table, packed)))
    first = found.find("How many legs does a spider with two missing legs have?")
    second = found.find(MIDDLE)
    assert first is not None and first.file == str(table)
    assert second is not None and second.file == str(packed)
    assert len({one.fingerprint for one in found.benchmarks}) == 2
    assert Contamination(DecontaminateConfig()).find(MIDDLE) is None


def test_files_that_are_no_benchmarks(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="no texts in it"):
        Contamination(DecontaminateConfig(files=(numbers,)))
    with pytest.raises(InputError, match="no such file"):
        Contamination(DecontaminateConfig(files=(tmp_path / "none.jsonl",)))
