"""A round's training in a process of its own, whose memory is free when it ends.

The process ends with this one, even when this one is killed (`core.process_guard`).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import orjson

from sso_data.config.iteration import IterateConfig
from sso_data.config.training import TrainConfig
from sso_data.core.errors import RunError, SsoDataError
from sso_data.core.process_guard import PARENT_DIED
from sso_data.engines.devices import usable_gpus
from sso_data.runs.files import locked_file, make_dir, write_atomic
from sso_data.runs.jsonl import read_lines
from sso_data.training.state import METRICS, check_model, read_training

_LAST_LINES = 4
"""Logged steps at the end over which a training's numbers are averaged."""
_SHOWN = ("loss", "weight", "logp_chosen", "logp_rejected", "accuracy", "margin")
_SHOWN_PREFIXES = ("accuracy_", "margin_")
_ASKED_SECONDS = 60.0
_LAUNCHER_GRACE = 10.0
_LOCK_SECONDS = 15.0


class RoundTrainingError(SsoDataError):
    """A round's training ended without a model; its own line says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training: a model directory `out` from the preference rows of `source`.

    `threads` limits the CPU threads; `launcher` is put before `-m sso_data`.
    """

    source: Path
    out: Path
    config: TrainConfig
    launcher: tuple[str, ...] = ()
    threads: int | None = None


Train = Callable[[Training], None]
"""Trains to the end, or goes on where it was interrupted; raises SsoDataError."""


def launcher_of(config: IterateConfig, training: TrainConfig) -> tuple[str, ...]:
    """Return what starts a training: as configured, or with a process for each visible GPU.

    There are as many as deal out a step's rows evenly; the trained model is the same whatever
    their number, but for rounding.
    """
    if config.launcher != "auto":
        return config.launcher
    gpus = len(usable_gpus(config.generate.engine, "transformers", os.environ))
    rows = training.optim.batch_size
    processes = max((n for n in range(1, gpus + 1) if rows % n == 0), default=1)
    if processes == 1:
        return ()
    several = ("--nproc-per-node", str(processes), "--rdzv-backend", "c10d")
    alone = ("--rdzv-endpoint", "localhost:0")  # a free port
    return (sys.executable, "-m", "torch.distributed.run", *several, *alone)


def train_in_a_process(training: Training) -> None:
    """Run `sso-data train`, whose output goes to this process's stderr; see `Train`.

    Raises RoundTrainingError where it ends without a model.
    """
    file = training.out.parent / f"{training.out.name}.yaml"
    make_dir(file.parent)
    write_atomic(file, training.config.model_dump_json().encode())
    _wait_for_the_lock(training.out)
    sys.stderr.flush()
    guard = (sys.executable, "-m", "sso_data.core.process_guard", str(os.getpid()))
    grace = _LAUNCHER_GRACE if training.launcher else 0.0
    words = ("-m", "sso_data", "train", str(training.source), "--out", str(training.out))
    threads = {} if training.threads is None else {"OMP_NUM_THREADS": str(training.threads)}
    process = subprocess.Popen(
        [
            *(*guard, str(grace)),
            *(training.launcher or (sys.executable,)),
            *(*words, "--config", str(file)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=2,
        env=os.environ | threads,
        process_group=0,  # so that Ctrl-C reaches it once, from here
    )
    try:
        code = process.wait()
    except BaseException as reason:
        _ask_to_end(process, signal.SIGINT if isinstance(reason, KeyboardInterrupt) else None)
        raise
    if code:
        raise RoundTrainingError(
            f"{training.out}: its training failed (exit code {code}; its error is above); "
            "correct it and run the same command again to continue"
        )


def _ask_to_end(process: "subprocess.Popen[bytes]", number: int | None) -> None:
    """Pass the signal on; a training that does not end in time is ended."""
    process.send_signal(number or signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_ASKED_SECONDS)
        return
    process.send_signal(PARENT_DIED)
    process.wait()


def _wait_for_the_lock(out: Path) -> None:
    """Wait until a training whose parent was killed has let go of its directory."""
    until = time.monotonic() + _LOCK_SECONDS
    while out.is_dir() and time.monotonic() < until:
        with locked_file(out / ".model.lock") as is_free:
            if is_free:
                return
        time.sleep(0.1)


def is_trained(out: Path) -> bool:
    """True if there is a finished training in `out`; RunError where it is not readable."""
    manifest = read_training(out)
    return manifest is not None and "finished" in manifest


def training_facts(out: Path) -> dict[str, Any]:
    """The findings of a finished training; RunError where there is none.

    `numbers` are means over its last logged steps.
    """
    manifest = read_training(out)
    if manifest is None or "finished" not in manifest:
        raise RunError(f"{out}: its training has not finished; run the same command again")
    check_model(out, manifest, METRICS)
    lines = [orjson.loads(line) for _, line in read_lines(out / METRICS)]
    logs = [line for line in lines if "loss" in line][-_LAST_LINES:]
    names = [
        name
        for name in (logs[-1] if logs else {})
        if name in _SHOWN or name.startswith(_SHOWN_PREFIXES)
    ]
    numbers = {
        name: round(fmean(values), 6)
        for name in names
        if (values := [log[name] for log in logs if log.get(name) is not None])
    }
    return {
        "rows": manifest["data"]["training"],
        "data": manifest["data"]["fingerprint"],
        "from": manifest["model"]["fingerprint"],
        "references": manifest["references"].get("source"),
        "steps": manifest["steps"],
        "stopped": manifest["stopped"],
        "comparison": manifest.get("comparison"),
        "numbers": numbers,
    }
