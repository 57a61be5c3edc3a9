"""`retry` runs what is in failed.jsonl, under the ids under which it failed, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from sso_data.engines.interface import Refused, Result
from sso_data.engines.transformers import TransformersEngine
from sso_data.runs.run import read_failures
from sso_data.world import policy_dir
from tests.cli.conftest import INLINE, Cli, rows_of


@pytest.fixture
def run(cli: Cli, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of twelve prompts, two of them twice and one blank, in which every second row failed
    because the engine refused it."""
    with prompts.open("a") as stream:
        lines = prompts.read_text().splitlines()
        stream.write(lines[0] + "\n" + lines[1] + "\n" + json.dumps({"prompt": " "}) + "\n[1]\n")
    seen: dict[str, bool] = {}
    step = TransformersEngine.step

    def refusing(self: TransformersEngine) -> list[Result]:
        results: list[Result] = []
        for result in step(self):
            row = result.key.partition("/")[0]
            bad = seen.setdefault(row, len(seen) % 2 == 0)
            results.append(Refused(key=result.key, detail="not now") if bad else result)
        return results

    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "step", refusing)
        done = cli("generate", prompts, "--out", tmp_path / "run", "--skip-bad-rows", *INLINE)
    assert done.exit_code == 3, done.output
    return tmp_path / "run"


def test_what_failed_becomes_rows(cli: Cli, tmp_path: Path, run: Path, prompts: Path) -> None:
    before = rows_of(run)
    failed = read_failures(run)
    refused = {name for name, failure in failed.items() if failure.reason == "engine_refused"}
    assert len(refused) == 7 and len(failed) == 9
    done = cli("retry", run, "--json")
    assert done.exit_code == 3, done.output
    summary = json.loads(done.stdout)
    assert (summary["tried"], summary["new_rows"], summary["failed_again"]) == (8, 7, 1)
    assert (summary["prompts"], summary["rows"], summary["failed"]) == (16, 14, 2)
    after = rows_of(run)
    assert after[: len(before)] == before, "finished rows stand as they stood"
    assert {row["id"] for row in after[len(before) :]} == refused
    assert {row["model"] for row in after} == {policy_dir().name}, "no path of this machine"
    attempts = {
        f.reason: f.attempts for f in read_failures(run).values() if f.reason != "engine_refused"
    }
    assert attempts == {"blank_prompt": 2, "malformed": 1}

    whole = tmp_path / "whole"
    assert cli("generate", prompts, "--out", whole, "--skip-bad-rows", *INLINE).exit_code == 3
    expected = {row["id"]: row for row in rows_of(whole)}
    assert expected.keys() == {row["id"] for row in after}
    for row in after:
        for key in ("source_id", "metadata", "prompt", "seed_plain", "prompt_hash_good"):
            assert row[key] == expected[row["id"]][key], "the row of an undisturbed run"


def test_it_ends_when_nothing_is_left(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    run = tmp_path / "clean"
    assert cli("generate", prompts, "--out", run, *INLINE).exit_code == 0
    before = rows_of(run)
    done = cli("retry", run)
    assert done.exit_code == 0, done.output
    assert done.stdout == "no prompt failed: nothing to retry\n"
    assert "loading" not in done.stderr and rows_of(run) == before


def test_other_sampling_is_refused_and_speed_is_not(cli: Cli, run: Path) -> None:
    done = cli("retry", run, "--set", "sampling.temperature=0.1")
    assert done.exit_code == 1 and "sampling.temperature" in done.stderr
    done = cli("retry", run, "--set", "engine.max_num_seqs=2")
    assert done.exit_code == 3, done.output


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_no_run_is_one_line(cli: Cli, tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    done = cli("retry", tmp_path / what)
    assert done.exit_code == 1 and "make a run with" in done.stderr


def test_a_row_wins_over_its_older_failure(cli: Cli, run: Path, prompts: Path) -> None:
    cli("retry", run)
    found: dict[str, Any] = json.loads(cli("filter", run, "--dry-run", "--json").stdout)
    assert (found["prompts"], found["rows"], found["failed"]) == (16, 14, 2)
    again = cli("generate", prompts, "--out", run, "--skip-bad-rows", "--json", *INLINE)
    assert json.loads(again.stdout)["new_rows"] == 0, "a plain re-run skips what failed"
