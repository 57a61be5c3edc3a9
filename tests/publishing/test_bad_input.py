"""What a user can get wrong: one line that says what to do, exit code 1, nothing left half done."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from sso_data.config.run import RunConfig
from sso_data.core.errors import HubError
from sso_data.filtering.refilter import refilter
from sso_data.publishing.hub import HubRepo
from sso_data.runs.workdir import locked, write_json
from tests.cli.test_bad_input import one_line
from tests.exporting.making import make_run
from tests.factories import make_row
from tests.filtering.test_explain import noise
from tests.hub_server import HubServer, Repo
from tests.publishing.conftest import REPO, TOKEN, Push


class TestTheRun:
    def test_nothing_kept(self, hub: HubServer, push: Push, run: Path) -> None:
        strict = RunConfig().filter.model_copy(update={"gap": 50.0})
        refilter(run, RunConfig(filter=strict))
        one_line(push(run), "nothing to push", "kept none of 6 rows", "sso-data filter")
        assert not hub.requests

    def test_texts_without_effect_are_public_only_when_confirmed(
        self, hub: HubServer, push: Push, tmp_path: Path
    ) -> None:
        rows = [make_row(i, means=noise(i)) for i in range(20)]
        run = make_run(tmp_path / "run", rows, settings=["filter.preset=none"])
        one_line(push(run, "--public"), "no effect shown", "--yes")
        assert not hub.requests
        assert push(run, "--public", "--yes").exit_code == 0
        assert push(run).exit_code == 0

    def test_not_filtered(self, push: Push, run: Path) -> None:
        shutil.rmtree(run / "pairs")
        one_line(push(run), "no pairs in it", "sso-data filter")

    def test_not_there(self, push: Push, tmp_path: Path) -> None:
        one_line(push(tmp_path / "no"), "no such directory", "sso-data generate")

    def test_being_written(self, push: Push, run: Path) -> None:
        with locked(run, "rows"):
            one_line(push(run), "another process is writing its rows")

    def test_unfinished(self, hub: HubServer, push: Push, run: Path) -> None:
        manifest = json.loads((run / "run.json").read_text())
        write_json(run / "run.json", manifest | {"prompts": 240})
        how_far = "7 of 240 prompts are done"
        one_line(push(run, "--public"), f"is unfinished, {how_far}", "without --public", "--limit")
        assert not hub.requests
        done = push(run)
        assert done.exit_code == 0
        assert f"the run is unfinished: {how_far}" in done.stderr
        assert how_far in hub.repos[REPO].files["README.md"].decode()
        one_line(push(run, "--public"), "is unfinished")
        assert hub.repos[REPO].private

    def test_unknown_part(self, push: Push, run: Path) -> None:
        one_line(push(run, "--what", "rows"), "--what rows: must be pairs or all")


class TestTheRepository:
    @pytest.mark.parametrize(
        "repo", ["pairs", "a b/c", "a/b/c", "team/--x", "team/x.git", "/x", ""]
    )
    def test_no_name_of_one(self, hub: HubServer, push: Push, run: Path, repo: str) -> None:
        one_line(push(run, repo=repo), "write it as namespace/name")
        assert not hub.requests

    @pytest.mark.parametrize("kind", ["model", "space"])
    def test_of_another_type(self, hub: HubServer, push: Push, run: Path, kind: str) -> None:
        hub.keep(kind, REPO, Repo.of({"config.json": b"{}"}, kind=kind))
        one_line(push(run), f"{REPO}: is a {kind}, not a dataset", "hf repos create")
        assert REPO not in hub.repos

    def test_a_branch_that_is_not_there(self, hub: HubServer, push: Push, run: Path) -> None:
        one_line(push(run, "--revision", "v2"), "no such dataset", "without --revision")
        assert REPO not in hub.repos
        assert push(run).exit_code == 0
        one_line(push(run, "--revision", "v2"), "no branch v2", "hf repos branch create")

    def test_public_and_private(self, hub: HubServer, push: Push, run: Path) -> None:
        for options in (("--public", "--private"), ("--private", "--public")):
            one_line(push(run, *options), "--public and --private: give one of them")
        assert not hub.requests

    def test_gated(self, hub: HubServer, push: Push, run: Path) -> None:
        hub.add_dataset("other/pairs", {"run.json": b"{}"}, gated=True)
        one_line(push(run, repo="other/pairs"), "no member of other")

    def test_no_room_for_a_new_one(self, hub: HubServer, push: Push, run: Path) -> None:
        hub.accounts[TOKEN] = account(orgs=[{"name": "other", "roleInOrg": "read"}])
        one_line(push(run, repo="other/pairs"), "has the role read in other")
        assert not hub.repos


class TestTheCard:
    def test_a_field_that_we_know_to_be_wrong(self, hub: HubServer, push: Push, run: Path) -> None:
        one_line(push(run, "--license", "My Licence"), "license", "apache-2.0")
        one_line(push(run, "--language", "English!"), "language")
        assert not hub.requests

    def test_the_option_is_named(self, push: Push, run: Path) -> None:
        one_line(push(run, "--license", "my own thing"), "--license 'my own thing': is not a")
        one_line(push(run, "--language=en", "--language=English"), "--language 'English': is not a")

    def test_a_field_that_the_hub_refuses(self, hub: HubServer, push: Push, run: Path) -> None:
        one_line(push(run, "--license", "wtfpl-9"), 'README.md: "license" must be one of')
        assert not hub.repos

    def test_the_card_that_is_there_is_broken(self, hub: HubServer, push: Push, run: Path) -> None:
        hub.add_dataset(REPO, {"README.md": b"---\na: [\n---\n"}, private=True)
        one_line(push(run), "README.md", "YAML")


class TestTheToken:
    def test_none(
        self, hub: HubServer, push: Push, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("HF_TOKEN")
        one_line(push(run), "no token for", "hf auth login", "HF_TOKEN")
        assert not hub.requests

    def test_expired(self, hub: HubServer, push: Push, run: Path) -> None:
        hub.tokens.clear()
        one_line(push(run), "the token from HF_TOKEN was refused", "settings/tokens")

    def test_expired_in_a_file(
        self, hub: HubServer, push: Push, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("HF_TOKEN")
        Path(constants.HF_TOKEN_PATH).write_text("hf_" + "o" * 34)
        one_line(push(run), "the token from `hf auth login` was refused")

    def test_it_is_shown_nowhere(self, hub: HubServer, push: Push, run: Path) -> None:
        hub.tokens.clear()
        failed = push(run)
        hub.tokens.add(TOKEN)
        done = push(run)
        assert TOKEN not in failed.output + done.output
        for path in run.rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
        assert not [path for path, file in hub.repos[REPO].files.items() if TOKEN.encode() in file]


class TestTheNetwork:
    def test_not_there(self, push: Push, run: Path) -> None:
        done = push(run, "--endpoint", "http://127.0.0.1:9")
        one_line(done, "cannot reach http://127.0.0.1:9", f"everything is complete in {run}")
        assert (run / ".push" / "README.md").is_file()
        assert done.stderr.count("trying again") == 4

    @pytest.mark.parametrize(
        "address", ["ftp://x", "hub.example.org", "https://", "file:///x", "http://[", "http://x:0"]
    )
    def test_no_address_of_a_hub(self, push: Push, run: Path, address: str) -> None:
        done = push(run, "--endpoint", address)
        one_line(done, f"{address}: not the address of a Hub", "https://HOST")
        assert "making the card" not in done.stderr, "refused at once"

    def test_offline_mode(self, push: Push, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        one_line(push(run), "offline mode is on; unset HF_HUB_OFFLINE")


def account(
    *,
    role: str = "write",
    orgs: list[dict[str, Any]] | None = None,
    scopes: list[tuple[str, list[str]]] | None = None,
    everywhere: list[str] | None = None,
) -> dict[str, Any]:
    """What whoami says."""
    token: dict[str, Any] = {"displayName": "t", "role": role}
    if role == "fineGrained":
        scoped = [
            {"entity": {"name": name, "type": "user"}, "permissions": rights}
            for name, rights in scopes or []
        ]
        token["fineGrained"] = {"scoped": scoped, "global": everywhere or []}
    return {
        "type": "user",
        "name": "alice",
        "orgs": orgs or [],
        "auth": {"type": "access_token", "accessToken": token},
    }


TEAM = [{"name": "team", "roleInOrg": "contributor"}]
READS, WRITES = ["repo.content.read"], ["repo.content.read", "repo.write"]


@pytest.mark.parametrize(
    ("answer", "repo"),
    [
        (account(), "alice/x"),
        (account(orgs=TEAM), "team/x"),
        (account(role="fineGrained", scopes=[("alice", WRITES)]), "alice/x"),
        (account(role="fineGrained", scopes=[("team/x", WRITES)]), "team/x"),
        (account(role="fineGrained", everywhere=["repo.write"]), "alice/x"),
        ({"name": "alice", "orgs": [], "auth": {"accessToken": {"role": "fineGrained"}}}, "a/x"),
    ],
)
def test_tokens_that_may_write(hub: HubServer, answer: dict[str, Any], repo: str) -> None:
    hub.accounts[TOKEN] = answer
    assert HubRepo("dataset", repo).check_write() == answer["name"]


@pytest.mark.parametrize(
    ("answer", "repo", "line"),
    [
        (account(role="read"), "alice/x", "the token of alice may only read"),
        (account(), "bob/x", "alice is no member of bob; the token may write to alice"),
        (account(orgs=TEAM), "bob/x", "the token may write to alice, team"),
        (
            account(orgs=[{"name": "team", "roleInOrg": "read"}]),
            "team/x",
            "alice has the role read in team",
        ),
        (
            account(role="fineGrained", scopes=[("alice", READS)]),
            "alice/x",
            "the fine-grained token of alice has no write right for alice",
        ),
        (
            account(role="fineGrained", scopes=[("alice", WRITES)]),
            "team/x",
            "no write right for team",
        ),
    ],
)
def test_tokens_that_may_not(hub: HubServer, answer: dict[str, Any], repo: str, line: str) -> None:
    hub.accounts[TOKEN] = answer
    with pytest.raises(HubError, match=line):
        HubRepo("dataset", repo).check_write()
