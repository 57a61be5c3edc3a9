"""A second signal ends the process at once, and the run is as sound as after the first."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.reliability.test_engine_deaths import engine_of, write_prompts
from tests.reliability.test_kill import command, journal_size, rows_of, start


def begun(prompts: Path, run: Path, **kind: object) -> subprocess.Popen[str]:
    """A `generate` that has written its first row."""
    process = subprocess.Popen(
        command("transformers", prompts, run), stderr=subprocess.PIPE, text=True, **kind
    )  # type: ignore[call-overload]
    deadline = time.monotonic() + 120
    while journal_size(run) == 0 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert journal_size(run) > 0
    found: subprocess.Popen[str] = process
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """The engine is stopped, so that ending in order would take the five seconds of grace."""
    prompts, run = write_prompts(tmp_path / "prompts.jsonl", 60), tmp_path / "run"
    process = begun(prompts, run)
    engine = engine_of(process.pid)
    assert engine is not None
    os.kill(engine, signal.SIGSTOP)
    process.send_signal(number)
    time.sleep(1.0)
    assert process.poll() is None, "the first signal ends it in order, and that takes a while"
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 2
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    before = rows_of(run)
    assert before
    assert start(command("transformers", prompts, run)).wait() == 0
    after = rows_of(run)
    assert len(after) == 60 and all(after[name] == row for name, row in before.items())


def test_a_lost_terminal_is_an_end_in_order(tmp_path: Path) -> None:
    prompts, run = write_prompts(tmp_path / "prompts.jsonl", 200), tmp_path / "run"
    process = begun(prompts, run)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 129
    assert "run the same command again to continue" in errors and "terminated" in errors


def test_nohup_is_respected(tmp_path: Path) -> None:
    """A run that was started to outlive its terminal does."""
    prompts, run = write_prompts(tmp_path / "prompts.jsonl", 40), tmp_path / "run"
    process = begun(prompts, run, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert len(rows_of(run)) == 40
