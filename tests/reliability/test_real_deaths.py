"""The exhaustive harness checked against the world: real SIGKILLs, and the kernel's own failures.

`children.py` does the work in forked children. CI takes a few of the calls, `make chaos` all.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.chaos import CHAOS

KILL_AT = range(1, 300) if CHAOS else range(3, 190, 17)
SYSCALLS = {"write": 60, "fsync": 40, "rename": 6, "ftruncate": 2, "unlink": 1, "mkdir": 3}
"""System calls of a run from its start, and how many of each it surely makes."""
WHAT = ("error=ENOSPC", "error=EIO", "error=EINTR", "error=EDQUOT", "signal=SIGKILL")
ROOT = Path(__file__).parents[2]


def children(mode: str, folder: Path, *words: str) -> dict[str, Any]:
    """What `children.py` found out; skips where it says that ptrace does not work."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.children", mode, str(folder), *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "strace cannot attach" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not CHAOS, reason="forks beside native threads, which may abort: make chaos")
def test_sigkill_after_a_call_ends_like_an_uninterrupted_run(tmp_path: Path) -> None:
    numbers = [] if CHAOS else [str(k) for k in KILL_AT]
    found = children("killed", tmp_path, *numbers)
    print(f"{found['deaths']} real SIGKILLs, each after one of {found['calls']} calls")
    assert found["calls"] >= 180
    assert found["deaths"] == (found["calls"] if CHAOS else len(KILL_AT))


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_the_kernel_fails_each_kind_of_call(tmp_path: Path) -> None:
    injections = [
        f"{call}:{what}:when={k}"
        for call, most in SYSCALLS.items()
        for place, what in enumerate(WHAT)
        for k in (range(1, most + 1) if CHAOS else [1 + (7 * place + 3) % most])
    ]
    found = children("traced", tmp_path, *injections)
    print(f"strace: {found}")
    assert found["injections"] == len(injections)
    assert found["killed"] == len(injections) // len(WHAT)
    assert found["refused"] > 0
