"""SHA-256 of files: read in parallel, and remembered for large ones that nothing has changed."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock

from sso_data.core.errors import RunError
from sso_data.core.paths import real_path
from sso_data.core.progress import NullProgress, Progress
from sso_data.runs.files import make_dir, reading, write_atomic

_BLOCK_BYTES = 4 << 20
_THREADS = 8
SHOWN_BYTES = 1 << 30
"""From so many bytes on the reading is shown."""
REMEMBERED_BYTES = 64 << 20
"""Smaller files are read each time."""
_SETTLED_NS = 2_000_000_000
"""A file changed more recently may change again without another time: some clocks are coarse."""


def sha256_of(
    files: Iterable[Path], progress: Progress | None = None, *, remember: bool = False
) -> dict[Path, str]:
    """Return the SHA-256 of every file, in hexadecimal digits. Raises RunError.

    With `remember`, a file in the Hub's cache is not read where its name there is its checksum, nor
    a large one that was read before and has the same path, inode, size and times.
    """
    paths = list(files)
    found: dict[Path, str] = {}
    for path in paths if remember else ():
        if known := _named_by_the_hub(path) or _remembered(path):
            found[path] = known
    left = [path for path in paths if path not in found]
    before = {}
    for path in left:
        with reading(path):
            before[path] = path.stat()
    tick, stop = _counter(sum(one.st_size for one in before.values()), progress), Event()
    with ThreadPoolExecutor(max(1, min(_THREADS, len(left), os.cpu_count() or 1))) as threads:
        try:
            digests = threads.map(lambda path: _digest(path, tick, stop), left)
            found |= dict(zip(left, digests, strict=True))
        finally:
            stop.set()
    for path in left if remember else ():
        _remember(path, before[path], found[path])
    return found


def changed(directory: Path, recorded: Mapping[str, str]) -> list[str]:
    """Return the names of recorded files in `directory` that are missing or other than recorded."""
    there = [directory / name for name in recorded if (directory / name).is_file()]
    digests = sha256_of(there)
    return [name for name, digest in recorded.items() if digests.get(directory / name) != digest]


def recorded_in(content: Mapping[str, object], key: str) -> dict[str, str]:
    """Return the checksums by file name that a JSON object has under `key`; {} for none."""
    found = content.get(key)
    return {str(n): str(d) for n, d in found.items()} if isinstance(found, dict) else {}


def _counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    """Return what the threads call with the bytes they have read."""
    shown, lock, done = progress or NullProgress(), Lock(), 0

    def tick(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            if total >= SHOWN_BYTES:
                shown.count(done, total, "bytes", "reading the weights for their fingerprint")

    return tick


def _digest(path: Path, tick: Callable[[int], None], stop: Event) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES))
    with reading(path), path.open("rb", buffering=0) as stream:
        while not stop.is_set() and (count := stream.readinto(block)):
            digest.update(block[:count])
            tick(count)
    return digest.hexdigest()


def _named_by_the_hub(path: Path) -> str | None:
    """Return the SHA-256 that the Hub's cache names a large file by, unless it changed later.

    The link of a snapshot is made when its file is complete.
    """
    with suppress(OSError):
        target = path.resolve(strict=True)
        is_blob = path.is_symlink() and target.parent.name == "blobs" and len(target.name) == 64
        if is_blob and target.stat().st_mtime_ns <= path.lstat().st_mtime_ns:
            return target.name
    return None


def _entry(path: Path) -> Path:
    """Return the file in the user's cache that remembers the checksum of `path`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(real_path(path))).hexdigest()[:32]
    return cache / "sso-data" / "checksums" / f"{name}.json"


def _state(stat: os.stat_result) -> list[int]:
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _remembered(path: Path) -> str | None:
    """Return the checksum that an earlier reading left; None where the file is another by now."""
    with suppress(OSError, ValueError, KeyError, TypeError, RuntimeError):
        entry = json.loads(_entry(path).read_bytes())
        if entry["state"] == _state(path.stat()):
            return str(entry["sha256"])
    return None


def _remember(path: Path, before: os.stat_result, digest: str) -> None:
    """Leave the checksum of a large file for later, if nothing has touched it lately."""
    with suppress(OSError, RuntimeError, RunError):  # a cache that cannot be written is none
        now = path.stat()
        is_settled = max(now.st_mtime_ns, now.st_ctime_ns) < time.time_ns() - _SETTLED_NS
        if now.st_size < REMEMBERED_BYTES or _state(now) != _state(before) or not is_settled:
            return
        entry = _entry(path)
        make_dir(entry.parent)
        write_atomic(entry, json.dumps({"state": _state(now), "sha256": digest}).encode())
