"""What the loopback Hub holds: repositories with branches, commits and pull requests."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

GITATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Blob:
    """One file's content; `is_large`: it lies in the store of large files."""

    content: bytes
    is_large: bool = False
    xet_hash: str | None = None

    @property
    def git_id(self) -> str:
        """git's id of the blob; of a large file, that of its pointer."""
        content = self.pointer if self.is_large else self.content
        return git_id(content)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (
            "version https://git-lfs.github.com/spec/v1\n"
            f"oid sha256:{self.sha256}\nsize {len(self.content)}\n"
        ).encode()

    @property
    def upload_id(self) -> str:
        """What the client compares its own file with."""
        return self.sha256 if self.is_large else self.git_id


@dataclass(frozen=True)
class Commit:
    """A state of a repository's files."""

    oid: str
    parent: str | None
    title: str
    blobs: Mapping[str, Blob]


@dataclass
class PullRequest:
    """A branch `refs/pr/<number>` that may be merged into main."""

    number: int
    title: str
    author: str
    status: str = "draft"


@dataclass
class Repo:
    """A repository: the commits of each branch, the newest last."""

    kind: str = "dataset"
    gated: bool = False
    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    pull_requests: list[PullRequest] = field(default_factory=list)
    was_public: list[tuple[str, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, files: Mapping[str, bytes], **facts: Any) -> "Repo":
        """A repository whose main branch has one commit."""
        repo = cls(**facts)
        repo.commit("main", {path: Blob(content) for path, content in files.items()}, "first")
        return repo

    @property
    def files(self) -> dict[str, bytes]:
        """The files of main."""
        return {path: blob.content for path, blob in self.head("main").blobs.items()}

    def head(self, branch: str) -> Commit:
        return self.branches[branch][-1]

    def at(self, revision: str) -> Commit | None:
        """The commit of a branch, of `refs/...` or of an id."""
        name = revision.removeprefix("refs/heads/")
        if name in self.branches:
            return self.head(name)
        commits = (commit for branch in self.branches.values() for commit in branch)
        return next((commit for commit in commits if commit.oid == revision), None)

    def commit(self, branch: str, blobs: Mapping[str, Blob], title: str) -> Commit:
        """Add a commit with exactly these files."""
        history = self.branches.setdefault(branch, [])
        parent = history[-1].oid if history else None
        listing = sorted((path, blob.git_id) for path, blob in blobs.items())
        known = json.dumps([branch, len(history), parent, title, listing])
        oid = hashlib.sha1(known.encode(), usedforsecurity=False).hexdigest()
        commit = Commit(oid=oid, parent=parent, title=title, blobs=dict(blobs))
        history.append(commit)
        self.note_public(branch)
        return commit

    def change(
        self, branch: str, new: Mapping[str, Blob], gone: Iterable[str], title: str
    ) -> Commit:
        """Add a commit that adds or replaces some files and removes others."""
        kept = {**self.head(branch).blobs, **new}
        for path in gone:
            if path.endswith("/"):
                kept = {name: blob for name, blob in kept.items() if not name.startswith(path)}
            else:
                kept.pop(path, None)
        return self.commit(branch, kept, title)

    def set_private(self, private: bool) -> None:
        self.private = private
        self.note_public("main")

    def note_public(self, branch: str) -> None:
        """Remember which files everybody could see."""
        if not self.private and branch == "main":
            self.was_public.append(tuple(sorted(self.head("main").blobs)))

    def open_pull_request(self, title: str, author: str) -> PullRequest:
        number = len(self.pull_requests) + 1
        request = PullRequest(number=number, title=title, author=author)
        self.pull_requests.append(request)
        self.branches[f"refs/pr/{number}"] = [self.head("main")]
        return request

    def merge(self, request: PullRequest) -> None:
        """Bring what the pull request changed to main, as one commit."""
        branch = self.branches[f"refs/pr/{request.number}"]
        before, after = branch[0].blobs, branch[-1].blobs
        new = {path: blob for path, blob in after.items() if before.get(path) != blob}
        gone = [path for path in before if path not in after]
        self.change("main", new, gone, f"{request.title} (#{request.number})")
        request.status = "merged"

    def upload_mode(self, path: str, size: int, *, large_bytes: int) -> str:
        """Whether the content goes to the store of large files; cards and JSON never do here."""
        if path.endswith((".md", ".json")):
            return "regular"
        binary = path.endswith((".parquet", ".png", ".safetensors", ".bin"))
        return "lfs" if binary or size >= large_bytes else "regular"

    def is_ignored(self, path: str, revision: str) -> bool:
        commit = self.at(revision)
        rules = commit.blobs.get(".gitignore") if commit else None
        lines = rules.content.decode().split() if rules else []
        return any(path == line or path.startswith(f"{line.rstrip('/')}/") for line in lines)


def git_id(content: bytes) -> str:
    """git's id of a blob, which is the Hub's ETag of a file outside the large ones."""
    blob = b"blob %d\0" % len(content) + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()


def tree_entry(commit: Commit, path: str) -> dict[str, object] | None:
    """The tree's entry for a file or a folder, or None."""
    blob = commit.blobs.get(path)
    if blob is not None:
        entry: dict[str, object] = {
            "type": "file",
            "oid": blob.git_id,
            "size": len(blob.content),
            "path": path,
        }
        if blob.is_large:
            entry["lfs"] = {
                "oid": blob.sha256,
                "size": len(blob.content),
                "pointerSize": len(blob.pointer),
            }
        if blob.xet_hash:
            entry["xetHash"] = blob.xet_hash
        return entry
    if any(name.startswith(f"{path}/") for name in commit.blobs):
        return {"type": "directory", "oid": git_id(path.encode()), "size": 0, "path": path}
    return None


def tree(commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, object]] | None:
    """The entries in `folder` ('' is the root), or None where there is no such folder."""
    prefix = f"{folder}/" if folder else ""
    paths: set[str] = set()
    for name in commit.blobs:
        if name.startswith(prefix):
            parts = name.removeprefix(prefix).split("/")
            depths = range(1, len(parts) + 1) if recursive else [1]
            paths.update(prefix + "/".join(parts[:depth]) for depth in depths)
    if folder and not paths:
        return None
    return [entry for path in sorted(paths) if (entry := tree_entry(commit, path))]


def with_xet(blob: Blob, xet_hash: str) -> Blob:
    return replace(blob, xet_hash=xet_hash)
