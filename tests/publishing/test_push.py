"""`push`: what a repository holds afterwards, and what stays as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi

from sso_data.config.run import RunConfig
from sso_data.filtering.refilter import refilter
from sso_data.publishing import upload
from sso_data.publishing.dataset import push_run
from tests.hub_server import HubServer
from tests.loopback.repos import Blob
from tests.publishing.conftest import REPO, TOKEN, Push, made_run
from tests.publishing.listening import Listening


def stored(hub: HubServer, repo: str = REPO) -> dict[str, bytes]:
    return hub.repos[repo].files


def metadata(hub: HubServer) -> dict[str, Any]:
    front = stored(hub)["README.md"].decode().split("---\n")[1]
    found: dict[str, Any] = yaml.safe_load(front)
    return found


class TestANewRepository:
    def test_holds_everything_in_one_commit(self, hub: HubServer, push: Push, run: Path) -> None:
        done = push(run, "--json")
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout)
        repo = hub.repos[REPO]
        assert repo.private
        assert len(repo.branches["main"]) == 2
        assert said["commit"] == repo.head("main").oid
        assert (said["private"], said["is_new"], said["new_files"]) == (True, True, 10)
        files = stored(hub)
        assert set(files) == {
            *(".gitattributes", "README.md", "run.json", "dataset_info.json", "filter.json"),
            *("train.jsonl", "rows/00000.jsonl", "rows/00001.jsonl", "failed.jsonl"),
            *("plots/lengths.png", "plots/logprobs.png"),
        }
        assert files["train.jsonl"] == (run / "pairs/train.jsonl").read_bytes()
        for name in ("00000", "00001"):
            part = run / "rows" / f"{name}.jsonl"
            assert files[f"rows/{name}.jsonl"] == part.read_bytes()
        assert repo.head("main").blobs["train.jsonl"].is_large
        assert not hub.leaked, "the token went to another origin"
        assert not (run / ".push").exists()

    def test_the_card_names_both_configurations(
        self, hub: HubServer, push: Push, run: Path
    ) -> None:
        assert push(run, "--language", "en", "--license", "mit").exit_code == 0
        found = metadata(hub)
        assert [config["config_name"] for config in found["configs"]] == ["pairs", "rows"]
        assert found["configs"][0]["default"] is True
        assert (found["language"], found["license"]) == (["en"], "mit")
        columns = {
            info["config_name"]: [feature["name"] for feature in info["features"]]
            for info in found["dataset_info"]
        }
        pair = json.loads((run / "pairs/train.jsonl").read_text().splitlines()[0])
        row = json.loads((run / "rows/00000.jsonl").read_text().splitlines()[0])
        assert columns == {"pairs": list(pair), "rows": list(row)}

    def test_nothing_of_this_machine_leaves_it(self, hub: HubServer, push: Push, run: Path) -> None:
        assert push(run).exit_code == 0
        for path in ("run.json", "failed.jsonl", "README.md", "filter.json", "dataset_info.json"):
            content = stored(hub)[path].decode()
            for secret in ("/data/mine", str(run), TOKEN):
                assert secret not in content, path
        assert b"/data/mine" not in b"".join(stored(hub).values())
        manifest = json.loads(stored(hub)["run.json"])
        assert manifest["config"]["model"] == "./test"
        assert manifest["sources"] == ["./in.jsonl"]
        assert json.loads(stored(hub)["failed.jsonl"])["detail"] == "in.jsonl:7: not JSON"

    def test_failures_are_told_once(self, hub: HubServer, push: Push, run: Path) -> None:
        """The run's log may name a prompt several times, and prompts that are rows by now."""
        log = run / "failed.jsonl"
        (lost,) = [json.loads(line) for line in log.read_text().splitlines()]
        done = json.loads((run / "rows/00000.jsonl").read_text().splitlines()[0])["id"]
        lines = [lost, lost | {"id": done}, lost | {"id": "new-0"}, lost | {"attempts": 2}]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert push(run).exit_code == 0
        published = [json.loads(line) for line in stored(hub)["failed.jsonl"].splitlines()]
        assert [(line["id"], line["attempts"]) for line in published] == [
            ("new-0", 1),
            ("lost-0", 2),
        ]
        card = stored(hub)["README.md"].decode()
        assert "`failed.jsonl` holds the 2 prompts that failed" in card
        assert "| prompts | 8 = rows 6 + failed 2 |" in card
        log.write_text(json.dumps(lost | {"id": done}) + "\n")
        assert push(run).exit_code == 0
        assert "failed.jsonl" not in stored(hub)
        assert "failed.jsonl" not in stored(hub)["README.md"].decode()

    def test_llama_factory_finds_the_pairs(self, hub: HubServer, push: Push, run: Path) -> None:
        assert push(run).exit_code == 0
        entry = json.loads(stored(hub)["dataset_info.json"])["pairs"]
        assert (entry["hf_hub_url"], entry["subset"]) == (REPO, "pairs")
        assert entry["columns"]["chosen"] == "chosen_message"

    def test_public_is_opened_last(self, hub: HubServer, push: Push, run: Path) -> None:
        done = push(run, "--public", "--license", "mit")
        assert done.exit_code == 0, done.output
        assert "(public)" in done.stdout
        assert not hub.repos[REPO].private
        assert hub.requests[-1] == f"PUT /api/datasets/{REPO}/settings"
        assert hub.repos[REPO].was_public == [tuple(sorted(stored(hub)))]

    def test_pairs_alone(self, hub: HubServer, push: Push, run: Path) -> None:
        assert push(run, "--what", "pairs").exit_code == 0
        assert not [path for path in stored(hub) if path.startswith("rows/")]
        assert "failed.jsonl" not in stored(hub)
        assert "`failed.jsonl`" not in stored(hub)["README.md"].decode()
        assert [config["config_name"] for config in metadata(hub)["configs"]] == ["pairs"]

    def test_a_torn_last_line_stays_here(self, hub: HubServer, push: Push, run: Path) -> None:
        part = run / "rows/00001.jsonl"
        whole = part.read_bytes()
        part.write_bytes(whole + b'{"schema_version":1,"id":"to')
        assert push(run).exit_code == 0
        assert stored(hub)["rows/00001.jsonl"] == whole

    def test_large_files_in_parts(self, hub: HubServer, push: Push, run: Path) -> None:
        hub.part_bytes = 1500
        done = push(run)
        assert done.exit_code == 0, done.output
        assert [path for path in hub.requests if "/api/complete-multipart/" in path]
        assert stored(hub)["train.jsonl"] == (run / "pairs/train.jsonl").read_bytes()


class TestARepositoryThatIsThere:
    def test_the_same_again_is_nothing_to_do(self, hub: HubServer, push: Push, run: Path) -> None:
        push(run)
        before = len(hub.requests)
        done = push(run)
        assert done.exit_code == 0
        assert "nothing to do" in done.stdout
        assert len(hub.repos[REPO].branches["main"]) == 2
        later = [line for line in hub.requests[before:] if not line.startswith("GET")]
        assert not later

    def test_another_filter_replaces_the_pairs(self, hub: HubServer, push: Push, run: Path) -> None:
        push(run)
        sent = _stored_rows(hub)
        loose = RunConfig().filter.model_copy(update={"gap": 0.0, "min_tokens": 2})
        refilter(run, RunConfig(filter=loose))
        hub.requests.clear()
        assert push(run).exit_code == 0
        assert len(hub.repos[REPO].branches["main"]) == 3
        assert _stored_rows(hub) == sent
        assert json.loads(stored(hub)["filter.json"])["thresholds"]["requested"]["gap"] == 0.0
        uploads = [line for line in hub.requests if line.startswith("PUT storage")]
        assert not uploads, "nothing that the Hub holds is sent again"

    def test_rows_go_when_pairs_alone_are_pushed(
        self, hub: HubServer, push: Push, run: Path
    ) -> None:
        push(run)
        assert push(run, "--what", "pairs").exit_code == 0
        assert not _stored_rows(hub)
        found = metadata(hub)
        assert [config["config_name"] for config in found["configs"]] == ["pairs"]
        assert [info["config_name"] for info in found["dataset_info"]] == ["pairs"]
        assert push(run).exit_code == 0
        assert len(_stored_rows(hub)) == 2

    def test_what_others_wrote_stays(self, hub: HubServer, push: Push, run: Path) -> None:
        card = "---\nlicense: mit\npretty_name: Mine\n---\n# My words\n"
        hub.add_dataset(REPO, {"README.md": card.encode(), "LICENSE": b"MIT"}, private=True)
        assert push(run).exit_code == 0
        text = stored(hub)["README.md"].decode()
        assert "# My words" in text
        found = metadata(hub)
        assert (found["license"], found["pretty_name"]) == ("mit", "Mine")
        assert stored(hub)["LICENSE"] == b"MIT"
        assert "nothing to do" in push(run).stdout

    def test_another_run_is_refused_then_replaced(
        self, hub: HubServer, push: Push, run: Path, tmp_path: Path
    ) -> None:
        other = made_run(tmp_path / "other", 3, created="2026-05-05T05:05:05+00:00")
        push(run)
        hub.repos[REPO].change("main", {"notes.md": Blob(b"by hand")}, [], "by hand")
        before = stored(hub)
        refused = push(other)
        assert refused.exit_code == 1
        assert f"{REPO}: holds another run: created is" in refused.stderr
        assert "--overwrite" in refused.stderr
        assert stored(hub) == before
        assert push(other, "--overwrite").exit_code == 0
        assert stored(hub)["notes.md"] == b"by hand"
        assert stored(hub)["train.jsonl"] == (other / "pairs/train.jsonl").read_bytes()
        assert stored(hub)["rows/00000.jsonl"] == (other / "rows/00000.jsonl").read_bytes()

    def test_files_of_others_are_not_overwritten(
        self, hub: HubServer, push: Push, run: Path
    ) -> None:
        hub.add_dataset(REPO, {"train.jsonl": b"{}\n"}, private=True)
        refused = push(run)
        assert refused.exit_code == 1
        assert "holds files that are not from a push (train.jsonl)" in refused.stderr
        assert stored(hub) == {"train.jsonl": b"{}\n"}

    def test_a_public_one_wants_to_be_named_public(
        self, hub: HubServer, push: Push, run: Path
    ) -> None:
        hub.add_dataset(REPO, {".gitattributes": b""})
        refused = push(run)
        assert refused.exit_code == 1
        assert "is public; add --public" in refused.stderr
        assert len(stored(hub)) == 1
        assert push(run, "--public", "--license", "mit").exit_code == 0
        assert not hub.repos[REPO].private
        assert push(run).exit_code == 0, "there is nothing to publish"

    def test_private_closes_it_before_anything_is_sent(
        self, hub: HubServer, push: Push, run: Path
    ) -> None:
        hub.add_dataset(REPO, {".gitattributes": b""})
        assert push(run, "--private").exit_code == 0
        assert hub.repos[REPO].private
        assert hub.repos[REPO].was_public == [(".gitattributes",)]

    def test_a_branch(self, hub: HubServer, push: Push, run: Path) -> None:
        push(run, "--what", "pairs")
        api = HfApi(endpoint=hub.endpoint, token=TOKEN)
        api.create_branch(REPO, branch="all", repo_type="dataset")
        assert push(run, "--revision", "all").exit_code == 0
        assert "rows/00000.jsonl" in hub.repos[REPO].head("all").blobs
        assert "rows/00000.jsonl" not in stored(hub)
        assert {ref.name for ref in api.list_repo_refs(REPO, repo_type="dataset").branches} == {
            "main",
            "all",
        }

    def test_what_gitignore_keeps_out_is_said(self, hub: HubServer, push: Push, run: Path) -> None:
        hub.add_dataset(REPO, {".gitignore": b"rows/\n"}, private=True)
        refused = push(run)
        assert refused.exit_code == 1
        assert ".gitignore excludes rows/00000.jsonl" in refused.stderr
        assert set(stored(hub)) == {".gitignore"}


def _stored_rows(hub: HubServer) -> dict[str, bytes]:
    return {path: content for path, content in stored(hub).items() if path.startswith("rows/")}


def test_bytes_are_counted_as_they_go(
    hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "GROUP_BYTES", 1)
    listener = Listening()
    push_run(run, REPO, progress=listener)
    seen, total = listener.bytes, listener.bytes[0][1]
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) == 11, "one count for each file and one before"


@pytest.mark.parametrize("option", ["--public", "--private"])
def test_only_the_visibility_changes(hub: HubServer, push: Push, run: Path, option: str) -> None:
    push(run, "--private" if option == "--public" else "--public", "--license", "mit")
    hub.requests.clear()
    done = push(run, option)
    assert done.exit_code == 0
    assert hub.repos[REPO].private is (option == "--private")
    assert [line for line in hub.requests if not line.startswith("GET")] == [
        f"PUT /api/datasets/{REPO}/settings"
    ]
