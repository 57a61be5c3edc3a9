"""Slices of a source: disjoint or the same, whole, and checked against those before."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.iteration import IterateConfig
from sso_data.config.loading import validated
from sso_data.core.errors import ConfigError, InputError
from sso_data.iteration.slices import Slice, rows_a_round, slice_source, write_slice
from sso_data.prompts import Candidate, read_prompts
from tests.iteration.conftest import lines_of


def config_of(file: Path, **changes: Any) -> IterateConfig:
    return validated(IterateConfig, {"model": "m", "prompts": str(file), **changes})


def numbered(file: Path, number: int, **columns: Any) -> Path:
    rows = [{"prompt": f"What is {n}?", "id": n, **columns} for n in range(number)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def texts(file: Path) -> list[str]:
    return [row["prompt"][0]["content"] for row in lines_of(file)]


def taken(config: IterateConfig, rows: int, folder: Path) -> tuple[list[Slice], list[list[str]]]:
    """All slices of an iteration, and the texts in their files."""
    slices: list[Slice] = []
    files = []
    for number in range(1, config.rounds + 1):
        files.append(folder / f"{number}.jsonl")
        before = slices[-1] if slices else None
        slices.append(write_slice(config, number, rows, files[-1], before=before))
    return slices, [texts(file) for file in files]


def test_fresh_slices_are_disjoint_and_in_order(tmp_path: Path) -> None:
    config = config_of(numbered(tmp_path / "p.jsonl", 11), rounds=3)
    assert rows_a_round(config, None) == 3, "dealt out evenly, the remainder is left"
    slices, found = taken(config, 3, tmp_path)
    assert [one.start for one in slices] == [0, 3, 6]
    assert [text for one in found for text in one] == [f"What is {n}?" for n in range(9)]


def test_the_same_slice_each_round(tmp_path: Path) -> None:
    config = config_of(numbered(tmp_path / "p.jsonl", 7), slices={"order": "same"}, rounds=2)
    assert rows_a_round(config, None) == 7
    _, found = taken(config, 7, tmp_path)
    assert found[0] == found[1] == [f"What is {n}?" for n in range(7)]


def test_a_row_keeps_its_columns_and_learns_its_round(tmp_path: Path) -> None:
    file = numbered(tmp_path / "p.jsonl", 4, topic={"a": [1, None]}, round="theirs")
    config = config_of(file, rounds=2)
    taken(config, 2, tmp_path)
    rows = list(read_prompts(str(tmp_path / "2.jsonl"), slice_source(config)))
    assert isinstance(rows[0], Candidate)
    assert rows[0].source_id == "2"
    metadata = json.loads(rows[0].metadata)
    assert metadata == {"topic": {"a": [1, None]}, "round": 2, "source_round": "theirs"}


def test_other_columns_and_a_packed_file(tmp_path: Path) -> None:
    lines = [json.dumps({"q": f"Ask {n}", "key": f"k{n}", "prompt": "other"}) for n in range(4)]
    file = tmp_path / "p.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    source = {"column": "q", "id_column": "key", "limit": 3}
    config = config_of(file, rounds=1, generate={"source": source})
    assert rows_a_round(config, None) == 3
    write_slice(config, 1, 3, tmp_path / "1.jsonl", before=None)
    rows = list(read_prompts(str(tmp_path / "1.jsonl"), slice_source(config)))
    assert all(isinstance(row, Candidate) for row in rows)
    last = rows[-1]
    assert isinstance(last, Candidate)
    assert (last.messages[0].content, last.source_id) == ("Ask 2", "k2")
    assert json.loads(last.metadata)["prompt"] == "other"


def test_malformed_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    file = numbered(tmp_path / "p.jsonl", 5)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "{broken", *lines[1:3], '{"a": 1}', *lines[3:]]) + "\n")
    with pytest.raises(InputError, match=r"p\.jsonl:2"):
        rows_a_round(config_of(file, rounds=2), None)
    source = {"source": {"skip_bad_rows": True}}
    config = config_of(file, rounds=2, generate=source, slices={"prompts": 2})
    slices, found = taken(config, 2, tmp_path)
    assert [one.malformed for one in slices] == [1, 2]
    assert found == [["What is 0?", "What is 1?"], ["What is 2?", "What is 3?"]]


@pytest.mark.parametrize("order", ["fresh", "same"])
def test_too_few_prompts_are_one_clear_line(tmp_path: Path, order: str) -> None:
    file = numbered(tmp_path / "p.jsonl", 5)
    config = config_of(file, rounds=3, slices={"order": order, "prompts": 6})
    with pytest.raises(InputError) as caught:
        rows_a_round(config, None)
    line = str(caught.value)
    assert "has 5 prompts" in line and "slices.prompts" in line and "\n" not in line
    assert ("3 rounds of 6 need 18" in line) == (order == "fresh")


def test_fewer_prompts_than_rounds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 prompts, but 3 rounds of 1 need 3"):
        rows_a_round(config_of(numbered(tmp_path / "p.jsonl", 2), rounds=3), None)


def test_more_rounds_keep_the_size_of_a_slice(tmp_path: Path) -> None:
    config = config_of(numbered(tmp_path / "p.jsonl", 12), rounds=4)
    assert rows_a_round(config, None) == 3
    assert rows_a_round(config, 2) == 2, "as it was at the start"
    with pytest.raises(InputError, match="4 rounds of 5 need 20"):
        rows_a_round(config, 5)


def test_a_file_that_grew_is_the_same_source(tmp_path: Path) -> None:
    file = numbered(tmp_path / "p.jsonl", 4)
    config = config_of(file, rounds=2)
    first = write_slice(config, 1, 2, tmp_path / "1.jsonl", before=None)
    with file.open("a") as stream:
        stream.write('{"prompt": "one more"}\n')
    write_slice(config, 2, 2, tmp_path / "2.jsonl", before=first)
    assert texts(tmp_path / "2.jsonl") == ["What is 2?", "What is 3?"]


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    file = numbered(tmp_path / "p.jsonl", 4)
    config = config_of(file, rounds=2)
    first = write_slice(config, 1, 2, tmp_path / "1.jsonl", before=None)
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    with pytest.raises(InputError, match="first 2 rows changed since earlier rounds"):
        write_slice(config, 2, 2, tmp_path / "2.jsonl", before=first)
    assert not (tmp_path / "2.jsonl").exists()


def test_labelled_pairs_are_sliced_too(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}", "chosen": f"yes {n}", "rejected": "no"} for n in range(5)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_of(file, rounds=2, labelled={"data": str(file)})
    assert rows_a_round(config, None) == 2
    first = write_slice(config, 1, 2, tmp_path / "1.jsonl", before=None)
    write_slice(config, 2, 2, tmp_path / "2.jsonl", before=first)
    assert lines_of(tmp_path / "2.jsonl") == [row | {"round": 2} for row in rows[2:4]]
    file.write_text(file.read_text().replace("yes 0", "yes, 0"))
    with pytest.raises(InputError, match="changed since"):
        write_slice(config, 2, 2, tmp_path / "2.jsonl", before=first)


def test_a_prompt_column_of_the_rounds_own_name(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"round": "What is a kite?"}\n')
    config = config_of(file, rounds=1, generate={"source": {"column": "round"}})
    with pytest.raises(ConfigError, match="'round'"):
        rows_a_round(config, None)
