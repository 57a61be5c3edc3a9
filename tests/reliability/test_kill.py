"""SIGKILL at random and at chosen moments, with real engines: the same command goes on.

vLLM's tokens do not depend on what else is in the batch; those of the transformers engine depend on
it by the last bits of a logit, so that now and then a draw on a boundary falls the other way.
`make test` kills twice, `make chaos` a hundred times.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from sso_data.world import catalogue_dir, policy_dir, queries
from tests.once import once
from tests.reliability.aims import GENERATE, TRAIN, shoot
from tests.reliability.chaos import CHAOS
from tests.reliability.flow import lines_of
from tests.training.command.conftest import run as run  # a fixture: rows to train on
from tests.training.command.test_resume import command as train_command
from tests.training.command.test_train import same as same_weights
from tests.waiting import CHILD_SECONDS, until

KILLS = {"transformers": 55, "vllm": 30} if CHAOS else {"transformers": 2, "vllm": 1}
TRAIN_KILLS = 20
ROUND = 11
"""Kills of one run before it may finish; then a new one begins."""
PROMPTS = 120 if CHAOS else 40
AIMS = tuple(GENERATE) if CHAOS else ("journal write", "Parquet write")
IDENTITY = ("prompt_hash_good", "prompt_hash_bad", "seed_plain", "principles", "prompt", "model")
DRAWN = ("chosen_token_ids", "rejected_token_ids", "original_token_ids")


def command(engine: str, prompts: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "sso_data", "generate", str(prompts), "--out", str(out)),
        *("--model", str(policy_dir()), "--principles", str(catalogue_dir())),
        *("--engine", engine, "--set", "engine.dtype=float32", "--set", "engine.threads=1"),
        *("--set", "engine.max_num_seqs=12", "--set", "sampling.max_tokens=64"),
        *("--set", "engine.max_model_len=1024"),
    ]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def left_alone(factory: pytest.TempPathFactory, engine: str, count: int) -> tuple[Path, Path]:
    """A file of prompts, and a run of them that nobody disturbed; both are shared."""

    def make(folder: Path) -> None:
        lines = [json.dumps({"prompt": query}) + "\n" for query in queries(count, seed=3)]
        (folder / "prompts.jsonl").write_text("".join(lines))
        assert start(command(engine, folder / "prompts.jsonl", folder / "run")).wait() == 0

    folder = once(factory, f"whole-{engine}-{count}", make)
    return folder / "prompts.jsonl", folder / "run"


def rows_of(run: Path) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for part in sorted((run / "rows").glob("*.jsonl")):
        for line in part.read_text().splitlines():
            row = json.loads(line)
            assert row["id"] not in rows, "a row stands twice"
            rows[row["id"]] = row
    return rows


def is_same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """The same ids were drawn, and every log-prob agrees to a thousandth of a nat."""
    logps = [key for key in expected if key.startswith("logp_")]
    return all(found[key] == expected[key] for key in DRAWN) and all(
        found[key] == pytest.approx(expected[key], abs=1e-3) for key in logps
    )


def journal_size(run: Path) -> int:
    return sum(part.stat().st_size for part in (run / "rows").glob("*.jsonl"))


def kills(count: int, rng: random.Random) -> list[str]:
    """What to aim at: each aim in turn, journal writes first, as a finished run writes no more."""
    names = list(islice(cycle(AIMS), count))
    late = ("filter begins", "Parquet write", "filter.json write", "pairs swapped")
    early = [name for name in names if name not in late]
    if CHAOS:
        rng.shuffle(early)
        early.sort(key=lambda name: name != "run.json replaced")
    return early + [name for name in names if name in late]


def killed_run(
    arguments: Callable[[Path], list[str]], run: Path, names: list[str], rng: random.Random
) -> Counter[str]:
    """A run that was killed at each of these moments, and then ended; how often that was so."""
    hits: Counter[str] = Counter()
    for name in names:
        shot = shoot(arguments(run), run, name, GENERATE[name], rng)
        hits[name] += shot.killed
    done = subprocess.run([*arguments(run), "--json"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert (found["prompts"], found["rows"], found["failed"]) == (PROMPTS, PROMPTS, 0)
    assert not list(run.glob(".pairs.*/")) and not (run / "rows" / "00001.jsonl").exists()
    return hits


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    ["transformers", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.long])],
)
@pytest.mark.timeout(6 * 3600 if CHAOS else 3600)
def test_killed_again_and_again_it_ends_like_an_uninterrupted_run(
    engine: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prompts, whole = left_alone(tmp_path_factory, engine, PROMPTS)
    expected, rng = rows_of(whole), random.Random(engine)
    hits: Counter[str] = Counter()
    runs = turned = 0
    while hits.total() < KILLS[engine]:
        broken = tmp_path / f"broken-{runs}"
        names = kills(min(ROUND, KILLS[engine] - hits.total()), rng)
        hits += killed_run(lambda run: command(engine, prompts, run), broken, names, rng)
        found = rows_of(broken)
        assert found.keys() == expected.keys() and len(found) == PROMPTS
        assert all(found[n][key] == row[key] for n, row in expected.items() for key in IDENTITY)
        others = sum(not is_same(found[name], row) for name, row in expected.items())
        assert others <= (PROMPTS // 20 if engine == "transformers" else 0)
        if not others:
            assert kept(broken) == kept(whole)
        runs, turned = runs + 1, turned + others
    print(f"{engine}: {hits.total()} kills of {runs} runs, {dict(hits)}; {turned} rows differ")


def kept(run: Path) -> set[str]:
    """The ids of a run's pairs, each of them once."""
    ids = [json.loads(line)["id"] for line in lines_of(run / "pairs" / "train.jsonl")]
    assert len(ids) == len(set(ids))
    return set(ids)


@pytest.mark.slow
@pytest.mark.skipif(not CHAOS, reason="tests/training/command/test_resume.py kills a few times")
@pytest.mark.timeout(2 * 3600)
def test_a_training_killed_again_and_again_ends_in_the_same_weights(
    run: Path, tmp_path: Path
) -> None:
    whole, rng = tmp_path / "whole", random.Random(0)
    assert start(train_command(run, whole)).wait() == 0
    hits: Counter[str] = Counter()
    trainings = 0
    while hits.total() < TRAIN_KILLS:
        out = tmp_path / f"broken-{trainings}"
        for name, aim in islice(TRAIN.items(), TRAIN_KILLS - hits.total()):
            hits[name] += shoot(train_command(run, out), out, name, aim, rng).killed
        assert start(train_command(run, out)).wait() == 0
        same_weights(whole, out)
        trainings += 1
    print(f"train: {hits.total()} kills of {trainings} trainings, {dict(hits)}; weights bit-equal")


def test_a_dead_parent_takes_its_engine_with_it(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": queries(1, seed=3)[0]}) + "\n")
    arguments = [
        *command("transformers", prompts, tmp_path / "run"),
        "--set",
        "sampling.max_tokens=900",
    ]
    process = start(arguments)
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: listing.read_text().split())
    children = [int(pid) for pid in listing.read_text().split()]
    process.kill()
    process.wait()
    until(lambda: not any(_alive(pid) for pid in children))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_signals_say_how_to_continue(
    tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    prompts, run = tmp_path / "prompts.jsonl", tmp_path / "run"
    prompts.write_text("".join(json.dumps({"prompt": q}) + "\n" for q in queries(200, seed=3)))
    process = subprocess.Popen(
        command("transformers", prompts, run), stderr=subprocess.PIPE, text=True, env=os.environ
    )
    until(lambda: journal_size(run) or process.poll() is not None)
    process.send_signal(number)
    _, errors = process.communicate(timeout=CHILD_SECONDS)
    assert process.returncode == code, errors
    assert word in errors
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    assert rows_of(run)
