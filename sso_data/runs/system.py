"""The operating system's calls that change files: the package makes each of them here only.

A call that a signal interrupted is made again: Python does so for some of them, not for all. Tests
put something in the place of `os` that fails, or that stops the world after the k-th call.
"""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _again(call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    while True:
        with suppress(InterruptedError):
            return call(*args, **kwargs)


def open_file(path: Path, flags: int) -> int:
    """A descriptor; a file that is made belongs to its owner and can be read by all."""
    return _again(os.open, path, flags, 0o644)


def size_of(descriptor: int) -> int:
    """How many bytes an open file has."""
    return os.fstat(descriptor).st_size


def write(descriptor: int, data: bytes | memoryview) -> int:
    """Write a part of `data`, perhaps not all of it; returns how many bytes."""
    return _again(os.write, descriptor, data)


def truncate(descriptor: int, size: int) -> None:
    """Cut an open file to `size` bytes."""
    _again(os.ftruncate, descriptor, size)


def sync(descriptor: int) -> None:
    """Make an open file, or the names in an open directory, survive a power failure."""
    _again(os.fsync, descriptor)


def close(descriptor: int) -> None:
    """Close; an interrupted close has closed all the same, and is not made again."""
    with suppress(InterruptedError):
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Give `old` the name `new`; a file that has this name already is replaced."""
    _again(os.replace, old, new)


def make_dir(path: Path) -> None:
    """Make one directory."""
    _again(os.mkdir, path)


def remove_file(path: Path) -> None:
    """Delete a file or a link."""
    _again(os.unlink, path)


def remove_dir(path: Path) -> None:
    """Delete an empty directory."""
    _again(os.rmdir, path)


def set_mode(path: Path, mode: int) -> None:
    """Say who may read and write a file."""
    _again(os.chmod, path, mode)


def lock(descriptor: int) -> None:
    """Hold an open file alone until it is closed or the process ends; BlockingIOError if held."""
    _again(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
