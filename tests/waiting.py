"""Waiting for what another process does, on a machine of any load."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

STALLED_SECONDS = 300.0
CHILD_SECONDS = 1200.0
"""The longest that a child process may take to end, on a machine of any load."""


def until(
    found: Callable[[], object],
    seconds: float = STALLED_SECONDS,
    progress: Callable[[], object] = lambda: None,
    every: float = 0.01,
) -> None:
    """Wait until something is so; AssertionError when `progress` is the same for `seconds`."""
    seen, end = progress(), time.monotonic() + seconds
    while not found():
        if (now := progress()) != seen:
            seen, end = now, time.monotonic() + seconds
        assert time.monotonic() < end, f"nothing happened for {seconds:.0f} seconds"
        time.sleep(every)


def bytes_under(folder: Path) -> int:
    """The size of all files under a folder: it grows while a command works there."""
    total = 0
    for place, _, names in os.walk(folder):  # which passes over directories that are gone
        for name in names:
            with suppress(OSError):  # it was a temporary one
                total += Path(place, name).stat().st_size
    return total
