"""Every byte that reaches a run directory: appends, atomic writes, directory swaps.

A failed call of the operating system becomes a RunError of one line. What is promised of a power
failure holds where the file system keeps what `fsync` was called for, and loses or keeps the rest.
"""

import errno
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from sso_data.core.errors import RunError
from sso_data.runs import system

_AGAIN = "run the same command again to continue"
_ELSEWHERE = "choose another output directory"
_REMEDY = {
    errno.ENOSPC: f"the disk is full (or has no inodes left); free some space and {_AGAIN}",
    errno.EDQUOT: f"the disk quota is used up; free some space and {_AGAIN}",
    errno.EFBIG: f"the file-size limit is reached; raise it (ulimit -f) and {_AGAIN}",
    errno.EMFILE: f"too many open files; raise the limit (ulimit -n) and {_AGAIN}",
    errno.EIO: f"the disk reports an error; check it, then {_AGAIN}",
    errno.EROFS: f"the file system is read-only; {_ELSEWHERE}",
    errno.EACCES: f"no permission to write there; give it (chmod, chown) or {_ELSEWHERE}",
    errno.EPERM: f"no permission to write there; give it (chmod, chown) or {_ELSEWHERE}",
    errno.ENOTDIR: f"a part of the path is a file, not a directory; {_ELSEWHERE}",
    errno.EEXIST: f"a file of that name is in the way; {_ELSEWHERE}",
    errno.ENOLCK: f"the file system gives no locks; {_ELSEWHERE}",
}

_UNSYNCED_DIRS = {errno.EINVAL, errno.ENOTSUP, errno.EACCES}
"""A directory that cannot be synced: its file system does not do that, or it cannot be opened."""

_NEW_FILE_BUFFER = 1 << 20


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn an OSError into a RunError that names `path` and a remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDY.get(error.errno or 0, f"{error.strerror or error}; {_AGAIN}")
        raise RunError(f"{path}: cannot write: {remedy}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError from reading `path` into a RunError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{path}: not readable: {reason}; check its mode and the disk") from error


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor, closed with the context."""
    descriptor = system.open_file(path, flags)
    try:
        yield descriptor
    finally:
        system.close(descriptor)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    """All of `data`: the operating system may write less than it is given."""
    view = memoryview(data)
    while view:
        view = view[system.write(descriptor, view) :]


def _write_synced(path: Path, data: bytes) -> None:
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        _write_all(descriptor, data)
        system.sync(descriptor)


def _sync_file(file: Path) -> None:
    """Make the content of `file`, which others wrote, durable."""
    with _opened(file, os.O_RDONLY) as descriptor:
        system.sync(descriptor)


def _sync_dir(directory: Path) -> None:
    """Make the names in `directory` durable, where that can be done."""
    try:
        with _opened(directory, os.O_RDONLY) as descriptor:
            system.sync(descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCED_DIRS:
            raise


def make_dir(directory: Path) -> None:
    """Create `directory` and its parents, where they are missing; its name is durable then."""
    with _named(directory):
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        for path in reversed(missing):
            try:
                system.make_dir(path)
            except FileExistsError:
                if not path.is_dir():
                    raise
            _sync_dir(path.parent)
        if not directory.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not missing:
            _sync_dir(directory.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: a reader sees the old bytes or the new ones, never a part."""
    beside = path.with_name(f".{path.name}.tmp")
    with _named(path):
        try:
            _write_synced(beside, data)
            system.rename(beside, path)
        except OSError:
            with suppress(OSError):
                system.remove_file(beside)
            raise
        _sync_dir(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write and sync a file that nobody reads yet (a part of a directory to be swapped in)."""
    with _named(path):
        _write_synced(path, data)


def replace_by(path: Path, pieces: Iterable[bytes]) -> None:
    """Replace `path` by `pieces`, which are written one by one, as `write_atomic` does."""
    beside = path.with_name(f".{path.name}.tmp")
    with NewFile(beside) as stream:
        for piece in pieces:
            stream.write(piece)
    with _named(path):
        system.rename(beside, path)
        _sync_dir(path.parent)


def swap_dir(new: Path, final: Path) -> None:
    """Put the finished directory `new` in the place of `final`.

    Dying between the two renames leaves no `final`; `recover_dir` brings the old one back.
    """
    old = final.with_name(f".{final.name}.old")
    with _named(final):
        _sync_dir(new)
        if final.exists():
            remove_tree(old)
            system.rename(final, old)
        system.rename(new, final)
        _sync_dir(final.parent)
        remove_tree(old)


def publish_files(new: Path, final: Path) -> None:
    """Move every file of the finished directory `new` into `final`, in place of what stands there.

    When it returns, the files survive a power failure and `new` is gone.
    """
    with _named(final):
        files = sorted(new.iterdir())
        for file in files:
            system.set_mode(file, 0o644)  # safetensors writes for its owner alone
            _sync_file(file)
        _sync_dir(new)
        for file in files:
            system.rename(file, final / file.name)
        _sync_dir(final)
        remove_tree(new)


def sync_tree(directory: Path) -> None:
    """Make a directory that others wrote survive a power failure: its files and all names."""
    with _named(directory):
        for path in sorted(directory.rglob("*")):
            if path.is_dir():
                _sync_dir(path)
            elif path.is_file():
                _sync_file(path)
        _sync_dir(directory)
        _sync_dir(directory.parent)


def recover_dir(final: Path) -> None:
    """Undo a swap that died between its two renames, and clear what it left."""
    old = final.with_name(f".{final.name}.old")
    with _named(final):
        if old.exists() and not final.exists():
            system.rename(old, final)
        remove_tree(old)


def remove_tree(path: Path) -> None:
    """Delete a directory or a file, if it is there; a link goes, what it points to stays."""
    with _named(path), suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            for entry in sorted(path.iterdir()):
                remove_tree(entry)
            system.remove_dir(path)
        else:
            system.remove_file(path)


@contextmanager
def locked_file(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` alone; yields False where another process holds it.

    The lock is the process's, not the file's: whatever way the process ends, it is gone with it.
    """
    with _named(path):
        descriptor = system.open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        with _named(path):
            is_ours = _try_lock(descriptor)
        yield is_ours
    finally:
        with suppress(OSError):  # nothing was written to it
            system.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        system.lock(descriptor)
    except BlockingIOError:
        return False
    return True


class Appender:
    """A file that only grows; `append` writes all of its bytes, or none of them remain."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _named(path), ExitStack() as stack:
            descriptor = system.open_file(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            stack.callback(system.close, descriptor)
            _sync_dir(path.parent)
            self.size = system.size_of(descriptor)
            stack.pop_all()
        self._descriptor = descriptor
        self._closed = False

    def append(self, data: bytes) -> int:
        """Write `data` at the end; returns the offset it starts at, in bytes."""
        start = self.size
        with _named(self.path):
            try:
                _write_all(self._descriptor, data)
            except BaseException:  # Ctrl-C too: what is appended next must not be glued to a part
                system.truncate(self._descriptor, start)
                raise
        self.size = start + len(data)
        return start

    def cut(self, size: int) -> None:
        """Drop everything after the first `size` bytes (a torn last line)."""
        with _named(self.path):
            system.truncate(self._descriptor, size)
        self.size = size

    def sync(self) -> None:
        """Make everything appended so far survive a power failure."""
        with _named(self.path):
            system.sync(self._descriptor)

    def close(self) -> None:
        """Sync and close; nothing happens where that was done before."""
        if self._closed:
            return
        self._closed = True
        with _named(self.path):
            try:
                system.sync(self._descriptor)
            finally:
                system.close(self._descriptor)


@contextmanager
def closing_on_error(appender: Appender) -> Iterator[None]:
    """Close `appender` when what is done with it fails; else it stays open."""
    try:
        yield
    except BaseException:
        with suppress(RunError):
            appender.close()
        raise


class NewFile(io.RawIOBase):
    """A file that nobody reads yet, written piece by piece; leaving its `with` block syncs it.

    It is a binary stream, for libraries that write to one; at most 1 MiB waits in memory. After an
    error in the block the file is worth nothing: what waits is not written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._waiting = bytearray()
        self._size = 0
        with _named(path):
            self._descriptor = system.open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        """Add bytes; returns how many."""
        if self.closed:
            raise ValueError(f"{self.path} is closed")
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
                system.sync(self._descriptor)
            finally:
                system.close(self._descriptor)

    def abandon(self) -> None:
        """Close without writing what waits."""
        if not self.closed:
            super().close()
            with suppress(OSError):
                system.close(self._descriptor)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _drain(self) -> None:
        with _named(self.path):
            _write_all(self._descriptor, memoryview(self._waiting))
        self._waiting = bytearray()
