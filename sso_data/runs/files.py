"""All file writes of the package: appends, atomic replacement, directory swaps, locks.

Every function raises RunError, of one line, where a system call fails. The promises about power
failures hold on file systems that keep what `fsync` was called for; other data may be lost or kept.
Tests replace `os` and `fcntl` here, to fail the k-th system call or to record the disk after each
call.
"""

import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sso_data.core.errors import RunError

try:
    import fcntl
except ImportError as error:
    raise ImportError("sso-data runs on Linux and macOS; on Windows, use WSL") from error

_P = ParamSpec("_P")
_R = TypeVar("_R")

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
    errno.EEXIST: f"a file of that name exists; {_ELSEWHERE}",
    errno.ENOLCK: f"the file system does not support locks; {_ELSEWHERE}",
}

_UNSYNCED_DIRS = {errno.EINVAL, errno.ENOTSUP, errno.EACCES}
"""Errors of syncing a directory that are ignored: not supported, or it cannot be opened."""

_NEW_FILE_BUFFER = 1 << 20


@contextmanager
def named(path: Path) -> Iterator[None]:
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


def _call(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Make a system call, again if a signal interrupted it (Python repeats only some of them)."""
    while True:
        with suppress(InterruptedError):
            return function(*args, **kwargs)


def _open(path: Path, flags: int) -> int:
    """Return a descriptor; a new file is writable by its owner and readable by all."""
    return _call(os.open, path, flags, 0o644)


def _close(descriptor: int) -> None:
    """Close a descriptor, once: an interrupted close has closed it."""
    with suppress(InterruptedError):
        os.close(descriptor)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Open a file; yields its descriptor, which is closed with the context."""
    descriptor = _open(path, flags)
    try:
        yield descriptor
    finally:
        _close(descriptor)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of `data`: one system call may write less than it is given."""
    view = memoryview(data)
    while view:
        view = view[_call(os.write, descriptor, view) :]


def _write_synced(path: Path, data: bytes) -> None:
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        _write_all(descriptor, data)
        _call(os.fsync, descriptor)


def _sync_file(file: Path) -> None:
    """Make the content of an existing file durable."""
    with _opened(file, os.O_RDONLY) as descriptor:
        _call(os.fsync, descriptor)


def _sync_dir(directory: Path) -> None:
    """Make the names in `directory` durable, where the file system can do that."""
    try:
        with _opened(directory, os.O_RDONLY) as descriptor:
            _call(os.fsync, descriptor)
    except OSError as error:
        if error.errno not in _UNSYNCED_DIRS:
            raise


def make_dir(directory: Path) -> None:
    """Create `directory` and its missing parents, and make their names durable.

    Raises RunError where that is not possible, or a file has the name.
    """
    with named(directory):
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        for path in reversed(missing):
            try:
                _call(os.mkdir, path)
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
    temporary = path.with_name(f".{path.name}.tmp")
    with named(path):
        try:
            _write_synced(temporary, data)
            _call(os.replace, temporary, path)
        except OSError:
            with suppress(OSError):
                _call(os.unlink, temporary)
            raise
        _sync_dir(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write and sync a file of a directory that is not in use yet."""
    with named(path):
        _write_synced(path, data)


def replace_by(path: Path, pieces: Iterable[bytes]) -> None:
    """Replace `path` by the concatenation of `pieces`, atomically as `write_atomic` does."""
    temporary = path.with_name(f".{path.name}.tmp")
    with NewFile(temporary) as stream:
        for piece in pieces:
            stream.write(piece)
    with named(path):
        _call(os.replace, temporary, path)
        _sync_dir(path.parent)


def swap_dir(new: Path, final: Path) -> None:
    """Replace the directory `final` by the finished directory `new`.

    A crash between the two renames leaves no `final`; `recover_dir` brings the old one back.
    """
    old = final.with_name(f".{final.name}.old")
    with named(final):
        _sync_dir(new)
        if final.exists():
            remove_tree(old)
            _call(os.replace, final, old)
        _call(os.replace, new, final)
        _sync_dir(final.parent)
        remove_tree(old)


def publish_files(new: Path, final: Path) -> None:
    """Move every file of the finished directory `new` into `final`, replacing those of its name.

    On return the files are durable and `new` is removed.
    """
    with named(final):
        files = sorted(new.iterdir())
        # safetensors writes files that only the owner can read; the directory has the umask's mode
        mode = new.stat().st_mode & 0o644
        for file in files:
            _call(os.chmod, file, mode)
            _sync_file(file)
        _sync_dir(new)
        for file in files:
            _call(os.replace, file, final / file.name)
        _sync_dir(final)
        remove_tree(new)


def sync_tree(directory: Path) -> None:
    """Make an existing directory durable: the content of its files, and all names."""
    with named(directory):
        for path in sorted(directory.rglob("*")):
            if path.is_dir():
                _sync_dir(path)
            elif path.is_file():
                _sync_file(path)
        _sync_dir(directory)
        _sync_dir(directory.parent)


def recover_dir(final: Path) -> None:
    """Undo a `swap_dir` that was interrupted between its renames, and remove its leftovers."""
    old = final.with_name(f".{final.name}.old")
    with named(final):
        if old.exists() and not final.exists():
            _call(os.replace, old, final)
        remove_tree(old)


def remove_tree(path: Path) -> None:
    """Delete a directory, a file or a link (not its target), if it exists."""
    with named(path), suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            for entry in sorted(path.iterdir()):
                remove_tree(entry)
            _call(os.rmdir, path)
        else:
            _call(os.unlink, path)


@contextmanager
def locked_file(path: Path) -> Iterator[bool]:
    """Lock the file `path` exclusively; yields False when another process holds the lock.

    The operating system releases the lock when the process ends, however it ends.
    """
    with named(path):
        descriptor = _open(path, os.O_RDWR | os.O_CREAT)
    try:
        with named(path):
            try:
                _call(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = True
            except BlockingIOError:
                is_ours = False
        yield is_ours
    finally:
        with suppress(OSError):  # nothing was written to it
            _close(descriptor)


class Appender:
    """An append-only file; `append` writes all of its bytes, or none of them remain."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with named(path), ExitStack() as stack:
            descriptor = _open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            stack.callback(_close, descriptor)
            _sync_dir(path.parent)
            self.size = os.fstat(descriptor).st_size
            stack.pop_all()
        self._descriptor = descriptor
        self._closed = False

    def append(self, data: bytes) -> int:
        """Write `data` at the end; return the offset in bytes at which it starts."""
        start = self.size
        with named(self.path):
            try:
                _write_all(self._descriptor, data)
            except BaseException:  # Ctrl-C too: the next append must not follow a part of a line
                _call(os.ftruncate, self._descriptor, start)
                raise
        self.size = start + len(data)
        return start

    def cut(self, size: int) -> None:
        """Truncate the file to its first `size` bytes (drops a torn last line)."""
        with named(self.path):
            _call(os.ftruncate, self._descriptor, size)
        self.size = size

    def sync(self) -> None:
        """Make everything appended so far durable."""
        with named(self.path):
            _call(os.fsync, self._descriptor)

    def close(self) -> None:
        """Sync and close; does nothing when the file is closed already."""
        if self._closed:
            return
        self._closed = True
        with named(self.path):
            try:
                _call(os.fsync, self._descriptor)
            finally:
                _close(self._descriptor)


@contextmanager
def closing_on_error(close: Callable[[], None]) -> Iterator[None]:
    """Call `close` when the block fails, whose error is the one to report."""
    try:
        yield
    except BaseException:
        with suppress(RunError):
            close()
        raise


class NewFile(io.RawIOBase):
    """A new file, written in pieces through a buffer of 1 MiB; its `with` block ends with a sync.

    It is a binary stream, for libraries that write to one. After an error in the block the file is
    incomplete: the buffer is not written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._buffer = bytearray()
        self._size = 0
        with named(path):
            self._descriptor = _open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        """Add bytes; return their number."""
        if self.closed:
            raise ValueError(f"{self.path} is closed")
        count = memoryview(data).nbytes
        self._buffer += data
        self._size += count
        if len(self._buffer) >= _NEW_FILE_BUFFER:
            self._drain()
        return count

    def close(self) -> None:
        """Write the buffer, sync and close."""
        if self.closed:
            return
        super().close()
        with named(self.path):
            try:
                self._drain()
                _call(os.fsync, self._descriptor)
            finally:
                _close(self._descriptor)

    def abandon(self) -> None:
        """Close without writing the buffer."""
        if not self.closed:
            super().close()
            with suppress(OSError):
                _close(self._descriptor)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _drain(self) -> None:
        with named(self.path):
            _write_all(self._descriptor, memoryview(self._buffer))
        self._buffer = bytearray()
