"""`iterate` killed twice on the way ends in the tables of an iteration that was left alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.iteration import IterateConfig
from sso_data.config.loading import validated
from sso_data.core.trees import deep_merge
from sso_data.iteration.table import shown
from tests.iteration.conftest import TINY, lines_of, run, write_prompts
from tests.iteration.test_processes import children_of, linux
from tests.waiting import bytes_under, until

PROMPTS, ROUNDS = 8, 2
CHANGES: dict[str, Any] = {
    "rounds": ROUNDS,
    "slices": {"prompts": PROMPTS},
    "generate": {"engine": {"isolation": "subprocess"}},
    "train": {"optim": {"max_steps": 4}, "checkpoints": {"every": 1}},
}


def killed_when(words: list[str], out: Path, is_there: Callable[[int], bool]) -> None:
    """Start the command, and SIGKILL it as soon as something is so of its process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as process:
        until(
            lambda: process.poll() is not None or is_there(process.pid),
            progress=lambda: bytes_under(out),
        )
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        alive = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in alive))


def lines_in(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def same(found: Any, expected: Any) -> bool:
    """Equal, but for the last bits of what is computed in batches of another shape.

    They may turn a row that lies on a limit of the filter.
    """
    if type(expected) is int:
        return type(found) is int and abs(found - expected) <= 1
    if isinstance(expected, float):
        return bool(found == pytest.approx(expected, rel=1e-3, abs=1e-3))
    return bool(found == expected)


class ProcessWatch:
    """The processes under the command, whenever it is looked at, until a training has steps."""

    def __init__(self, metrics: Path) -> None:
        self._metrics = metrics
        self.seen: list[dict[int, str]] = []

    def __call__(self, pid: int) -> bool:
        self.seen.append(children_of(pid))
        return lines_in(self._metrics) >= 2

    def check(self) -> None:
        """There were engines and trainings, and never both."""
        engines = [any("spawn_main" in word for word in one.values()) for one in self.seen]
        trainings = [any(" train " in word for word in one.values()) for one in self.seen]
        assert any(engines) and any(trainings)
        assert not any(a and b for a, b in zip(engines, trainings, strict=True))


@linux
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(7200)
def test_killed_in_generating_and_in_training(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", PROMPTS * ROUNDS)
    tree = deep_merge(TINY, CHANGES)
    (tmp_path / "tiny.yaml").write_text(json.dumps(tree))
    out = tmp_path / "killed"
    words = [str(prompts), "--out", str(out), "--config", str(tmp_path / "tiny.yaml")]
    words = [sys.executable, "-m", "sso_data", "iterate", *words]
    journal = out / "round-1" / "run" / "rows" / "00000.jsonl"
    killed_when(words, out, lambda _: lines_in(journal) >= 2)
    watch = ProcessWatch(out / "round-2" / "model" / "metrics.jsonl")
    killed_when(words, out, watch)
    watch.check()
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    assert "continuing after step" in done.stderr, "the training went on from a checkpoint"
    assert "round 1" not in done.stderr, "what was finished is not done again"

    inline = deep_merge(tree, {"prompts": str(prompts), "generate": TINY["generate"]})
    whole = run(validated(IterateConfig, inline), tmp_path / "whole")
    lines = lines_of(out / "rounds.jsonl")
    assert [name for name, _ in shown(lines)] == [name for name, _ in shown(whole.lines)]
    for found, expected in zip(lines, whole.lines, strict=True):
        differ = {key for key in expected if not same(found[key], expected[key])}
        assert differ <= {"policy"}, "other weights, by the last bits"
