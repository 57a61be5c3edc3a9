"""A parcel to the Hub: all of it or nothing to be seen, and every try goes on where one broke off.

A try looks at the repository, finds what is missing, sends it and makes one commit on top of what
it saw. A new repository is private until everything is there. Where the Hub or the network fails,
the next try, in this process or in another, begins in the same way: what arrived is not sent again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from sso_data.core.errors import HubError
from sso_data.publishing.hub.client import Hub, State
from sso_data.publishing.hub.failures import HubTroubleError, patiently
from sso_data.publishing.hub.parcel import CARD, USUAL, Changes, Local, Parcel, changes_to
from sso_data.publishing.hub.pull_requests import by_request
from sso_data.publishing.hub.sending import Meter, uploaded

MAIN = "main"
FILES_A_COMMIT = 100
"""More changed files than this go to a pull request, which is merged last."""


class PushListener(Protocol):
    """Who is told how a push goes on."""

    def phase(self, text: str) -> None:
        """What begins now."""

    def sent(self, done: int, total: int) -> None:
        """How many bytes have gone, and how many are to go."""

    def note(self, text: str) -> None:
        """Something worth knowing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a parcel goes; `private` is None where the user did not say."""

    repo: str
    revision: str = MAIN
    private: bool | None = None
    overwrite: bool = False
    files_a_commit: int = FILES_A_COMMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the repository is now; `new_files` and `new_bytes` came with this push."""

    repo: str
    url: str
    revision: str
    commit: str
    private: bool
    new_files: int
    new_bytes: int
    is_new: bool

    def to_json(self) -> dict[str, Any]:
        """What a script wants to know."""
        return asdict(self)


def check_target(hub: Hub, target: Target, listener: PushListener) -> None:
    """HubError for what can be known to be wrong before there is anything to publish."""

    def check() -> None:
        hub.check_write(hub.account(), target.repo)
        state = hub.look(target.repo, None)
        if state is not None:
            _check_visibility(state, target)
        elif others := hub.types(target.repo):
            raise _other_type(hub, target.repo, others[0])

    patiently(check, listener.note)


def publish(hub: Hub, parcel: Parcel, target: Target, listener: PushListener) -> Published:
    """Make the repository hold the parcel. Raises HubError; nothing half is public then."""
    return patiently(_Push(hub, parcel, target, listener).attempt, listener.note)


class _Push:
    """One push; `attempt` may be called again after any failure."""

    def __init__(self, hub: Hub, parcel: Parcel, target: Target, listener: PushListener) -> None:
        self._hub = hub
        self._parcel = parcel
        self._target = target
        self._listener = listener
        self._files = {path: Local.of(source) for path, source in parcel.files.items()}
        self._cards: dict[str | None, bytes] = {}
        self._good_cards: set[bytes] = set()
        self._author = ""
        self._is_new = False
        self._sent = (0, 0)

    def attempt(self) -> Published:
        """Look, send what is missing, commit, look again, and open what is to be public."""
        hub, repo, private = self._hub, self._target.repo, self._target.private
        if not self._author:
            account = hub.account()
            hub.check_write(account, repo)
            self._author = account.name
        state = self._look() or self._made()
        self._refuse_strangers(state)
        card = self._card(state)
        files = self._files | {CARD: Local.of(card)}
        changes = changes_to(state.files, files, self._parcel.is_ours)
        if changes:
            _check_visibility(state, self._target)
            if CARD in changes.new:
                self._check_card(card)
            if private and not state.private:
                hub.set_private(repo, True)
                state = replace(state, private=True)
            self._sent = (len(changes.new), changes.total_bytes)
            state = self._send(state, changes, files)
        if private is not None and private != state.private:
            hub.set_private(repo, private)
        return Published(
            repo=repo,
            url=hub.url(repo),
            revision=self._target.revision,
            commit=state.commit or "",
            private=state.private if private is None else private,
            new_files=self._sent[0],
            new_bytes=self._sent[1],
            is_new=self._is_new,
        )

    def _look(self) -> State | None:
        revision = self._target.revision
        return self._hub.look(self._target.repo, None if revision == MAIN else revision)

    def _made(self) -> State:
        """A new repository, private, when everything that could be wrong was looked at."""
        hub, repo, revision = self._hub, self._target.repo, self._target.revision
        if revision != MAIN:
            raise HubError(
                f"{repo}: no such {hub.kind}, so it has no branch {revision}; push to it without "
                "--revision first"
            )
        if others := hub.types(repo):
            raise _other_type(hub, repo, others[0])
        self._check_card(self._card(None))
        self._listener.phase(f"making {repo} (private)")
        hub.create(repo)
        self._is_new = True
        state = self._look()
        if state is None:
            raise HubTroubleError(f"{repo}: was made, but is not there yet")
        return state

    def _refuse_strangers(self, state: State) -> None:
        """HubError where the repository holds what is not ours, unless it may be overwritten."""
        if self._target.overwrite or state.commit is None:
            return
        parcel, repo = self._parcel, self._target.repo
        remedy = "use another name, or --overwrite to replace it"
        if parcel.mark in state.files:
            there = self._hub.read(repo, parcel.mark, state.commit)
            if difference := parcel.differs(there):
                raise HubError(f"{repo}: holds another {parcel.what}: {difference}; {remedy}")
            return
        strangers = sorted(path for path in state.files if path not in USUAL)
        if strangers:
            raise HubError(f"{repo}: holds files and no {parcel.mark} ({strangers[0]}); {remedy}")

    def _card(self, state: State | None) -> bytes:
        """README.md, what others wrote in the repository's own included."""
        old = None
        if state is not None and state.commit is not None and CARD in state.files:
            old = self._hub.read(self._target.repo, CARD, state.commit).decode("utf-8", "replace")
        if old not in self._cards:
            self._cards[old] = self._parcel.card(old)
        return self._cards[old]

    def _check_card(self, card: bytes) -> None:
        if card not in self._good_cards:
            self._hub.check_card(self._target.repo, card.decode())
            self._good_cards.add(card)

    def _send(self, state: State, changes: Changes, files: Mapping[str, Local]) -> State:
        """Send and commit the changes; the repository as it is then."""
        hub, repo, revision = self._hub, self._target.repo, self._target.revision
        self._listener.phase("uploading")
        meter = Meter(changes.total_bytes, self._listener.sent)
        limit = self._target.files_a_commit
        if len(changes.new) + len(changes.gone) > limit:
            self._refuse_branch(revision, len(changes.new), limit)
            by_request(
                hub, repo, self._author, self._parcel, files, meter=meter, files_a_commit=limit
            )
            done = self._look()
        else:
            with uploaded(hub, repo, revision, changes.new, meter) as operations:
                self._listener.phase("committing")
                commit = hub.commit(
                    repo,
                    revision,
                    operations,
                    changes.gone,
                    title=self._parcel.title,
                    parent=state.commit,
                )
            done = State(private=state.private, commit=commit, files=hub.tree(repo, commit))
        meter.finish()
        if done is None or changes_to(done.files, files, self._parcel.is_ours):
            raise HubTroubleError(f"{repo}: does not hold what was sent")
        return done

    def _refuse_branch(self, revision: str, count: int, limit: int) -> None:
        if revision != MAIN:
            raise HubError(
                f"{self._target.repo}: {count} files are too many for one commit (at most "
                f"{limit}), and a pull request goes to {MAIN} alone; push without --revision"
            )


def _check_visibility(state: State, target: Target) -> None:
    """HubError where everybody would see what the user did not call public."""
    if target.private is None and not state.private:
        raise HubError(
            f"{target.repo}: is public; say --public to publish there, or --private to close it "
            "first"
        )


def _other_type(hub: Hub, repo: str, other: str) -> HubError:
    return HubError(
        f"{repo}: is a {other}, not a {hub.kind}; use another name (or, to have both, first "
        f"`hf repos create {repo} --type {hub.kind} --private`)"
    )
