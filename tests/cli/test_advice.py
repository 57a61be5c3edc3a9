"""What a message about a run directory advises is done here, on the state that prints it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sso_data.cli import app
from sso_data.runs.workdir import locked, write_json
from sso_data.world import queries
from tests.cli.conftest import INLINE, Cli, rows_of
from tests.cli.test_words import told
from tests.once import once

TINY = (*INLINE, "--set=sampling.max_tokens=16")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompt file with a malformed row, and the run of it."""

    def make(at: Path) -> None:
        rows = [{"prompt": text} for text in queries(3, seed=5)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (at / "prompts.jsonl").write_text(text + '{"prompt": 7}\n')
        words = ["generate", at / "prompts.jsonl", f"--out={at / 'run'}", "--skip-bad-rows", *TINY]
        assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 3

    return once(tmp_path_factory, "advice", make)


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "place"))


@pytest.fixture
def generate(cli: Cli, place: Path) -> Callable[..., list[str]]:
    """The words of the command that made the run."""

    def words(*more: object, out: str = "run") -> list[str]:
        given = ["generate", place / "prompts.jsonl", f"--out={place / out}", "--skip-bad-rows"]
        return [str(word) for word in (*given, *TINY, *more)]

    return words


Words = Callable[..., list[str]]


def same_rows(place: Path, out: str = "run") -> bool:
    """Whether a run has the rows of the first one."""
    here, kept = ({row["id"]: row for row in rows_of(place / run)} for run in (out, "kept"))
    return here == kept


def same_ids(place: Path, out: str) -> bool:
    """The same up to the batches in which the rows were made, which round log-probs otherwise."""
    here, kept = (sorted(row["id"] for row in rows_of(place / run)) for run in (out, "kept"))
    return here == kept


@pytest.mark.parametrize("line", ["not JSON\n", "[1]\n", '{"id": 1}\n'])
def test_remove_the_line(cli: Cli, place: Path, generate: Words, line: str) -> None:
    failed = place / "run" / "failed.jsonl"
    shutil.copytree(place / "run", place / "kept")
    good = failed.read_text()
    failed.write_text(line + good)
    message = told(cli, *generate())
    assert f"{failed}:1: " in message and message.endswith("remove the line")
    failed.write_text(good)
    assert cli(*generate()).exit_code == 3
    assert same_rows(place) and failed.read_text() == good


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 4}'])
def test_restore_the_manifest_or_use_another_directory(
    cli: Cli, place: Path, generate: Words, content: str
) -> None:
    manifest = place / "run" / "run.json"
    shutil.copytree(place / "run", place / "kept")
    manifest.write_text(content)
    message = told(cli, *generate())
    assert "restore it from a copy, or use another --out" in message
    assert cli(*generate(out="other")).exit_code == 3 and same_rows(place, "other")
    shutil.copy(place / "kept" / "run.json", manifest)
    assert cli(*generate()).exit_code == 3 and same_rows(place)


def test_a_lost_manifest(cli: Cli, place: Path, generate: Words) -> None:
    shutil.copytree(place / "run", place / "kept")
    (place / "run" / "run.json").unlink()
    assert told(cli, *generate()).endswith("no run.json; use another --out or --overwrite")
    assert cli(*generate("--overwrite")).exit_code == 3 and same_rows(place)


def test_another_identity(cli: Cli, place: Path, generate: Words) -> None:
    message = told(cli, *generate("--seed=7"))
    assert message.endswith("use another --out, or --overwrite to start over")
    assert cli(*generate("--seed=7", out="other")).exit_code == 3
    assert cli(*generate("--seed=7", "--overwrite")).exit_code == 3
    (place / "kept").mkdir()
    shutil.copytree(place / "other" / "rows", place / "kept" / "rows")
    assert same_rows(place)


def test_a_lock(cli: Cli, place: Path, generate: Words) -> None:
    shutil.copytree(place / "run", place / "kept")
    with locked(place / "run", "rows"):
        assert told(cli, *generate()).endswith("wait for it or end it")
    assert cli(*generate()).exit_code == 3 and same_rows(place)


def test_a_malformed_row_is_corrected(cli: Cli, place: Path, generate: Words) -> None:
    done = cli("retry", place / "run")
    assert "correct the prompt file and run `generate` again" in done.stderr
    file = place / "prompts.jsonl"
    file.write_text(file.read_text().replace("7", json.dumps(queries(1, seed=6)[0])))
    assert cli(*generate("--json")).exit_code in (0, 3)
    assert len(rows_of(place / "run")) == 4


@pytest.mark.parametrize("content", ["{", "{}", None])
def test_a_decision_that_is_lost(cli: Cli, place: Path, content: str | None) -> None:
    """Where the message names a command, the command is run as it stands there."""
    decided = place / "run" / "pairs" / "filter.json"
    before = decided.read_bytes()
    if content is None:
        decided.unlink()
    else:
        decided.write_text(content)
    message = told(cli, "export", place / "run", "--to=trl", f"--out={place / 'out'}")
    command = re.findall(r"`sso-data ([^`]*)`", message)[0]
    assert cli(*command.split()).exit_code == 0
    assert json.loads(decided.read_bytes())["kept"] == json.loads(before)["kept"]


def test_training_on_a_run_without_pairs(cli: Cli, place: Path) -> None:
    shutil.rmtree(place / "run" / "pairs")
    message = told(cli, "train", place / "run", f"--out={place / 'out'}", *TINY[-2:-1])
    command = re.findall(r"`sso-data ([^`]*)`", message)[0]
    assert cli(*command.split()).exit_code == 0
    assert (place / "run" / "pairs" / "train.jsonl").is_file()


class TestMerge:
    @pytest.fixture
    def parts(self, cli: Cli, place: Path, generate: Words) -> list[Path]:
        shutil.copytree(place / "run", place / "kept")
        for part in (1, 2):
            cli(*generate(f"--shard={part}/2", out=f"part{part}"))
        return [place / "part1", place / "part2"]

    def test_each_run_once_and_into_another(self, cli: Cli, place: Path, parts: list[Path]) -> None:
        whole = f"--out={place / 'whole'}"
        assert told(cli, "merge", *parts, parts[0], whole).endswith("give each run once")
        assert told(cli, "merge", *parts, f"--out={parts[0]}").endswith("use another --out")
        assert cli("merge", *parts, whole).exit_code == 3 and same_ids(place, "whole")

    def test_rows_of_others(self, cli: Cli, place: Path, parts: list[Path]) -> None:
        message = told(cli, "merge", parts[0], f"--out={place / 'part2'}")
        assert f"use another --out and name {parts[1]} among the runs" in message
        assert cli("merge", *parts, f"--out={place / 'whole'}").exit_code == 3
        assert same_ids(place, "whole")
        assert cli("merge", parts[0], f"--out={parts[1]}", "--overwrite").exit_code in (0, 3)

    def test_an_unfinished_one(self, cli: Cli, place: Path, parts: list[Path]) -> None:
        manifest = parts[1] / "run.json"
        content = json.loads(manifest.read_text())
        content["prompts"] += 1
        write_json(manifest, content)
        done = cli("merge", *parts, f"--out={place / 'whole'}")
        assert f"{parts[1]} is unfinished" in done.stderr
        assert "finish it and merge again" in done.stderr
