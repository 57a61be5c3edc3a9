"""The Hub's client, call by call: typed answers, every failure a HubError."""

import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from sso_data.core.errors import HubError, one_line
from sso_data.publishing.hub.account import Account
from sso_data.publishing.hub.failures import asking, status_of

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

Kind = Literal["dataset", "model"]

_TIMEOUT_SECONDS = 300.0
"""The longest silence of a server; the client's own default is to wait for ever."""

_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_XET_TELEMETRY_ENABLED": "false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file of a repository: `git_id` of its blob, `sha256` where it is a large file."""

    size: int
    git_id: str
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A repository at one commit (None: it has none yet)."""

    private: bool
    commit: str | None
    files: Mapping[str, Stored]


def _check_address(endpoint: str) -> None:
    """HubError unless this is http(s)://HOST, perhaps with more behind it."""
    try:
        parts = urlsplit(endpoint)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_web = False
    if not is_web:
        raise HubError(
            f"{endpoint}: not the address of a Hub; write --endpoint, or HF_ENDPOINT, as "
            "https://HOST"
        )


class Hub:
    """The Hub at `endpoint`, as the owner of the token sees it."""

    def __init__(
        self, kind: Kind, *, endpoint: str | None = None, needs_token: bool = True
    ) -> None:
        """Raise HubError where there is no token and one is needed, or the address is none of a
        Hub; asks nobody."""
        _prepare()
        from huggingface_hub import HfApi, get_token

        self.kind: Kind = kind
        self._api: HfApi = HfApi(endpoint=endpoint)
        self.endpoint = self._api.endpoint
        _check_address(self.endpoint)
        self._token = get_token()
        self._origin = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "`hf auth login`"
        if needs_token and not self._token:
            raise HubError(
                f"no token for {self.endpoint}; make one with write access at {self._settings}, "
                "then `hf auth login`, or set HF_TOKEN"
            )
        self._api.token = self._token

    @property
    def _settings(self) -> str:
        return f"{self.endpoint}/settings/tokens"

    def url(self, repo: str) -> str:
        """The repository's page."""
        return f"{self.endpoint}/{'' if self.kind == 'model' else 'datasets/'}{repo}"

    def account(self) -> Account:
        """Who we are; HubError when the token is not valid."""
        with self._asking(f"{self.endpoint}: whoami"):
            try:
                return Account.of(self._api.whoami())
            except Exception as error:
                if status_of(error) != 401:
                    raise
                raise HubError(
                    f"the token from {self._origin} was refused by {self.endpoint} (expired or "
                    f"revoked); make a new one at {self._settings}, then `hf auth login`"
                ) from error

    def check_write(self, account: Account, repo: str) -> None:
        """HubError where the token cannot write to `repo`."""
        account.check_write(repo, self._settings)

    def look(self, repo: str, revision: str | None) -> State | None:
        """The repository as it is, or None where there is none; HubError for a missing revision."""
        with self._asking(repo):
            try:
                info = self._api.repo_info(repo, repo_type=self.kind, revision=revision)
            except Exception as error:
                if type(error).__name__ == "RevisionNotFoundError":
                    raise HubError(
                        f"{repo}: no branch {revision}; make it with `hf repos branch create "
                        f"{repo} {revision} --type {self.kind}`"
                    ) from error
                is_hidden = not self._token and status_of(error) == 401
                if is_hidden or type(error).__name__ == "RepositoryNotFoundError":
                    return None
                raise
        files = self.tree(repo, info.sha) if info.sha else {}
        return State(private=bool(info.private), commit=info.sha, files=files)

    def tree(self, repo: str, commit: str) -> dict[str, Stored]:
        """The files at a commit or a branch."""
        from huggingface_hub.hf_api import RepoFile

        with self._asking(repo):
            entries = self._api.list_repo_tree(
                repo, repo_type=self.kind, revision=commit, recursive=True
            )
            return {
                entry.path: Stored(
                    size=entry.size,
                    git_id=entry.blob_id,
                    sha256=entry.lfs.sha256 if entry.lfs else None,
                )
                for entry in entries
                if isinstance(entry, RepoFile)
            }

    def read(self, repo: str, path: str, commit: str) -> bytes:
        """A small file at a commit."""
        from huggingface_hub import get_session, hf_hub_url

        utils = client_utils()
        url = hf_hub_url(repo, path, repo_type=self.kind, revision=commit, endpoint=self.endpoint)
        with self._asking(f"{repo}: {path}"):
            response = get_session().get(url, headers=utils.build_hf_headers(token=self._token))
            utils.hf_raise_for_status(response)
            return bytes(response.content)

    def download(
        self, repo: str, state: State, patterns: Sequence[str], folder: Path | None
    ) -> Path:
        """The files that match, in `folder` or else in the client's cache; returns where."""
        client_utils().disable_progress_bars()
        with self._asking(f"{repo}: downloading"):
            found = self._api.snapshot_download(
                repo,
                repo_type=self.kind,
                revision=state.commit,
                allow_patterns=list(patterns),
                local_dir=folder,
            )
        return Path(str(found))

    def types(self, repo: str) -> list[str]:
        """The other types under which there is a repository of this name."""
        others = [kind for kind in ("model", "dataset", "space") if kind != self.kind]
        with self._asking(repo):
            return [kind for kind in others if self._api.repo_exists(repo, repo_type=kind)]

    def create(self, repo: str) -> None:
        """Make the repository, private."""
        with self._asking(f"{repo}: making it"):
            self._api.create_repo(repo, repo_type=self.kind, private=True)

    def set_private(self, repo: str, private: bool) -> None:
        """Close the repository or open it to everybody."""
        with self._asking(f"{repo}: making it {'private' if private else 'public'}"):
            self._api.update_repo_settings(repo, repo_type=self.kind, private=private)

    def check_card(self, repo: str, text: str) -> None:
        """HubError naming the field of the card's metadata that the Hub does not take."""
        from huggingface_hub import get_session

        utils = client_utils()
        with self._asking(f"{repo}: README.md"):
            response = get_session().post(
                f"{self.endpoint}/api/validate-yaml",
                json={"content": text, "repoType": self.kind},
                headers=utils.build_hf_headers(token=self._token),
            )
            if response.status_code == 400:
                raise HubError(
                    f"{repo}: README.md: {_complaints(response)}; correct it in the card"
                )
            utils.hf_raise_for_status(response)

    def upload(self, repo: str, revision: str, operations: "Sequence[CommitOperationAdd]") -> None:
        """Send the content of the large files among `operations`; what is there is not sent."""
        with self._asking(f"{repo}: uploading"):
            self._api.preupload_lfs_files(
                repo,
                additions=list(operations),
                repo_type=self.kind,
                revision=revision,
                free_memory=False,
            )

    def commit(
        self,
        repo: str,
        revision: str,
        operations: "Sequence[CommitOperationAdd]",
        gone: Sequence[str],
        *,
        title: str,
        parent: str | None,
    ) -> str:
        """One commit with uploaded files and removals, on top of `parent`; returns its id."""
        from huggingface_hub import CommitOperationDelete

        with self._asking(f"{repo}: committing"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the card was checked before
            done = self._api.create_commit(
                repo,
                operations=[*operations, *map(CommitOperationDelete, gone)],
                commit_message=title,
                repo_type=self.kind,
                revision=revision,
                parent_commit=parent,
            )
        return done.oid

    def open_requests(self, repo: str, author: str) -> dict[int, str]:
        """The titles of the author's pull requests that are not closed, by number."""
        with self._asking(f"{repo}: pull requests"):
            found = self._api.get_repo_discussions(
                repo, repo_type=self.kind, author=author, discussion_type="pull_request"
            )
            return {one.num: one.title for one in found if one.status in ("open", "draft")}

    def open_request(self, repo: str, title: str) -> int:
        """A new pull request; returns its number."""
        with self._asking(f"{repo}: opening a pull request"):
            return self._api.create_pull_request(repo, title, repo_type=self.kind).num

    def merge_request(self, repo: str, number: int) -> None:
        """Bring a pull request to main."""
        with self._asking(f"{repo}: merging pull request {number}"):
            if self._status(repo, number) == "draft":
                self._api.change_discussion_status(repo, number, "open", repo_type=self.kind)
            self._api.merge_pull_request(repo, number, repo_type=self.kind)

    def has_conflicts(self, repo: str, number: int) -> bool:
        """Whether main has changed in what a pull request changes."""
        with self._asking(f"{repo}: pull request {number}"):
            found = self._api.get_discussion_details(repo, number, repo_type=self.kind)
            return bool(found.conflicting_files)

    def close_request(self, repo: str, number: int) -> None:
        with self._asking(f"{repo}: closing pull request {number}"):
            self._api.change_discussion_status(repo, number, "closed", repo_type=self.kind)

    def _status(self, repo: str, number: int) -> str:
        return self._api.get_discussion_details(repo, number, repo_type=self.kind).status

    def _asking(self, what: str) -> AbstractContextManager[None]:
        return asking(what, self.endpoint)


@functools.cache
def _prepare() -> None:
    """Make the client quiet, and end its waiting for a server that says nothing."""
    client_utils().logging.set_verbosity_error()
    from huggingface_hub import get_session, set_client_factory

    usual = get_session()
    made, hooks = type(usual), usual.event_hooks
    set_client_factory(
        lambda: made(event_hooks=hooks, follow_redirects=True, timeout=_TIMEOUT_SECONDS)
    )


def client_utils() -> Any:
    """`huggingface_hub.utils`, which tells type checkers nothing of what it exports."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # the client reads them when it is imported
    from huggingface_hub import utils

    return utils


def check_repo_id(repo: str) -> None:
    """HubError where `repo` cannot be the name of a repository."""
    try:
        client_utils().validate_repo_id(repo)
    except ValueError as error:
        reason = one_line(error, 200).rstrip(".")
        raise HubError(f"{reason}; write it as namespace/name, e.g. alice/pairs") from error
    if "/" not in repo:
        raise HubError(f"{repo}: no namespace; write it as namespace/name, e.g. alice/pairs")


def _complaints(response: Any) -> str:
    """What the Hub finds wrong in a card: each of its messages names a field."""
    try:
        errors = response.json().get("errors") or []
    except ValueError:
        errors = []
    found = [one_line(error.get("message", ""), 200) for error in errors]
    return "; ".join(filter(None, found)) or one_line(response.text, 200)
