"""What is published: the files of a repository, complete on this machine, and whose they are."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sso_data.publishing.hub.client import Stored

CARD = "README.md"
USUAL = {CARD, ".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt"}
"""What a repository may hold before anything is pushed to it."""

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Files for a repository, by their path in it; the card is made when the old one is known.

    `mark` is the file that says whose content a repository holds, and `differs` compares one that
    is there with ours: what differs, or None. `is_ours` tells the paths that a push writes, now or
    with other options: those that this one does not write are removed. `what` names its content.
    """

    files: Mapping[str, Path]
    what: str
    mark: str
    differs: Callable[[bytes], str | None]
    is_ours: Callable[[str], bool]
    card: Callable[[str | None], bytes]
    title: str


@dataclass(slots=True, kw_only=True)
class Local:
    """A file to be published: its content here, compared with what a repository holds."""

    source: Path | bytes
    size: int
    _digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Path | bytes) -> "Local":
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        return cls(source=source, size=size)

    def is_stored_as(self, stored: Stored | None) -> bool:
        """Whether a repository's file has this content; read here only where the sizes agree."""
        if stored is None or stored.size != self.size:
            return False
        if stored.sha256 is not None:
            return self._digest("sha256", b"") == stored.sha256
        return self._digest("sha1", b"blob %d\0" % self.size) == stored.git_id

    def _digest(self, name: str, head: bytes) -> str:
        if name not in self._digests:
            digest = hashlib.new(name, head, usedforsecurity=False)
            if isinstance(self.source, bytes):
                digest.update(self.source)
            else:
                with self.source.open("rb") as stream:
                    while block := stream.read(_BLOCK_BYTES):
                        digest.update(block)
            self._digests[name] = digest.hexdigest()
        return self._digests[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What makes a repository the parcel: files to send, paths to remove."""

    new: Mapping[str, Local]
    gone: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.new or self.gone)

    @property
    def total_bytes(self) -> int:
        return sum(local.size for local in self.new.values())


def changes_to(
    there: Mapping[str, Stored], files: Mapping[str, Local], is_ours: Callable[[str], bool]
) -> Changes:
    """The difference between what a repository holds and `files`."""
    return Changes(
        new={
            path: local
            for path, local in sorted(files.items())
            if not local.is_stored_as(there.get(path))
        },
        gone=tuple(sorted(path for path in there if path not in files and is_ours(path))),
    )
