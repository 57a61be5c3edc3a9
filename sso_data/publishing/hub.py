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
from sso_data.publishing.failures import HubTroubleError, hub_errors, status_of

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

Kind = Literal["dataset", "model"]
MAIN = "main"

_TIMEOUT_SECONDS = 300.0
"""The longest silence of a server; the client's own default is to wait without end."""

_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_XET_TELEMETRY_ENABLED": "false",
}
_WRITING_ROLES = {"write", "admin", "contributor"}
_WRITING = {"repo.write", "repo.content.write"}


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


class HubRepo:
    """The repository `repo` of the Hub at `endpoint`, with the rights of the token's owner."""

    def __init__(
        self, kind: Kind, repo: str, *, endpoint: str | None = None, needs_token: bool = True
    ) -> None:
        """Make the client; sends no request.

        Raises HubError for a malformed address, and for a missing token where one is needed.
        """
        _prepare()
        from huggingface_hub import HfApi, get_token

        self.kind, self.repo = kind, repo
        self._id: dict[str, Any] = {"repo_id": repo, "repo_type": kind}
        self._api: HfApi = HfApi(endpoint=endpoint)
        self.endpoint = self._api.endpoint
        try:
            parts = urlsplit(self.endpoint)
            is_web = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            is_web = False
        if not is_web:
            raise HubError(
                f"{self.endpoint}: not the address of a Hub; write --endpoint, or HF_ENDPOINT, as "
                "https://HOST"
            )
        self._settings = f"{self.endpoint}/settings/tokens"
        self._token = self._api.token = get_token()
        if needs_token and not self._token:
            raise HubError(
                f"no token for {self.endpoint}; make one with write access at {self._settings}, "
                "then `hf auth login`, or set HF_TOKEN"
            )

    @property
    def url(self) -> str:
        """The address of the repository's page."""
        return f"{self.endpoint}/{'' if self.kind == 'model' else 'datasets/'}{self.repo}"

    def check_write(self) -> str:
        """Return the name of the token's user; HubError where the token cannot write here."""
        with hub_errors(f"{self.endpoint}: whoami", self.endpoint):
            try:
                whoami: dict[str, Any] = dict(self._api.whoami())
            except Exception as error:
                if status_of(error) != 401:
                    raise
                origin = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "`hf auth login`"
                raise HubError(
                    f"the token from {origin} was refused by {self.endpoint} (expired or "
                    f"revoked); make a new one at {self._settings}, then `hf auth login`"
                ) from error
        repo, name = self.repo, str(whoami["name"])
        namespace = repo.partition("/")[0]
        token = (whoami.get("auth") or {}).get("accessToken") or {}
        remedy = f"make one with write access at {self._settings}, then `hf auth login`"
        if token.get("role") == "read":
            raise HubError(f"{repo}: the token of {name} may only read; {remedy}")
        if token.get("role") == "fineGrained":
            found = token.get("fineGrained")
            if not isinstance(found, Mapping):
                return name  # an unknown format; the Hub decides
            granted = set(found.get("global") or [])
            for scope in found.get("scoped") or []:
                if scope.get("entity", {}).get("name") in (repo, namespace):
                    granted |= set(scope.get("permissions") or [])
            if not granted & _WRITING:
                raise HubError(
                    f"{repo}: the fine-grained token of {name} has no write right for {namespace}; "
                    f"{remedy}"
                )
        elif namespace != name:
            roles = {o["name"]: o.get("roleInOrg") or "write" for o in whoami.get("orgs") or []}
            if namespace not in roles:
                raise HubError(
                    f"{repo}: {name} is no member of {namespace}; the token may write to "
                    f"{', '.join([name, *roles])}"
                )
            if roles[namespace] not in _WRITING_ROLES:
                raise HubError(
                    f"{repo}: {name} has the role {roles[namespace]} in {namespace}, which may not "
                    "write; ask its administrators"
                )
        return name

    def look(self, revision: str = MAIN) -> State | None:
        """The repository's state, or None where there is none; HubError for a missing revision."""
        repo = self.repo
        with self._errors_of():
            try:
                wanted = None if revision == MAIN else revision
                info = self._api.repo_info(**self._id, revision=wanted)
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
        files = self.tree(info.sha) if info.sha else {}
        return State(private=bool(info.private), commit=info.sha, files=files)

    def tree(self, commit: str) -> dict[str, Stored]:
        """The files at a commit or a branch."""
        from huggingface_hub.hf_api import RepoFile

        with self._errors_of():
            entries = self._api.list_repo_tree(**self._id, revision=commit, recursive=True)
            return {
                entry.path: Stored(
                    size=entry.size,
                    git_id=entry.blob_id,
                    sha256=entry.lfs.sha256 if entry.lfs else None,
                )
                for entry in entries
                if isinstance(entry, RepoFile)
            }

    def read(self, path: str, commit: str) -> bytes:
        """The content of a small file at a commit."""
        from huggingface_hub import get_session, hf_hub_url

        utils = client_utils()
        url = hf_hub_url(**self._id, filename=path, revision=commit, endpoint=self.endpoint)
        with self._errors_of(path):
            response = get_session().get(url, headers=utils.build_hf_headers(token=self._token))
            utils.hf_raise_for_status(response)
            return bytes(response.content)

    def download(self, state: State, patterns: Sequence[str], folder: Path | None) -> Path:
        """Download the matching files to `folder`, or to the client's cache; returns the folder."""
        with self._errors_of("downloading"):
            found = self._api.snapshot_download(
                **self._id,
                revision=state.commit,
                allow_patterns=list(patterns),
                local_dir=folder,
            )
        return Path(str(found))

    def check_type(self) -> None:
        """HubError where a repository of this name exists under another type."""
        repo = self.repo
        with self._errors_of():
            for kind in ("model", "dataset", "space"):
                if kind != self.kind and self._api.repo_exists(repo, repo_type=kind):
                    raise HubError(
                        f"{repo}: is a {kind}, not a {self.kind}; use another name (or, to have "
                        f"both, first `hf repos create {repo} --type {self.kind} --private`)"
                    )

    def create(self) -> None:
        """Create the repository, private."""
        with self._errors_of("creating it"):
            self._api.create_repo(**self._id, private=True)

    def set_private(self, private: bool) -> None:
        """Make the repository private or public."""
        with self._errors_of(f"making it {'private' if private else 'public'}"):
            self._api.update_repo_settings(**self._id, private=private)

    def check_card(self, text: str) -> None:
        """HubError naming the field of the card's metadata that the Hub does not accept."""
        from huggingface_hub import get_session

        utils = client_utils()
        with self._errors_of("README.md"):
            response = get_session().post(
                f"{self.endpoint}/api/validate-yaml",
                json={"content": text, "repoType": self.kind},
                headers=utils.build_hf_headers(token=self._token),
            )
            if response.status_code == 400:
                try:
                    errors = response.json().get("errors") or []
                except ValueError:
                    errors = []
                found = [one_line(error.get("message", ""), 200) for error in errors]
                said = "; ".join(filter(None, found)) or one_line(response.text, 200)
                raise HubError(f"{self.repo}: README.md: {said}; correct it in the card")
            utils.hf_raise_for_status(response)

    def upload(
        self, revision: str, files: Mapping[str, Path | bytes]
    ) -> "list[CommitOperationAdd]":
        """Send the large files among `files`; returns all as operations of a commit.

        A file that the Hub holds already, from an interrupted try, is not sent. Raises HubError
        also for files that the client would leave out of the commit without a message.
        """
        from huggingface_hub import CommitOperationAdd

        with self._errors_of("uploading"):
            operations = [CommitOperationAdd(path, source) for path, source in files.items()]
            self._api.preupload_lfs_files(
                **self._id, additions=operations, revision=revision, free_memory=False
            )
            for one in operations:
                if getattr(one, "_should_ignore", False):
                    raise HubError(
                        f"{self.repo}: its .gitignore excludes {one.path_in_repo}; remove that "
                        "line, then run the same command again"
                    )
        return operations

    def commit(
        self,
        revision: str,
        operations: "Sequence[CommitOperationAdd]",
        gone: Sequence[str],
        *,
        title: str,
        parent: str | None,
    ) -> str:
        """Make one commit of uploaded files and removals on top of `parent`; returns its id."""
        from huggingface_hub import CommitOperationDelete

        with self._errors_of("committing"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the card was checked before
            done = self._api.create_commit(
                **self._id,
                operations=[*operations, *map(CommitOperationDelete, gone)],
                commit_message=title,
                revision=revision,
                parent_commit=parent,
            )
        return str(done.oid)

    def pull_request(self, author: str, title: str) -> int:
        """The number of the author's open pull request of this title, opened where there is none.

        Raises HubTroubleError, after closing it, where main has changed in what it changes.
        """
        with self._errors_of("pull requests"):
            found = self._api.get_repo_discussions(
                **self._id, author=author, discussion_type="pull_request"
            )
            numbers = [
                one.num for one in found if one.title == title and one.status in ("open", "draft")
            ]
            if not numbers:
                return self._api.create_pull_request(**self._id, title=title).num
            number = max(numbers)
            of = self._id | {"discussion_num": number}
            details = self._api.get_discussion_details(**of)
            if details.conflicting_files:
                self._api.change_discussion_status(**of, new_status="closed")
                raise HubTroubleError(
                    f"{self.repo}: main changed after pull request {number} was opened; it was "
                    "closed"
                )
            return number

    def merge_request(self, number: int) -> None:
        """Merge a pull request into main."""
        of = self._id | {"discussion_num": number}
        with self._errors_of(f"merging pull request {number}"):
            details = self._api.get_discussion_details(**of)
            if details.status == "draft":
                self._api.change_discussion_status(**of, new_status="open")
            self._api.merge_pull_request(**of)

    def _errors_of(self, what: str = "") -> AbstractContextManager[None]:
        return hub_errors(f"{self.repo}: {what}" if what else self.repo, self.endpoint)


def check_repo_id(repo: str) -> None:
    """HubError where `repo` cannot be the name of a repository."""
    try:
        client_utils().validate_repo_id(repo)
    except ValueError as error:
        reason = one_line(error, 200).rstrip(".")
        raise HubError(f"{reason}; write it as namespace/name, e.g. alice/pairs") from error
    if "/" not in repo:
        raise HubError(f"{repo}: no namespace; write it as namespace/name, e.g. alice/pairs")


def client_utils() -> Any:
    """`huggingface_hub.utils`, whose exports type checkers cannot see."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # the client reads them when it is imported
    from huggingface_hub import utils

    return utils


@functools.cache
def _prepare() -> None:
    """Disable the client's output, its progress bars included, and set its timeouts."""
    utils = client_utils()
    utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the user decides by an environment variable
        utils.disable_progress_bars()
    from huggingface_hub import get_session, set_client_factory

    usual = get_session()
    made, hooks = type(usual), usual.event_hooks
    set_client_factory(
        lambda: made(event_hooks=hooks, follow_redirects=True, timeout=_TIMEOUT_SECONDS)
    )
