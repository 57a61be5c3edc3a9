"""The accounting of runs that are continued, merged and retried: sums, and what is missing.

The engine is scripted; everything else is what a user runs.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sso_data.runs.journal import read_rows
from tests.cli.conftest import Cli, rows_of
from tests.cli.test_bad_input import one_line
from tests.reliability.flow import HashEngine, scripted, write_prompts

REFUSED = "a prompt that the engine refuses"


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)


def questions(file: Path, numbers: Iterable[int], *more: str) -> Path:
    texts = [*(f"Question {number}: what is a kite?" for number in numbers), *more]
    return write_prompts(file, [json.dumps({"prompt": text}) for text in texts])


def made(cli: Cli, folder: Path, prompts: Path, *options: object) -> Path:
    """A run of the prompts, finished unless some of them fail."""
    done = cli("generate", prompts, "--out", folder, "-m", "test/model", *options)
    assert done.exit_code in (0, 3), done.output
    return folder


def manifest_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def interrupted(run: Path, rows: int) -> Path:
    """The run as it was after so many rows."""
    lines = [line for part in sorted((run / "rows").glob("*.jsonl")) for line in part.open("rb")]
    for file in (run / "rows").iterdir():
        file.unlink()
    (run / "rows" / "00000.jsonl").write_bytes(b"".join(lines[:rows]))
    return run


def hint(cli: Cli, run: Path) -> str:
    """What `filter` says of the run on stderr."""
    return str(cli("filter", run, "--dry-run").stderr)


class TestMerge:
    @pytest.fixture
    def shards(self, cli: Cli, tmp_path: Path) -> list[Path]:
        prompts = questions(tmp_path / "in.jsonl", range(30))
        return [made(cli, tmp_path / f"s{n}", prompts, f"--shard={n}/2") for n in (1, 2)]

    def test_rows_of_others_in_out_are_refused(
        self, cli: Cli, tmp_path: Path, shards: list[Path]
    ) -> None:
        out = tmp_path / "out"
        assert cli("merge", *shards, "--out", out).exit_code == 0
        before = (out / "run.json").read_bytes()
        others = len(rows_of(shards[1]))
        done = cli("merge", shards[0], "--out", out)
        one_line(done, f"{out}: holds {others} prompts that are in none of the runs", "--overwrite")
        assert (out / "run.json").read_bytes() == before and len(rows_of(out)) == 30
        anew = cli("merge", shards[0], "--out", out, "--overwrite", "--json")
        assert json.loads(anew.stdout)["rows"] == manifest_of(out)["prompts"] == 30 - others

    def test_one_after_the_other_is_both_at_once(
        self, cli: Cli, tmp_path: Path, shards: list[Path]
    ) -> None:
        out = tmp_path / "out"
        cli("merge", shards[0], "--out", out)
        done = cli("merge", *shards, "--out", out)
        assert done.exit_code == 0 and "more than one" not in done.stderr
        second = len(rows_of(shards[1]))
        assert f"{second}/{second} rows written" in done.stderr
        assert manifest_of(out)["prompts"] == len(rows_of(out)) == 30

    def test_finished_runs_that_overlap_are_finished(
        self, cli: Cli, tmp_path: Path, shards: list[Path]
    ) -> None:
        first, second = (len(rows_of(shard)) for shard in shards)
        whole = made(cli, tmp_path / "whole", tmp_path / "in.jsonl")
        out = tmp_path / "out"
        done = cli("merge", shards[0], whole, "--out", out)
        assert f"{first} rows were in more than one of the runs" in done.stderr
        assert "30/30 rows written" in done.stderr
        assert "unfinished" not in done.stderr + hint(cli, out)
        assert manifest_of(out)["prompts"] == 30 == first + second

    def test_a_run_is_named_once(self, cli: Cli, tmp_path: Path, shards: list[Path]) -> None:
        again = shards[0] / ".." / shards[0].name
        done = cli("merge", shards[0], again, "--out", tmp_path / "out")
        one_line(done, "is given more than once")
        assert not (tmp_path / "out").exists()

    def test_failures_count_once(self, cli: Cli, tmp_path: Path) -> None:
        prompts = questions(tmp_path / "in.jsonl", range(5), REFUSED)
        runs = [made(cli, tmp_path / name, prompts) for name in "ab"]
        done = cli("merge", *runs, "--out", tmp_path / "out", "--json")
        found = json.loads(done.stdout)
        four = (found[key] for key in ("prompts", "rows", "failed", "repeated"))
        assert tuple(four) == (6, 5, 1, 5)
        assert manifest_of(tmp_path / "out")["prompts"] == 6

    def test_an_unfinished_part_is_named_until_it_is_done(
        self, cli: Cli, tmp_path: Path, shards: list[Path]
    ) -> None:
        out, total = tmp_path / "out", len(rows_of(shards[0]))
        interrupted(shards[0], total - 3)
        done = cli("merge", *shards, "--out", out)
        assert f"{shards[0]} is unfinished: {total - 3} of {total} prompts are done" in done.stderr
        assert "the run is unfinished: 27 of 30 prompts are done" in hint(cli, out)
        made(cli, shards[0], tmp_path / "in.jsonl", "--shard=1/2")
        again = cli("merge", *shards, "--out", out)
        assert "unfinished" not in again.stderr + hint(cli, out)

    def test_the_pairs_are_decided_as_those_of_the_runs(
        self, cli: Cli, tmp_path: Path, shards: list[Path]
    ) -> None:
        for shard in shards:
            cli("filter", shard, "--preset", "none")
        out = tmp_path / "out"
        done = cli("merge", *shards, "--out", out)
        assert decided(out)["preset"] == "none" and "decided" not in done.stderr
        cli("filter", shards[1], "--preset", "reference")
        mixed = cli("merge", *shards, "--out", tmp_path / "mixed")
        said = f"decided differently; they are decided with preset none, as in {shards[0]}"
        assert said in mixed.stderr
        cli("filter", out, "--preset=closeness", "--set=filter.gap=0.5")
        cli("merge", *shards, "--out", out)
        assert decided(out)["config"]["gap"] == 0.5, "what was last decided on `out` stands"


def decided(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "pairs" / "filter.json").read_text())
    return found


class TestOtherPrompts:
    def test_prompts_are_all_that_are_there(self, cli: Cli, tmp_path: Path) -> None:
        """Five prompts, then three of which one is known, then the first file again."""
        first = questions(tmp_path / "a.jsonl", range(5))
        second = questions(tmp_path / "b.jsonl", (4, 5, 6))
        run = made(cli, tmp_path / "run", first)
        made(cli, run, second)
        assert manifest_of(run)["prompts"] == len(rows_of(run)) == 7
        made(cli, run, first)
        found = manifest_of(run)
        assert found["prompts"] == 7 and found["sources"] == [str(first), str(second)]
        assert "unfinished" not in hint(cli, run)
        interrupted(run, 6)
        assert "6 of 7 prompts are done" in hint(cli, run)

    def test_an_interrupted_second_file_counts_what_it_adds(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = made(cli, tmp_path / "run", questions(tmp_path / "a.jsonl", range(5)))
        with monkeypatch.context() as patch:
            patch.setattr(HashEngine, "step", _interrupted)
            options = ("--out", run, "-m", "test/model")
            second = questions(tmp_path / "b.jsonl", range(3, 13))
            assert cli("generate", second, *options).exit_code == 130
        assert "5 of 13 prompts are done" in hint(cli, run)


def _interrupted(engine: HashEngine) -> Any:
    raise KeyboardInterrupt


class TestRetry:
    @pytest.fixture
    def run(self, cli: Cli, tmp_path: Path) -> Path:
        prompts = questions(tmp_path / "in.jsonl", range(8), REFUSED)
        with prompts.open("a") as stream:
            stream.write("[1]\n")
        return made(cli, tmp_path / "run", prompts, "--skip-bad-rows")

    @pytest.fixture
    def willing(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on, the engine refuses nothing."""
        scripted(monkeypatch, lambda: HashEngine(refused=None))

    @pytest.mark.usefixtures("willing")
    def test_rows_that_are_no_prompts_are_counted(self, cli: Cli, run: Path) -> None:
        done = cli("retry", run)
        assert done.exit_code == 3
        assert "1 of 1 failed prompts are rows now" in done.stdout
        assert "1 malformed row cannot be retried" in done.stderr
        again = cli("retry", run)
        assert again.stdout == "no prompt failed: nothing to retry\n"
        assert "1 malformed row cannot be retried" in again.stderr
        assert json.loads(cli("retry", run, "--json").stdout)["no_prompts"] == 1

    def test_nothing_failed_is_nothing_done(self, cli: Cli, tmp_path: Path) -> None:
        run = made(cli, tmp_path / "clean", questions(tmp_path / "a.jsonl", range(4)))
        before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
        done = cli("retry", run)
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout == "no prompt failed: nothing to retry\n"
        assert before == {file: file.stat().st_mtime_ns for file in before}
        found = json.loads(cli("retry", run, "--json").stdout)
        assert (found["tried"], found["prompts"], found["rows"]) == (0, 4, 4)

    def test_other_settings_are_not_advised_what_retry_lacks(self, cli: Cli, run: Path) -> None:
        done = cli("retry", run, "--set=seed=7")
        one_line(done, "seed is 0 there and 7 here", "uses the run's own settings: leave these out")
        assert "--overwrite" not in done.stderr and "--out" not in done.stderr

    @pytest.mark.usefixtures("willing")
    def test_an_unfinished_run_is_said_to_be_one(self, cli: Cli, run: Path) -> None:
        done = cli("retry", interrupted(run, 5))
        assert "the run is unfinished: 7 of 10 prompts are done" in done.stderr


class TestTheLastDecision:
    """What `filter` last decided stands until somebody decides anew."""

    @pytest.fixture
    def run(self, cli: Cli, tmp_path: Path) -> Path:
        prompts = questions(tmp_path / "in.jsonl", range(12), REFUSED)
        run = made(cli, tmp_path / "run", prompts)
        cli("filter", run, "--preset=reference", "--set=filter.min_tokens=5")
        return run

    def test_retry_decides_as_filter_did(
        self, cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scripted(monkeypatch, lambda: HashEngine(refused=None))
        before = decided(run)["config"]
        done = cli("retry", run)
        assert "1 of 1" in done.stdout and "decided" not in done.stderr
        assert decided(run)["config"] == before and decided(run)["rows"] == 13

    def test_retry_says_when_it_is_told_otherwise(self, cli: Cli, run: Path) -> None:
        done = cli("retry", run, "--set=filter.min_tokens=6")
        assert (
            "the pairs were decided with filter.min_tokens=5; they are decided again with "
            "filter.min_tokens=6"
        ) in done.stderr
        cli("retry", run)
        assert decided(run)["config"]["min_tokens"] == 6, "which is the last decision now"

    def test_generate_without_filter_settings_keeps_it(
        self, cli: Cli, run: Path, tmp_path: Path
    ) -> None:
        more = questions(tmp_path / "in.jsonl", range(14), REFUSED)
        for _ in range(2):
            done = cli("generate", more, "--out", run, "-m", "test/model")
            assert (
                "the pairs are decided with filter.preset=reference, filter.min_tokens=5, as "
                "`filter` last did; the configuration has filter.preset=closeness"
            ) in done.stderr
            assert decided(run)["preset"] == "reference" and decided(run)["rows"] == 14

    def test_generate_with_filter_settings_decides_anew(
        self, cli: Cli, run: Path, tmp_path: Path
    ) -> None:
        options = ("--out", run, "-m", "test/model", "--set=filter.gap=0.01")
        done = cli("generate", tmp_path / "in.jsonl", *options)
        assert "they are decided again with filter.preset=closeness, " in done.stderr
        assert "filter.gap=0.01" in done.stderr
        assert decided(run)["config"]["gap"] == 0.01
        again = cli("generate", tmp_path / "in.jsonl", "--out", run, "-m", "test/model")
        assert "with filter.gap=0.01; they are decided again with filter.gap=0.0" in again.stderr
        assert decided(run)["config"]["gap"] == 0.0, "its own decisions follow its settings"

    def test_filter_itself_goes_back_to_the_run(self, cli: Cli, run: Path) -> None:
        cli("filter", run)
        assert decided(run)["preset"] == "closeness"

    def test_a_broken_decision_is_none(self, cli: Cli, run: Path, tmp_path: Path) -> None:
        (run / "pairs" / "filter.json").write_text("{")
        done = cli("generate", tmp_path / "in.jsonl", "--out", run, "-m", "test/model")
        assert done.exit_code == 3 and decided(run)["preset"] == "closeness"


def test_a_merged_run_holds_the_rows_of_its_parts(cli: Cli, tmp_path: Path) -> None:
    prompts = questions(tmp_path / "in.jsonl", range(10))
    parts = [made(cli, tmp_path / f"s{n}", prompts, f"--shard={n}/2") for n in (1, 2)]
    cli("merge", *parts, "--out", tmp_path / "out")
    expected = [row for part in parts for row in read_rows(part)]
    assert list(read_rows(tmp_path / "out")) == expected


def test_a_source_is_read_once_to_check_and_count_it_and_once_to_make_rows(
    cli: Cli, tmp_path: Path, opened_sources: list[str]
) -> None:
    first = questions(tmp_path / "a.jsonl", range(6))
    run = made(cli, tmp_path / "run", first)
    assert opened_sources == [str(first)] * 2
    opened_sources.clear()
    more = questions(tmp_path / "b.jsonl", range(3, 10))
    assert made(cli, run, more) == run
    assert opened_sources == [str(more)] * 2
    assert manifest_of(run)["prompts"] == len(rows_of(run)) == 10
