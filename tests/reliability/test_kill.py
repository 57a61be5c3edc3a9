"""SIGKILL at random moments, with real engines: the same command continues to the same content.

vLLM's tokens do not depend on what else is in the batch; those of the transformers engine depend on
it by the last bits of a logit, so that now and then a draw on a boundary falls the other way."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sso_data.world import catalogue_dir, policy_dir, queries

KILLS = 3
PROMPTS = 40
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


def kill_when_it_writes(process: subprocess.Popen[bytes], run: Path, delay: float) -> None:
    """SIGKILL `delay` seconds after the journal grew."""
    before = journal_size(run)
    deadline = time.monotonic() + 120
    while process.poll() is None and journal_size(run) == before and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_killed_again_and_again_it_ends_like_an_uninterrupted_run(
    engine: str, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": q}) + "\n" for q in queries(PROMPTS, seed=3)))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(command(engine, prompts, whole)).wait() == 0

    rng = random.Random(engine)
    killed = 0
    for _ in range(KILLS):
        process = start(command(engine, prompts, broken))
        kill_when_it_writes(process, broken, rng.uniform(0, 0.3))
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 2, "the runs ended before they were killed"
    assert start(command(engine, prompts, broken)).wait() == 0

    expected, found = rows_of(whole), rows_of(broken)
    assert found.keys() == expected.keys()
    assert len(found) == PROMPTS
    same = [name for name, row in expected.items() if is_same(found[name], row)]
    assert len(same) >= PROMPTS - (2 if engine == "transformers" else 0)
    for name, row in expected.items():
        for key in IDENTITY:
            assert found[name][key] == row[key], (name, key)


def test_a_dead_parent_takes_its_engine_with_it(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": queries(1, seed=3)[0]}) + "\n")
    arguments = [
        *command("transformers", prompts, tmp_path / "run"),
        "--set",
        "sampling.max_tokens=900",
    ]
    process = start(arguments)
    deadline = time.monotonic() + 60
    children: list[int] = []
    while not children and time.monotonic() < deadline:
        listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = [int(pid) for pid in listing.read_text().split()] if listing.exists() else []
        time.sleep(0.05)
    assert children
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in children)


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
    deadline = time.monotonic() + 120
    while journal_size(run) == 0 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert word in errors
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    assert rows_of(run)
