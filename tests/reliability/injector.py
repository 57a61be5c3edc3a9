"""Stands in for `os` in `sso_data.runs.files`: counts every call, fails one, or records states.

`Faults` makes the k-th call fail, or all from the k-th on. `Recorder` keeps what the disk holds
after every call: as SIGKILL would leave it, and as a power failure might.
"""

import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sso_data.runs import files

CALLS = frozenset(
    "open write fsync ftruncate close replace mkdir unlink rmdir chmod flock".split()  # noqa: SIM905
)
"""Every function of `os` and `fcntl` that `files` uses and that can fail."""
SHORT, CTRL_C = 0, -1
FAULTS = {
    "ENOSPC": errno.ENOSPC,
    "EIO": errno.EIO,
    "EINTR": errno.EINTR,
    "EDQUOT": errno.EDQUOT,
    "short write": SHORT,
    "Ctrl-C": CTRL_C,
}
"""What may happen to a call, once."""
GROWING = frozenset(("open", "write", "mkdir", "replace"))
"""Calls that a full disk refuses; deleting, syncing and locking still work there."""

Tree = dict[str, bytes | None]
"""What a directory holds: relative name to content, None for a directory."""


class Os:
    """`os` and `fcntl` with every counted call going through `around`."""

    def __init__(self) -> None:
        self.count = 0
        self.names: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(fcntl if hasattr(fcntl, name) and not hasattr(os, name) else os, name)
        if name not in CALLS:
            return real

        def counted(*args: Any) -> Any:
            self.count += 1
            self.names.append(name)
            return self.around(name, real, *args)

        return counted

    def around(self, name: str, real: Callable[..., Any], *args: Any) -> Any:
        """Make the call."""
        return real(*args)


@contextmanager
def in_place_of_os(stand_in: Os) -> Iterator[None]:
    """Let `files` call `stand_in` instead of the operating system."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", stand_in)
        patch.setattr(files, "fcntl", stand_in)
        yield


class Faults(Os):
    """The k-th call fails with `code`; with `lasting` so does every growing call after it.

    Code SHORT makes the k-th call, if it is a write, take half of what it is given; CTRL_C raises
    KeyboardInterrupt after it.
    """

    def __init__(self, k: int, code: int, *, lasting: bool = False) -> None:
        super().__init__()
        self._k, self._code, self._lasting = k, code, lasting
        self.hit: str | None = None

    def around(self, name: str, real: Callable[..., Any], *args: Any) -> Any:
        if self.count == self._k:
            self.hit = name
            if self._code == SHORT:
                return self._short(name, real, *args)
            if self._code == CTRL_C:
                with suppress(OSError):
                    real(*args)
                raise KeyboardInterrupt
            if name == "close":
                real(*args)  # as Linux does: the descriptor is gone, whatever it says
            raise OSError(self._code, os.strerror(self._code))
        if self._lasting and self.count > self._k and name in GROWING and not _reads(name, args):
            raise OSError(self._code, os.strerror(self._code))
        return real(*args)

    def _short(self, name: str, real: Callable[..., Any], *args: Any) -> Any:
        if name != "write":
            return real(*args)
        descriptor, data = args
        return real(descriptor, data[: max(1, len(data) // 2)])


class Recorder(Os):
    """Records the states of `root` that a death or a power failure would leave at each call.

    `acknowledged` are the lines of the journal that were synced by then; a power failure must not
    take them. Names under `root` are durable from the start.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self.deaths: dict[int, tuple[str, Tree]] = {}
        self.losses: dict[int, tuple[str, Tree, frozenset[bytes]]] = {}
        self.states = 0
        self._uids: dict[str, int] = {}
        self._next_uid = 0
        self._synced: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._kinds: dict[int, bool] = {}
        self._acknowledged: frozenset[bytes] = frozenset()
        self._adopt("", is_dir=True)
        for path in sorted(root.rglob("*")):
            self._adopt(self._name(path), is_dir=path.is_dir())
            if path.is_file():
                self._synced[self._uids[self._name(path)]] = path.read_bytes()
        for path in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            self._names[self._uids[self._name(path)]] = self._listing(path)

    def around(self, name: str, real: Callable[..., Any], *args: Any) -> Any:
        if name == "write" and len(args[1]) > 1:
            self._tear(*args)
        paths = [self._name(Path(arg)) for arg in args if isinstance(arg, Path)]
        was_there = bool(paths) and (self._root / paths[0]).exists()
        result = real(*args)
        if name in ("open", "mkdir") and not was_there:
            self._adopt(paths[0], is_dir=name == "mkdir")
        elif name == "replace":
            self._move(*paths)
        elif name == "fsync":
            self._sync(Path(f"/proc/self/fd/{args[0]}").readlink())
        self._keep(f"after {name} {self.count}")
        return result

    def _tear(self, descriptor: int, data: memoryview) -> None:
        """Keep the states in which a write was cut short; then take the part back."""
        size = os.fstat(descriptor).st_size
        for cut in sorted({1, len(data) // 2, len(data) - 1} - {0}):
            written = os.write(descriptor, data[:cut])
            self._keep(f"write {self.count} torn after {cut} of {len(data)} bytes")
            os.ftruncate(descriptor, size)
            os.lseek(descriptor, -written, os.SEEK_CUR)

    def _keep(self, when: str) -> None:
        now = tree_of(self._root)
        self.states += 1
        self.deaths.setdefault(_hash(now), (when, now))
        rng = random.Random(self.count)
        for kind, lost in (
            ("only what was synced", self.durable()),
            ("names kept, unsynced bytes gone", self._bytes_lost(now, lambda data: b"")),
            ("names kept, unsynced bytes zero", self._bytes_lost(now, lambda d: bytes(len(d)))),
            ("names kept, holes", self._bytes_lost(now, lambda data: _holes(data, rng))),
        ):
            key = hash((_hash(lost), self._acknowledged))
            self.losses.setdefault(key, (f"{when}: {kind}", lost, self._acknowledged))

    def durable(self) -> Tree:
        """The strictest file system: only synced names, and of files only synced bytes."""
        found: Tree = {}
        level = [("", self._uids[""])]
        while level:
            folder, uid = level.pop()
            for name, child in self._names.get(uid, {}).items():
                path = f"{folder}/{name}".lstrip("/")
                if self._kinds[child]:
                    found[path] = None
                    level.append((path, child))
                else:
                    found[path] = self._synced.get(child, b"")
        return found

    def _bytes_lost(self, now: Tree, lose: Callable[[bytes], bytes]) -> Tree:
        """The tree as it is, but the bytes after a file's synced ones went through `lose`."""
        found: Tree = {}
        for name, data in now.items():
            if data is None:
                found[name] = None
                continue
            synced = self._synced.get(self._uids[name], b"")
            if synced.startswith(data):  # it was cut, and the cut was lost
                found[name] = synced
            else:
                kept = len(synced) if data.startswith(synced) else 0
                found[name] = data[:kept] + lose(data[kept:])
        return found

    def _sync(self, path: Path) -> None:
        uid = self._uids[self._name(path)]
        if path.is_dir():
            self._names[uid] = self._listing(path)
        else:
            self._synced[uid] = path.read_bytes()
            if path.suffix == ".jsonl" and path.parent.name == "rows":
                self._acknowledged |= set(whole_lines(self._synced[uid]))

    def _listing(self, path: Path) -> dict[str, int]:
        return {entry.name: self._uids[self._name(entry)] for entry in path.iterdir()}

    def _adopt(self, name: str, *, is_dir: bool) -> None:
        self._next_uid += 1
        self._uids[name] = self._next_uid
        self._kinds[self._next_uid] = is_dir

    def _move(self, old: str, new: str) -> None:
        for name in [n for n in self._uids if n == old or n.startswith(f"{old}/")]:
            self._uids[new + name.removeprefix(old)] = self._uids.pop(name)

    def _name(self, path: Path) -> str:
        name = str(path.relative_to(self._root))
        return "" if name == "." else name


def tree_of(root: Path) -> Tree:
    """Everything below `root`."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def plant(tree: Tree, root: Path) -> Path:
    """Write a recorded state below `root`, which is made."""
    root.mkdir()
    for name in sorted(tree):
        data = tree[name]
        if data is None:
            (root / name).mkdir(exist_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    return root


def whole_lines(data: bytes) -> list[bytes]:
    """The lines that end with a newline."""
    return [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def _holes(data: bytes, rng: random.Random) -> bytes:
    """Each block of 512 bytes arrived or did not."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    return b"".join(block if rng.random() < 0.5 else bytes(len(block)) for block in blocks)


def _hash(tree: Tree) -> int:
    return hash(tuple(sorted(tree.items(), key=lambda item: item[0])))


def _reads(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call opens a file only to look at it (or to sync it)."""
    return name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR)


def line_of(error: BaseException) -> str:
    """What the user reads of an error: one line that is not empty."""
    text = str(error)
    assert text and "\n" not in text, text
    return text
