"""The command: what it shows, its exit codes, and a user's mistakes in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.core.trees import deep_merge
from tests.cli.test_bad_input import one_line
from tests.iteration.conftest import TINY, run, tiny, write_prompts


def invoke(out: Path, *words: object) -> Result:
    return CliRunner().invoke(app, ["iterate", "--out", str(out), *map(str, words)])


def file_of(folder: Path, **changes: Any) -> Path:
    """A file for --config."""
    file = folder / "tiny.yaml"
    file.write_text(json.dumps(deep_merge(TINY, changes)))
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(prompts, config, out) of a finished round, one of whose prompts is blank."""
    folder = tmp_path_factory.mktemp("command")
    prompts = write_prompts(folder / "prompts.jsonl", 4)
    with prompts.open("a") as stream:
        stream.write('{"prompt": "  "}\n')
    changes = {"rounds": 1, "slices": {"prompts": 5}}
    run(tiny(prompts, **changes), folder / "out")
    return prompts, file_of(folder, **changes), folder / "out"


def test_tables_books_and_files(finished: tuple[Path, Path, Path]) -> None:
    prompts, config, out = finished
    done = invoke(out, prompts, "--config", config)
    assert done.exit_code == 3, done.output
    assert "failed.jsonl" in done.stderr
    for part in (
        *("round 1", "signal accuracy: kept / all rows", "score of y0"),
        *("prompts 5 = rows 4 + failed 1", f"the policy: {out / 'round-1' / 'model'}"),
        str(out / "report.html"),
    ):
        assert part in done.stdout, part


def test_json(finished: tuple[Path, Path, Path]) -> None:
    prompts, config, out = finished
    done = invoke(out, prompts, "--config", config, "--json")
    found = json.loads(done.stdout)
    assert found["totals"]["failed"] == 1 and found["stopped"] is None
    assert found["rounds"][0]["train_steps"] == 2 and found["new_rounds"] == 0


def test_a_stop_ends_well(tmp_path: Path) -> None:
    """Exit code 0: why it stopped, what to change, and the last good policy."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 3)
    config = file_of(tmp_path, slices={"prompts": 3})
    done = invoke(
        *(tmp_path / "out", prompts, "--config", config, "--rounds", 1),
        *("--set", "stop.gap=9", "--json"),
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["stopped"]["rule"] == "gap" and found["stopped"]["advice"]
    assert found["policy"]["path"] == TINY["model"]
    assert "round 1 of 1: generating" in done.stderr
    assert "training" not in done.stderr


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--tiny",), ("--tiny needs --recipe",)),
        (("--judge-endpoint", "http://host/v1"), ("--judge-endpoint", "--judge llm:MODEL")),
        (("--judge", "reward"), ("--judge reward", "oracle")),
        (("--recipe", "no-such-recipe"), ("no-such-recipe",)),
        (("--set", "train.model=m"), ("train.model", "set by the iteration")),
        (("--set", "rounds"), ("key=value",)),
        ((), ("no model given", "--model")),
        (("--model", TINY["model"]), ("no prompts given",)),
        (("p.jsonl", "--model", "no/such/model"), ("p.jsonl", "no such file")),
        (("p.jsonl", "--model", TINY["model"]), ("p.jsonl", "no such file")),
    ],
)
def test_mistakes(tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    one_line(invoke(tmp_path / "out", *words), *parts)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rounds: 2\nround: 3\n")
    done = invoke(tmp_path / "out", "--recipe", tmp_path / "mine.yaml")
    one_line(done, "mine.yaml", "unknown key 'round'")
