"""A second signal ends the process at once, and the run is as sound as after the first."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.chaos import CHAOS
from tests.reliability.test_engine_deaths import engine_of, write_prompts
from tests.reliability.test_kill import command, journal_size, rows_of, start
from tests.waiting import CHILD_SECONDS, until

PATIENT = """
import sys
from sso_data.cli import main
from sso_data.engines import child
child.GRACE_SECONDS = 1e4
sys.argv[0] = "sso-data"
main()
"""


def begun(prompts: Path, run: Path, *, patient: bool = False, **kind: Any) -> subprocess.Popen[str]:
    """A `generate` that has written its first row; with `patient` it waits long for its engine."""
    words = command("transformers", prompts, run)
    if patient:
        words = [sys.executable, "-c", PATIENT, *words[3:]]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, **kind)
    until(lambda: journal_size(run) or process.poll() is not None)
    assert journal_size(run) > 0
    return process


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_a_second_signal_leaves_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """The engine is stopped, and ending in order would wait for it for hours."""
    prompts, run = write_prompts(tmp_path / "prompts.jsonl", 24), tmp_path / "run"
    process = begun(prompts, run, patient=True)
    engine = engine_of(process.pid)
    assert engine is not None
    os.kill(engine, signal.SIGSTOP)
    process.send_signal(number)
    time.sleep(1.0)
    assert process.poll() is None, "the first signal ends it in order, and that takes a while"
    while process.poll() is None:  # two that come before the process runs count as one
        process.send_signal(number)
        time.sleep(1.0)
    _, errors = process.communicate(timeout=CHILD_SECONDS)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    before = rows_of(run)
    assert before
    if number == signal.SIGTERM and not CHAOS:
        return  # what is left behind is the same; `make chaos` continues it as well
    assert start(command("transformers", prompts, run)).wait() == 0
    after = rows_of(run)
    assert len(after) == 24 and all(after[name] == row for name, row in before.items())


def test_a_lost_terminal_is_an_end_in_order(tmp_path: Path) -> None:
    prompts, run = write_prompts(tmp_path / "prompts.jsonl", 200), tmp_path / "run"
    process = begun(prompts, run)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=CHILD_SECONDS)
    assert process.returncode == 129
    assert "run the same command again to continue" in errors and "terminated" in errors


def test_nohup_is_respected(tmp_path: Path) -> None:
    """A run that was started to outlive its terminal does."""
    prompts, run = write_prompts(tmp_path / "prompts.jsonl", 16), tmp_path / "run"
    process = begun(prompts, run, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=CHILD_SECONDS)
    assert process.returncode == 0, errors
    assert len(rows_of(run)) == 16
