"""Xet's local store: what the client of Xet wrote to a folder, found again by its SHA-256.

hf_xet takes `local:///folder` for the address of its content-addressed store. That is not
documented; seen with hf_xet 1.8.0. The files that describe what was uploaded (shards) hold records
of 48 bytes: one at the start, then for each file its header, its ranges and their hashes, and its
SHA-256.
"""

import functools
import struct
from pathlib import Path
from typing import Any

_RECORD = 48
_END = b"\xff" * 32
_HAS_RANGE_HASHES, _HAS_SHA256 = 1 << 31, 1 << 30


def hash_of(folder: str, sha256: str) -> str | None:
    """Xet's hash of the file with that SHA-256, or None where it was not uploaded."""
    for shard in sorted(Path(folder).glob("xet/xorbs/shards/*.mdb")):
        for found, xet_hash in _files(shard.read_bytes()):
            if found == sha256:
                return xet_hash
    return None


def content_of(folder: str, xet_hash: str) -> bytes:
    """The bytes of a file in the store, as the client of Xet puts them together."""
    from hf_xet import XetFileInfo

    target = Path(folder) / f"read-{xet_hash}"
    if target.exists():
        return target.read_bytes()
    group = _session().new_file_download_group(
        endpoint=f"local://{folder}", token="xet", token_expiry_unix_secs=4_000_000_000
    )
    with group as downloads:
        downloads.start_download_file(XetFileInfo(xet_hash, None), str(target))
    return target.read_bytes()


@functools.cache
def _session() -> Any:
    from hf_xet import XetSession

    return XetSession()


def _files(shard: bytes) -> list[tuple[str, str]]:
    """(SHA-256, Xet's hash) of the files that a shard describes."""
    found = []
    place = _RECORD
    while shard[place : place + 32] != _END:
        header = shard[place : place + 32]
        flags, ranges = struct.unpack("<II", shard[place + 32 : place + 40])
        place += _RECORD * (1 + ranges * (2 if flags & _HAS_RANGE_HASHES else 1))
        if flags & _HAS_SHA256:
            found.append((_text(shard[place : place + 32]), _text(header)))
            place += _RECORD
    return found


def _text(digest: bytes) -> str:
    """A hash as Xet writes it: four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))
