"""Files of this machine to a repository: all of them or nothing visible, and every try resumes.

Everything lies complete on this machine. A try looks at the repository, plans what is missing,
uploads it, makes one commit on top of what it saw, and verifies the result. A new repository is
private until everything is there. Where the Hub or the network fails, the next try, in this process
or in another, begins in the same way: what arrived is not sent again.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sso_data.config.migration import Kind
from sso_data.core.errors import HubError
from sso_data.core.progress import Progress
from sso_data.publishing.failures import HubTroubleError, patiently
from sso_data.publishing.hub import MAIN, HubRepo, State, Stored
from sso_data.publishing.readme import README, Card, merge_card
from sso_data.runs.files import make_dir, remove_tree
from sso_data.runs.workdir import difference

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

FILES_A_COMMIT = 100
"""More changed files than this go to a pull request, which is merged last."""

GROUP_BYTES = 64 << 20
"""Files are uploaded in groups of about this size; progress is counted after each."""

_USUAL = {README, ".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt"}
"""Files that a repository may hold before anything is pushed to it."""

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """The content of a repository, complete in `folder`: files by their path in it, and a card.

    `what` names the content. `identity_file` is the manifest among the files that tells whose
    content a repository holds: it is the same where the identity of `manifest`, and the values of
    `identity_keys`, agree. `ours` matches the paths that a push writes, now or with other options:
    those that this one does not write are removed from the repository.
    """

    folder: Path
    files: Mapping[str, Path]
    card: Card
    what: Kind
    identity_file: str
    manifest: Mapping[str, Any]
    identity_keys: tuple[str, ...] = ()
    ours: re.Pattern[str]
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The place of a parcel; `private` None: as the repository is, and private where it is new."""

    hub: HubRepo
    revision: str = MAIN
    private: bool | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The repository after a push; `new_files` and `new_bytes` came with this push."""

    repo: str
    url: str
    revision: str
    commit: str
    private: bool
    new_files: int
    new_bytes: int
    is_new: bool

    def to_json(self) -> dict[str, Any]:
        """The summary for scripts."""
        return asdict(self)


class LocalFile:
    """A file on this machine, compared with what a repository holds: a path or the bytes of one."""

    def __init__(self, source: Path | bytes) -> None:
        self.source = source
        self.size = len(source) if isinstance(source, bytes) else source.stat().st_size
        self._digests: dict[str, str] = {}

    def is_stored_as(self, stored: Stored | None) -> bool:
        """Compare the content with a repository's file; it is read only where the sizes agree."""
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
class _Changes:
    """The changes that turn a repository into the parcel: files to send, paths to remove."""

    new: Mapping[str, LocalFile]
    gone: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.new) + len(self.gone)

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.new.values())

    def first(self, count: int) -> "_Changes":
        """The first `count` of the changes."""
        new = dict(islice(self.new.items(), count))
        return _Changes(new=new, gone=self.gone[: count - len(new)])

    def groups(self) -> Iterator[Mapping[str, LocalFile]]:
        """The files to send, in groups of GROUP_BYTES or one file more."""
        group: dict[str, LocalFile] = {}
        for path, file in self.new.items():
            group[path] = file
            if sum(one.size for one in group.values()) >= GROUP_BYTES:
                yield group
                group = {}
        if group:
            yield group


def check_target(target: Target, progress: Progress) -> None:
    """Find what is wrong with a target before there is anything to publish; changes nothing.

    Raises HubError.
    """
    hub = target.hub

    def check() -> None:
        hub.check_write()
        state = hub.look()
        if state is None:
            hub.check_type()
        else:
            _check_visibility(state, target)

    patiently(check, progress)


def publish(parcel: Parcel, target: Target, progress: Progress) -> Published:
    """Make the repository hold the parcel. Raises HubError; nothing incomplete is public then."""
    progress.phase(f"looking at {target.hub.url}")
    try:
        return patiently(_Push(parcel, target, progress).attempt, progress)
    except HubTroubleError as error:
        raise HubError(
            f"{error}; everything is complete in {parcel.folder}: run the same command again to "
            "continue"
        ) from error


@contextmanager
def stage(folder: Path) -> Iterator[Path]:
    """An empty directory in a run or a training for what is made for the repository.

    It is removed when the context ends well. Raises RunError where it cannot be written.
    """
    staged = folder / ".push"
    remove_tree(staged)
    make_dir(staged)
    yield staged
    remove_tree(staged)


class _Push:
    """One push; `attempt` may be called again after any failure."""

    def __init__(self, parcel: Parcel, target: Target, progress: Progress) -> None:
        self._parcel, self._target, self._progress = parcel, target, progress
        self._hub = target.hub
        self._files = {path: LocalFile(source) for path, source in parcel.files.items()}
        self._checked_cards: set[str] = set()
        self._author = ""
        self._is_new = False
        self._sent = (0, 0)

    def attempt(self) -> Published:
        """Look, changes, upload, commit, verify, and open what is to be public. Raises HubError."""
        hub, revision, private = self._hub, self._target.revision, self._target.private
        self._author = self._author or hub.check_write()
        state = hub.look(revision) or self._create()
        if state.commit is not None and not self._target.overwrite:
            self._refuse_others(state, state.commit)
        there = b""
        if state.commit is not None and README in state.files:
            there = hub.read(README, state.commit)
        card = merge_card(self._parcel.card, there.decode("utf-8", "replace"))
        files = self._files | {README: LocalFile(card.encode())}
        changes = self._changes(state, files)
        if changes:
            _check_visibility(state, self._target)
            if README in changes.new:
                self._check_card(card)
            if private and not state.private:
                hub.set_private(True)
                state = replace(state, private=True)
            self._sent = (len(changes.new), changes.total_bytes)
            state = self._send(state, changes, files)
        if private is not None and private != state.private:
            hub.set_private(private)
        return Published(
            repo=hub.repo,
            url=hub.url,
            revision=revision,
            commit=state.commit or "",
            private=state.private if private is None else private,
            new_files=self._sent[0],
            new_bytes=self._sent[1],
            is_new=self._is_new,
        )

    def _create(self) -> State:
        """Create the repository, private, after everything that could be wrong was checked."""
        hub, repo = self._hub, self._hub.repo
        if self._target.revision != MAIN:
            raise HubError(
                f"{repo}: no such {hub.kind}, so it has no branch {self._target.revision}; push to "
                "it without --revision first"
            )
        hub.check_type()
        self._check_card(merge_card(self._parcel.card))
        self._progress.phase(f"creating {repo} (private)")
        hub.create()
        self._is_new = True
        state = hub.look()
        if state is None:
            raise HubTroubleError(f"{repo}: was created, but the Hub does not show it yet")
        return state

    def _refuse_others(self, state: State, commit: str) -> None:
        """Raise HubError where the repository holds the content of others."""
        parcel, repo = self._parcel, self._hub.repo
        remedy = "use another name, or --overwrite to replace it"
        if parcel.identity_file in state.files:
            there = self._hub.read(parcel.identity_file, commit)
            if found := difference(there, parcel.manifest, *parcel.identity_keys, kind=parcel.what):
                raise HubError(f"{repo}: holds another {parcel.what}: {found}; {remedy}")
        elif others := sorted(state.files.keys() - _USUAL):
            raise HubError(f"{repo}: holds files that are not from a push ({others[0]}); {remedy}")

    def _check_card(self, card: str) -> None:
        if card not in self._checked_cards:
            self._hub.check_card(card)
            self._checked_cards.add(card)

    def _changes(self, state: State, files: Mapping[str, LocalFile]) -> _Changes:
        """The difference between what the repository holds and `files`."""
        there, ours = state.files, self._parcel.ours
        new = {path: files[path] for path in sorted(files)}
        return _Changes(
            new={path: one for path, one in new.items() if not one.is_stored_as(there.get(path))},
            gone=tuple(sorted(path for path in there.keys() - files if ours.fullmatch(path))),
        )

    def _send(self, state: State, changes: _Changes, files: Mapping[str, LocalFile]) -> State:
        """Upload and commit the changes; returns the repository's new state, verified."""
        hub, revision = self._hub, self._target.revision
        self._progress.phase("uploading")
        self._progress.count(0, changes.total_bytes, "bytes")
        if len(changes) <= FILES_A_COMMIT:
            commit = self._commit(
                revision, changes, state.commit, done=0, total=changes.total_bytes
            )
            done: State | None = replace(state, commit=commit, files=hub.tree(commit))
        elif revision == MAIN:
            self._send_by_request(files, changes.total_bytes)
            done = hub.look()
        else:
            raise HubError(
                f"{hub.repo}: {len(changes.new)} files are too many for one commit (at most "
                f"{FILES_A_COMMIT}), and pull requests can only target {MAIN}; push "
                "without --revision"
            )
        if done is None or self._changes(done, files):
            raise HubTroubleError(f"{hub.repo}: the Hub does not show the files that were sent")
        return done

    def _send_by_request(self, files: Mapping[str, LocalFile], total: int) -> None:
        """Bring `files` to main through a pull request, that of an earlier try if there is one.

        Commits follow each other there, and it is merged when all are there. Raises HubError; main
        is then as it was, or holds everything.
        """
        hub, parcel = self._hub, self._parcel
        digest = hashlib.sha256(parcel.files[parcel.identity_file].read_bytes()).hexdigest()
        # the same title for every try to push the same, and for nothing else
        number = hub.pull_request(self._author, f"{parcel.title} [{digest[:8]}]")
        branch = f"refs/pr/{number}"
        while True:
            state = hub.look(branch)
            if state is None:
                raise HubTroubleError(f"{hub.repo}: branch {branch} is not visible yet")
            changes = self._changes(state, files)
            if not changes:
                break
            part = changes.first(FILES_A_COMMIT)
            done = max(total - changes.total_bytes, 0)
            self._commit(branch, part, state.commit, done=done, total=total)
        hub.merge_request(number)

    def _commit(
        self, branch: str, changes: _Changes, parent: str | None, *, done: int, total: int
    ) -> str:
        """Upload and commit `changes` on `branch`, where `done` of `total` bytes are already."""
        operations: list[CommitOperationAdd] = []
        for group in changes.groups():
            sources = {path: one.source for path, one in group.items()}
            operations += self._hub.upload(branch, sources)
            done += sum(one.size for one in group.values())
            self._progress.count(min(done, total), total, "bytes")
        self._progress.phase("committing")
        return self._hub.commit(
            branch, operations, changes.gone, title=self._parcel.title, parent=parent
        )


def _check_visibility(state: State, target: Target) -> None:
    """Raise HubError if the repository is public and --public was not given."""
    if target.private is None and not state.private:
        raise HubError(
            f"{target.hub.repo}: the repository is public; add --public to publish there, or "
            "--private to make it private first"
        )
