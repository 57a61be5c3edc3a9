"""A failure at every request of a push: it goes on, or the next one does, and all is exact."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sso_data.config.run import RunConfig
from sso_data.core.errors import HubError
from sso_data.filtering.refilter import refilter
from sso_data.publishing import upload
from sso_data.publishing.card import read_facts
from sso_data.publishing.dataset import pack
from sso_data.publishing.hub import HubRepo
from sso_data.publishing.readme import Card, merge_card
from sso_data.publishing.upload import Parcel, Published, Target, publish
from tests.hub_server import HubServer, Repo
from tests.loopback.faults import Fault, Plan, from_then_on, never, once
from tests.loopback.repos import Blob
from tests.publishing.conftest import REPO, TOKEN, made_run, reset
from tests.publishing.listening import Listening
from tests.publishing.outcomes import TABLES, Table

OTHERS = "LICENSE"
"""What the other writer writes; a repository may hold it before it is pushed to."""


def faults(hub: HubServer) -> dict[str, Fault]:
    """The failures, by the name that the table shows."""
    return {
        "500 Internal Server Error": Fault("status", 500),
        "429 with Retry-After": Fault("status", 429, {"Retry_After": "7"}, "Too Many Requests"),
        "409 Conflict": Fault("status", 409, message="another operation is in progress"),
        "connection cut before the answer": Fault("cut"),
        "answer lost, the request was done": Fault("lost"),
        "answer torn": Fault("torn"),
        "slow answer": Fault("slow", seconds=0.02),
        "another writer in between (412)": Fault("before", act=lambda: write_beside(hub)),
        "token expired": Fault("before", act=lambda: hub.tokens.clear()),
    }


def write_beside(hub: HubServer) -> None:
    """Someone else makes the repository, or commits to it."""
    if REPO in hub.repos:
        hub.repos[REPO].change("main", {OTHERS: Blob(b"others")}, [], "by others")
    else:
        hub.add_dataset(REPO, {OTHERS: b"others"}, private=True)


@dataclass
class Trial:
    """Pushes of one parcel to a Hub that fails."""

    hub: HubServer
    parcel: Parcel
    target: Target
    older: Mapping[str, bytes]

    def push(self) -> Published:
        return publish(self.parcel, self.target, Listening())

    def begin(self, plan: Plan = never) -> None:
        xet_folder = self.hub.xet_folder
        reset(self.hub)
        self.hub.xet_folder = xet_folder
        if self.older:
            self.hub.add_dataset(REPO, self.older)
        self.hub.requests.clear()
        self.hub.plan = plan

    def requests(self) -> int:
        """How many requests a push without failures makes."""
        self.begin()
        self.push()
        return len(self.hub.requests)

    def outcome(self, plan: Plan) -> str:
        """`healed`, or `ended` when a second push was needed; the repository is exact then."""
        self.begin(plan)
        try:
            self.push()
            outcome = "healed"
        except HubError as error:
            assert "\n" not in str(error)
            assert TOKEN not in str(error)
            outcome = "ended"
        self.hub.plan = never
        self.hub.tokens.add(TOKEN)
        arrived = set(self.hub.objects)
        before = len(self.hub.requests)
        self.check_public()
        if outcome == "ended":
            self.push()
        again = [line for line in self.hub.requests[before:] if line.startswith("PUT storage")]
        assert not [line for line in again if line.split("/")[2].split("?")[0] in arrived]
        self.check_exact()
        return outcome

    def check_public(self) -> None:
        """What everybody could see at any time was the old state, or the new one."""
        repo = self.hub.repos.get(REPO)
        states = [{*self.expected(), "README.md"}, *([set(self.older)] if self.older else [])]
        for seen in repo.was_public if repo else []:
            assert set(seen) - {OTHERS, ".gitattributes"} in states
        for commit in repo.branches["main"] if repo and self.older else []:
            content = {path: blob.content for path, blob in commit.blobs.items()}
            del content["README.md"]
            assert content in (self.expected(), _without_card(self.older))

    def expected(self) -> Mapping[str, bytes]:
        return {path: file.read_bytes() for path, file in self.parcel.files.items()}

    def check_exact(self) -> None:
        repo = self.hub.repos[REPO]
        files = repo.files
        for path, content in self.expected().items():
            assert files[path] == content, path
        assert set(files) - {OTHERS, ".gitattributes"} == {*self.expected(), "README.md"}
        assert self.commits(repo) == 1
        assert repo.private is bool(self.target.private)
        assert not self.hub.leaked
        assert not [one for one in repo.pull_requests if one.status == "open"]

    def commits(self, repo: Repo) -> int:
        """How many commits of ours there are on main."""
        titles = [commit.title for commit in repo.branches["main"]]
        return sum(title.startswith(self.parcel.title) for title in titles)

    def table(self, title: str, failures: Mapping[str, Fault], *, lasting: bool = False) -> Table:
        """Every failure at every request."""
        count = self.requests()
        table = Table(title=title, requests=count)
        for kind, fault in failures.items():
            for number in range(count):
                plan = from_then_on(number, fault) if lasting else once(number, fault)
                table.count(kind, self.outcome(plan))
                table.count(kind, "exact")
        TABLES.append(table)
        return table


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Parcel:
    """A small run, ready to be pushed."""
    run = made_run(tmp_path_factory.mktemp("data") / "run", 3)
    parcel = pack(read_facts(run), REPO, tmp_path_factory.mktemp("stage"))
    files = {path: file for path, file in parcel.files.items() if not path.startswith("plots/")}
    return replace(parcel, files=files)


@pytest.fixture
def trial(hub: HubServer, packed: Parcel, monkeypatch: pytest.MonkeyPatch) -> Trial:
    monkeypatch.setattr(upload, "merge_card", _merged_once)
    target = Target(hub=HubRepo("dataset", REPO), private=False)
    return Trial(hub=hub, parcel=packed, target=target, older={})


def _merged_once(card: Card, existing: str = "") -> str:
    """The card, merged once for each README.md that is there: it takes most of a push's time."""
    key = id(card), existing
    if key not in _MERGED:
        _MERGED[key] = merge_card(card, existing)
    return _MERGED[key]


_MERGED: dict[tuple[int, str], str] = {}


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _without_card(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if path != "README.md"}


def test_one_failure_at_any_request(trial: Trial) -> None:
    table = trial.table("A new public repository, one failure", faults(trial.hub))
    for kind in ("500 Internal Server Error", "answer lost, the request was done", "slow answer"):
        assert table.counts[kind]["ended"] == 0


def test_another_run_that_comes_in_between_is_not_replaced(trial: Trial) -> None:
    trial.begin()
    trial.push()
    number = next(n for n, line in enumerate(trial.hub.requests) if "/commit/" in line)
    theirs = json.dumps({"identity": {"model": "of others"}}).encode()

    def push_theirs() -> None:
        trial.hub.repos[REPO].change("main", {"run.json": Blob(theirs)}, [], "theirs")

    trial.begin(once(number, Fault("before", act=push_theirs)))
    with pytest.raises(HubError, match="holds another run"):
        trial.push()
    assert trial.hub.repos[REPO].files["run.json"] == theirs
    assert trial.hub.repos[REPO].private


def test_failures_from_any_request_on(trial: Trial) -> None:
    lasting = {
        "500 from then on": Fault("status", 500),
        "answers lost from then on": Fault("lost"),
    }
    table = trial.table("A new public repository, the Hub stays broken", lasting, lasting=True)
    assert table.counts["500 from then on"]["healed"] == 0


def test_a_repository_that_is_public(hub: HubServer, tmp_path: Path) -> None:
    """Of a run that was pushed before, everybody sees the old state or the new one."""
    run = made_run(tmp_path / "run")
    old = pack(read_facts(run), REPO, _folder(tmp_path / "old"))
    older = {path: file.read_bytes() for path, file in old.files.items()}
    older["README.md"] = merge_card(old.card).encode()
    loose = RunConfig().filter.model_copy(update={"gap": 0.01})
    refilter(run, RunConfig(filter=loose))
    parcel = pack(read_facts(run), REPO, _folder(tmp_path / "new"))
    parcel = replace(parcel, title="again")
    target = Target(hub=HubRepo("dataset", REPO), private=False)
    trial = Trial(hub=hub, parcel=parcel, target=target, older=older)
    chosen = ("500 Internal Server Error", "answer lost, the request was done")
    some = {kind: fault for kind, fault in faults(hub).items() if kind in chosen}
    trial.table("A public repository of the same run, one failure", some)


def test_many_files_go_through_a_pull_request(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "FILES_A_COMMIT", 4)
    chosen = ("answer lost, the request was done", "token expired")
    some = {kind: fault for kind, fault in faults(trial.hub).items() if kind in chosen}
    trial.table("Many files through a pull request, one failure", some)
    repo = trial.hub.repos[REPO]
    assert [one.status for one in repo.pull_requests] == ["merged"]
