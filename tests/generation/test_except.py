"""`generate --except`: the rest of unfinished runs dealt out again, and merged to one run."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from sso_data import generate
from sso_data.core.errors import EngineError, RunError
from sso_data.engines.interface import EngineInfo, Result, Sampled, SampleRequest, Scored
from sso_data.generation import generate as generating
from sso_data.generation.generate import Summary
from sso_data.generation.merge import Merged, merge
from sso_data.runs.journal import load_scores
from sso_data.runs.run import ELSEWHERE_FILE, read_elsewhere, require_run, run_account, unfinished
from sso_data.runs.workdir import write_json
from sso_data.templating.chat_template import load_tokenizer
from sso_data.world import policy_dir
from tests.cli.conftest import Cli, cli, rows_of

__all__ = ["cli"]
PROMPTS = 40
CONFIG = {"sampling": {"samples": 2}, "engine": {"dtype": "float32"}, "output": {"parquet": False}}


class Instant:
    """Answers by a request's own content; after so many answers it is lost."""

    def __init__(self, answers: int) -> None:
        self._left, self._waiting = answers, list[Any]()
        self.info = EngineInfo(
            name="transformers",
            version="1",
            device="cpu",
            dtype="float32",
            context_tokens=500,
            max_in_flight=4,
        )

    def submit(self, requests: Any) -> None:
        self._waiting += requests

    def step(self) -> list[Result]:
        self._left -= 1
        if self._left < 0:
            raise EngineError("lost")
        request = self._waiting.pop(0)
        if isinstance(request, SampleRequest):
            ids = tuple(20 + (request.seed >> shift) % 50 for shift in range(6))
            return [Sampled(key=request.key, token_ids=ids, total_nats=-3.0, finish_reason="stop")]
        return [Scored(key=request.key, total_nats=-3.0 - request.key.count("b"))]

    def close(self) -> None:
        pass


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Forty prompts, of which ten stand twice, and a blank one, which fails."""
    texts = [f"Question {number % 30}?" for number in range(PROMPTS - 1)] + [" "]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return file


class Maker:
    """Makes runs of the source with an engine that gives so many answers."""

    def __init__(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source, self.engines, self._patch = source, 0, monkeypatch

    def __call__(
        self, run: Path, shard: str | None = None, *others: Path, answers: int = 10**6, **more: Any
    ) -> Summary | None:
        def start(*_: Any, **__: Any) -> Instant:
            self.engines += 1
            return Instant(answers)

        self._patch.setattr(generating, "start_engine", start)
        config = CONFIG | {"source": {"shard": shard}} | more
        try:
            return generate(
                self.source, run, model=str(policy_dir()), config=config, except_=others
            )
        except EngineError:
            return None


@pytest.fixture
def make(source: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.setattr(generating, "load_tokenizer", cache(load_tokenizer))
    return Maker(source, monkeypatch)


def content(run: Path) -> dict[str, bytes]:
    return {row["id"]: orjson.dumps(row) for row in rows_of(run)}


def halves(make: Maker, folder: Path) -> list[Path]:
    """Two shards, each left in the middle."""
    shards = [folder / f"shard{which}" for which in (1, 2)]
    for which, shard in enumerate(shards, 1):
        assert make(shard, f"{which}/2", answers=130) is None
        assert 5 < len(rows_of(shard)) < PROMPTS / 2
    return shards


def books(run: Path) -> tuple[int, int, int, int]:
    account = run_account(run, load_scores(run, dry=True))
    return account.prompts, account.rows, account.failed, account.elsewhere


def test_the_rest_of_two_shards_dealt_in_three_and_merged_is_one_run(
    make: Maker, tmp_path: Path
) -> None:
    """Nothing is made twice; the failed prompt is dealt again; the books of each close."""
    assert make(tmp_path / "whole")
    shards = halves(make, tmp_path)
    made = sum(len(rows_of(shard)) for shard in shards)
    rest = [tmp_path / f"rest{which}" for which in (1, 2, 3)]
    for which, run in enumerate(rest, 1):
        done = make(run, f"{which}/3", *shards)
        assert done and done.account.samples == 2
        assert (done.account.prompts, done.account.rows) == books(run)[:2]
        assert done.account.prompts * 2 == done.account.done + done.account.elsewhere
        assert done.account.balance.endswith(f" + made elsewhere {done.account.elsewhere}")
        assert done.account.elsewhere == books(run)[3]
        assert unfinished(require_run(run), done.account) is None
    assert sum(books(run)[3] for run in rest) == made
    assert sum(books(run)[0] for run in rest) == PROMPTS
    merged = merge([*shards, *rest], tmp_path / "merged")
    assert (merged.repeated, merged.unfinished, merged.not_here) == (0, (), 0)
    assert content(tmp_path / "merged") == content(tmp_path / "whole")
    assert books(tmp_path / "merged") == books(tmp_path / "whole") == (PROMPTS, 78, 2, 0)
    account = run_account(tmp_path / "merged", load_scores(tmp_path / "merged", dry=True))
    assert unfinished(require_run(tmp_path / "merged"), account) is None


def test_what_is_missing_is_counted(make: Maker, tmp_path: Path) -> None:
    """A rest that was forgotten, rows left to a run that was forgotten, and a rest taken over."""
    first, second = halves(make, tmp_path)
    rest = [tmp_path / f"rest{which}" for which in (1, 2)]
    for which, run in enumerate(rest, 1):
        make(run, f"{which}/2", first, second, answers=100 if which == 2 else 10**6)
    third = tmp_path / "third"
    make(third, None, first, second, *rest)

    def missing(*runs: Path) -> tuple[Merged, int]:
        found = merge(runs, tmp_path / "out", overwrite=True)
        account = run_account(tmp_path / "out", load_scores(tmp_path / "out", dry=True))
        return found, 2 * PROMPTS - account.done

    found, lost = missing(first, second, rest[0])
    assert lost == books(third)[1] + books(rest[1])[1] + books(third)[2] + books(rest[1])[2]
    assert [path for path, _ in found.unfinished] == [second]
    assert require_run(tmp_path / "out")["prompts"] == 2 * PROMPTS
    found, lost = missing(first, *rest, third)
    assert (lost, found.not_here, found.unfinished) == (books(second)[1], books(second)[1], ())
    assert require_run(tmp_path / "out")["prompts"] == 2 * PROMPTS
    found, lost = missing(first, second, *rest, third)
    assert (lost, found.not_here, found.repeated, found.unfinished) == (0, 0, 0, ())
    assert require_run(tmp_path / "out")["prompts"] == 2 * PROMPTS


def test_a_continued_run_keeps_what_it_left(make: Maker, tmp_path: Path) -> None:
    """Without the option, and without the other runs; with it, what came there since is left."""
    shards = halves(make, tmp_path)
    rest = tmp_path / "rest"
    assert make(rest, None, *shards, answers=60) is None
    left = books(rest)[3]
    assert left == sum(len(rows_of(shard)) for shard in shards)
    make(shards[0], "1/2", answers=60)
    assert make(rest, None, *shards, answers=0) is None
    assert books(rest)[3] > left
    moved = shards[0].rename(tmp_path / "moved")
    done = make(rest)
    assert done and done.account.elsewhere == books(rest)[3] > left
    merged = merge([rest, moved, shards[1]], tmp_path / "merged")
    assert merged.not_here == 0 and not merged.unfinished
    assert books(tmp_path / "merged") == (PROMPTS, 78, 2, 0)
    engines = make.engines
    assert make(rest, None, moved), "a finished run starts no engine"
    assert make.engines == engines
    file, keys = rest / ELSEWHERE_FILE, read_elsewhere(rest)
    at = file.read_bytes().index(keys.tobytes())
    for damaged in (flipped(file, at), flipped(file, at + keys.nbytes - 1), b"\x93NUMPY", b""):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=r"elsewhere\.npz: not readable; delete it"):
            make(rest)
    (rest / ELSEWHERE_FILE).unlink()
    assert make(rest, None, moved), "the advice, followed"


def flipped(file: Path, at: int) -> bytes:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    return bytes(content)


def test_what_cannot_be_left_is_one_line_before_the_engine(make: Maker, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    make(run)
    make.engines = 0
    with pytest.raises(RunError, match="given more than once"):
        make(out, None, run, tmp_path / "." / "run")
    with pytest.raises(RunError, match="cannot leave out its own rows"):
        make(run, None, run)
    with pytest.raises(RunError, match=r"no such directory"):
        make(out, None, tmp_path / "none")
    with pytest.raises(RunError, match=r"run: --except .* seed is 0 there and 1 here"):
        make(out, None, run, seed=1)
    facts = json.loads((run / "run.json").read_text())
    facts["identity"]["model"] = "0" * 16
    write_json(run / "run.json", facts)
    with pytest.raises(RunError, match=r"run: --except .*; model is another: "):
        make(out, None, run)
    assert make.engines == 0 and not out.exists()


def test_another_day_takes_the_date_of_the_run_it_goes_on_with(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And rows of another engine are refused when the engine is there, before any row."""
    run, out = tmp_path / "run", tmp_path / "out"
    monkeypatch.setattr(generating, "today", lambda: "2026-01-01")
    assert make(run, answers=60) is None
    monkeypatch.setattr(generating, "today", lambda: "2026-01-02")
    assert make(out, None, run)
    assert require_run(out)["date"] == "2026-01-01"
    facts = json.loads((run / "run.json").read_text())
    facts["engine"]["device"] = "cuda"
    write_json(run / "run.json", facts)
    with pytest.raises(RunError, match="engine device is cuda there and cpu here"):
        make(out, None, run)
    with pytest.raises(RunError, match="engine device cuda, this is cpu"):
        make(tmp_path / "other", None, run)
    assert not rows_of(tmp_path / "other")


def test_the_command_has_it(cli: Cli, source: Path, make: Maker, tmp_path: Path) -> None:
    make(tmp_path / "run", "1/2")
    options = ["--samples=2", "--set=engine.dtype=float32", f"--model={policy_dir()}", "--json"]
    done = cli("generate", source, "--out", tmp_path / "b", "--except", tmp_path / "run", *options)
    assert done.exit_code in (0, 3), done.output
    found = json.loads(done.stdout)
    assert found["elsewhere"] == len(rows_of(tmp_path / "run")) > 0
    assert found["prompts"] * 2 == found["rows"] + found["failed"] + found["elsewhere"]
