"""Every byte that reaches a run directory: appends, atomic writes, directory swaps.

The operating system's calls stand at the top of this module and nowhere else in the package, so
that a test can make each of them fail. A failed call becomes a RunError of one line.
"""

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sso_data.errors import RunError

_REMEDY = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file-size limit is reached; raise it (ulimit -f) and run the command again",
    errno.EROFS: "the file system is read-only; choose another output directory",
    errno.EACCES: "no permission to write there; choose another output directory",
    errno.EPERM: "no permission to write there; choose another output directory",
    errno.ENOTDIR: "a part of the path is a file, not a directory; choose another output directory",
}

_NEW_FILE_BUFFER = 1 << 20


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn an OSError into a RunError that names `path` and a remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDY.get(error.errno or 0, f"{error.strerror or error}; nothing is corrupted")
        raise RunError(f"{path}: cannot write: {remedy}") from error


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    """All of `data`: os.write may write less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_file(file: Path) -> None:
    """Make the content of `file`, which others wrote, durable."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_dir(directory: Path) -> None:
    """Make names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_dir(directory: Path) -> None:
    """Create `directory` and its parents, where they are missing."""
    with _named(directory):
        directory.mkdir(parents=True, exist_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: a reader sees the old bytes or the new ones, never a part."""
    beside = path.with_name(f".{path.name}.tmp")
    with _named(path):
        write_new(beside, data)
        os.replace(beside, path)
        _sync_dir(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write and sync a file that nobody reads yet (a part of a directory to be swapped in)."""
    with _named(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def swap_dir(new: Path, final: Path) -> None:
    """Put the finished directory `new` in the place of `final`.

    Dying between the two renames leaves no `final`; `recover_dir` brings the old one back.
    """
    old = final.with_name(f".{final.name}.old")
    with _named(final):
        _sync_dir(new)
        if final.exists():
            remove_tree(old)
            os.rename(final, old)
        os.rename(new, final)
        _sync_dir(final.parent)
        remove_tree(old)


def publish_files(new: Path, final: Path) -> None:
    """Move every file of the finished directory `new` into `final`, in place of what stands there.

    When it returns, the files survive a power failure and `new` is gone.
    """
    with _named(final):
        files = sorted(new.iterdir())
        for file in files:
            os.chmod(file, 0o644)  # safetensors writes for its owner alone
            _sync_file(file)
        _sync_dir(new)
        for file in files:
            os.replace(file, final / file.name)
        _sync_dir(final)
        remove_tree(new)


def recover_dir(final: Path) -> None:
    """Undo a swap that died between its two renames, and clear what it left."""
    old = final.with_name(f".{final.name}.old")
    with _named(final):
        if old.exists() and not final.exists():
            os.rename(old, final)
        remove_tree(old)


def remove_tree(path: Path) -> None:
    """Delete a directory or a file, if it is there."""
    with _named(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class Appender:
    """A file that only grows; `append` writes all of its bytes, or none of them remain."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _named(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self.size = os.fstat(self._descriptor).st_size

    def append(self, data: bytes) -> int:
        """Write `data` at the end; returns the offset it starts at, in bytes."""
        start = self.size
        with _named(self.path):
            try:
                _write_all(self._descriptor, data)
            except OSError:
                os.ftruncate(self._descriptor, start)
                raise
        self.size = start + len(data)
        return start

    def cut(self, size: int) -> None:
        """Drop everything after the first `size` bytes (a torn last line)."""
        with _named(self.path):
            os.ftruncate(self._descriptor, size)
        self.size = size

    def sync(self) -> None:
        """Make everything appended so far survive a power failure."""
        with _named(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Sync and close."""
        with _named(self.path):
            os.fsync(self._descriptor)
            os.close(self._descriptor)


class NewFile(io.RawIOBase):
    """A file that nobody reads yet, written piece by piece; leaving its `with` block syncs it.

    It is a binary stream, for libraries that write to one; at most 1 MiB waits in memory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._waiting = bytearray()
        self._size = 0
        with _named(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        """Add bytes; returns how many."""
        count = memoryview(data).nbytes
        self._waiting += data
        self._size += count
        if len(self._waiting) >= _NEW_FILE_BUFFER:
            self._drain()
        return count

    def close(self) -> None:
        """Write what waits, sync and close."""
        if self.closed:
            return
        super().close()
        with _named(self.path):
            try:
                self._drain()
                os.fsync(self._descriptor)
            finally:
                os.close(self._descriptor)

    def _drain(self) -> None:
        with _named(self.path):
            _write_all(self._descriptor, memoryview(self._waiting))
        self._waiting = bytearray()
