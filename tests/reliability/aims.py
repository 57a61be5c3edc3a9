"""When to kill: `command` runs until something happens in its directory, then gets SIGKILL.

An aim is looked for without pause, so that moments of a millisecond (a rename, a file that is
replaced) are hit, too. A process that ends before its aim was not killed, and is not counted.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 1200.0
"""Seconds after which an aim that never came is given up."""

Aim = Callable[[Path, random.Random], Callable[[], bool]]
"""For a directory: a function that says whether the moment has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """How one attempt to kill ended."""

    aim: str
    killed: bool


def exists(name: str) -> Aim:
    """The moment at which a file or directory is made or changed; an earlier one does not count."""

    def aim(folder: Path, rng: random.Random) -> Callable[[], bool]:
        path, since = folder / name, time.time_ns()

        def reached() -> bool:
            try:
                return path.stat().st_ctime_ns > since
            except OSError:
                return False

        return reached

    return aim


def grown(pattern: str, most_later: float = 0.0) -> Aim:
    """The moment at which files grew, or up to `most_later` seconds after it."""

    def aim(folder: Path, rng: random.Random) -> Callable[[], bool]:
        before, later = size_of(folder, pattern), rng.uniform(0, most_later)
        came: list[float] = []

        def reached() -> bool:
            if not came and size_of(folder, pattern) > before:
                came.append(time.monotonic())
            return bool(came) and time.monotonic() - came[0] >= later

        return reached

    return aim


def within(seconds: float) -> Aim:
    """Any moment of the first seconds: imports, loading, the first rows."""

    def aim(folder: Path, rng: random.Random) -> Callable[[], bool]:
        moment = time.monotonic() + rng.uniform(0.3, seconds)
        return lambda: time.monotonic() >= moment

    return aim


GENERATE: dict[str, Aim] = {
    "journal write": grown("rows/*.jsonl"),
    "a moment after a journal write": grown("rows/*.jsonl", 0.4),
    "side file write": grown("rows/*.scores"),
    "run.json replaced": exists(".run.json.tmp"),
    "filter begins": exists(".pairs.new"),
    "Parquet write": exists(".pairs.new/train.parquet"),
    "filter.json write": exists(".pairs.new/filter.json"),
    "pairs swapped": exists(".pairs.old"),
    "anywhere": within(15.0),
}

TRAIN: dict[str, Aim] = {
    "checkpoint begins": exists("checkpoints/checkpoint-2"),
    "checkpoint: weights": exists("checkpoints/checkpoint-2/model.safetensors"),
    "checkpoint: optimizer": exists("checkpoints/checkpoint-4/optimizer.pt"),
    "checkpoint: state": exists("checkpoints/checkpoint-4/trainer_state.json"),
    "checkpoint marked whole": exists("checkpoints/checkpoint-4/complete.json"),
    "train.json replaced": exists(".train.json.tmp"),
    "metrics write": grown("metrics.jsonl"),
    "model published": exists(".model"),
    "anywhere": within(12.0),
}


def size_of(folder: Path, pattern: str) -> int:
    """Bytes of the files of a pattern."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def shoot(arguments: Sequence[str], folder: Path, name: str, aim: Aim, rng: random.Random) -> Shot:
    """Start a command, and kill it when its aim is reached."""
    reached = aim(folder, rng)
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not reached():
        assert time.monotonic() < deadline, f"{name} never came"
        time.sleep(0.0001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return Shot(aim=name, killed=process.returncode == -signal.SIGKILL)
