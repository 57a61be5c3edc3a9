"""Small real disks that fill up, and directories of others: what a kernel refuses by itself."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.injector import Os

NOBODY = 65534
FILLER = "filler"


class SmallDisk:
    """A tmpfs of a few KiB, mounted at `path`."""

    def __init__(self, path: Path, options: str) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        self._mount("-t", "tmpfs", "-o", options, "tmpfs")

    def remount(self, options: str) -> None:
        self._mount("-o", f"remount,{options}")

    def close(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)

    def _mount(self, *options: str) -> None:
        done = subprocess.run(["mount", *options, str(self.path)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")


@contextmanager
def small_disk(path: Path, options: str) -> Iterator[SmallDisk]:
    """A tmpfs that is gone with the context; skips where only root, or nobody, may mount."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount a tmpfs")
    disk = SmallDisk(path, options)
    try:
        yield disk
    finally:
        disk.close()


class FullFrom(Os):
    """Fills the disk at `root` just before the first byte goes to a file of this name."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__()
        self._root, self._name = root, name
        self.filled = False

    def around(self, name: str, real: Callable[..., Any], *args: Any) -> Any:
        if name == "write" and not self.filled:
            path = Path(f"/proc/self/fd/{args[0]}").readlink()
            if path.name == self._name:
                self.filled = True
                fill(self._root)
        return real(*args)


def fill(root: Path) -> None:
    """Take all the space that is left."""
    with suppress(OSError), (root / FILLER).open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes (EFBIG; Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_nobody(*roots: Path) -> Iterator[None]:
    """This process as a user without privileges, to whom everything below `roots` belongs."""
    if os.geteuid():
        yield
        return
    for root in roots:
        for path in [root, *root.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
