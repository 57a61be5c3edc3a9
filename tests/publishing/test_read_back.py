"""`filter` on the Hub id of a pushed run: the run directory again, byte for byte."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sso_data.cli import app
from tests.cli.test_bad_input import one_line
from tests.hub_server import HubServer
from tests.loopback.faults import Fault, from_then_on, never
from tests.loopback.repos import Blob
from tests.publishing.conftest import REPO, Push, made_run


def filter_(*options: object, repo: str = REPO) -> Result:
    return CliRunner().invoke(app, ["filter", repo, *map(str, options)])


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_run_is_made_again(hub: HubServer, push: Push, run: Path, tmp_path: Path) -> None:
    assert push(run).exit_code == 0
    out = tmp_path / "again"
    done = filter_("--out", out)
    assert done.exit_code == 0, done.output
    assert "prompts 7 = rows 6 + failed 1" in done.stdout
    for name in ("rows/00000.jsonl", "rows/00001.jsonl", "pairs/train.jsonl", "pairs/filter.json"):
        assert (out / name).read_bytes() == (run / name).read_bytes()
    assert json.loads((out / "run.json").read_text())["config"]["model"] == "./test"
    assert not [name for name in names(out) if "huggingface" in name]
    assert not list(tmp_path.glob(".again*"))


def test_again_it_is_filtered_where_it_is(
    hub: HubServer, push: Push, run: Path, tmp_path: Path
) -> None:
    push(run)
    filter_("--out", tmp_path / "again")
    hub.requests.clear()
    done = filter_("--out", tmp_path / "again", "--set", "filter.gap=50")
    assert done.exit_code == 0
    assert "kept 0" in done.stdout
    assert not [line for line in hub.requests if "rows/" in line or "storage" in line]


def test_what_was_read_back_can_be_pushed(
    hub: HubServer, push: Push, run: Path, tmp_path: Path
) -> None:
    push(run)
    filter_("--out", tmp_path / "again")
    done = push(tmp_path / "again")
    assert "nothing to do" in done.stdout, done.output


def test_a_dry_run_makes_no_directory(
    hub: HubServer, push: Push, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run)
    monkeypatch.chdir(tmp_path)
    before = names(tmp_path)
    done = filter_("--dry-run", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["rows"], said["failed"], said["dry_run"]) == (6, 1, True)
    assert {name for name in names(tmp_path) - before if not name.startswith("hf")} == set()


def test_an_interrupted_download_goes_on(
    hub: HubServer, push: Push, run: Path, tmp_path: Path
) -> None:
    push(run)
    out = tmp_path / "again"
    broken = 0
    for number in range(8):
        hub.requests.clear()
        hub.plan = from_then_on(number, Fault("cut"))
        failed = filter_("--out", out)
        broken += failed.exit_code
        assert out.exists() is (failed.exit_code == 0), failed.output
        hub.plan = never
        assert filter_("--out", out).exit_code == 0
        assert (out / "rows/00001.jsonl").read_bytes() == (run / "rows/00001.jsonl").read_bytes()
        shutil.rmtree(out)
    assert broken >= 4


def test_what_an_earlier_download_left_is_not_mixed_in(
    hub: HubServer, push: Push, run: Path, tmp_path: Path
) -> None:
    other = made_run(tmp_path / "other", 2, created="2026-05-05T05:05:05+00:00")
    push(run)
    push(other, repo="team/other")
    out = tmp_path / "again"
    commit = hub.repos[REPO].head("main").oid
    left = out.with_name(f".again.{commit[:12]}.download")
    shutil.copytree(run / "rows", left / "rows")
    assert filter_("--out", out, repo="team/other").exit_code == 0
    assert (out / "rows/00000.jsonl").read_bytes() == (other / "rows/00000.jsonl").read_bytes()
    assert not left.exists()


class TestRefusals:
    def test_no_directory_named(self, hub: HubServer) -> None:
        one_line(filter_(), f"{REPO}: no such directory", "sso-data generate", "--out")
        assert not hub.requests

    def test_not_on_the_hub(self, hub: HubServer, tmp_path: Path) -> None:
        one_line(filter_("--out", tmp_path / "x"), "no such dataset on the Hub")

    def test_no_run_in_it(self, hub: HubServer, tmp_path: Path) -> None:
        hub.add_dataset(REPO, {"train.jsonl": b"{}\n"})
        one_line(filter_("--dry-run"), "holds no run.json")

    def test_a_broken_manifest(self, hub: HubServer, push: Push, run: Path, tmp_path: Path) -> None:
        push(run)
        for content in (b"{", b"[]", b'{"identity": {}}'):
            hub.repos[REPO].change("main", {"run.json": Blob(content)}, [], "broken")
            one_line(filter_("--out", tmp_path / "x"), "run.json")
            assert not (tmp_path / "x").exists()

    def test_pairs_alone(self, hub: HubServer, push: Push, run: Path, tmp_path: Path) -> None:
        push(run, "--what", "pairs")
        one_line(filter_("--out", tmp_path / "x"), "holds only pairs", "--what all")

    def test_a_directory_of_something_else(
        self, hub: HubServer, push: Push, run: Path, tmp_path: Path
    ) -> None:
        push(run)
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "notes.txt").write_text("mine")
        one_line(filter_("--out", tmp_path / "x"), "not empty and not a run")
        other = made_run(tmp_path / "other", created="2026-05-05T05:05:05+00:00")
        one_line(filter_("--out", other), "holds another run: created is")

    def test_other_rows_of_the_same_run(
        self, hub: HubServer, push: Push, run: Path, tmp_path: Path
    ) -> None:
        push(run)
        changed = hub.repos[REPO].files["rows/00001.jsonl"].replace(b"kite", b"bird")
        hub.repos[REPO].change("main", {"rows/00001.jsonl": Blob(changed)}, [], "changed")
        one_line(filter_("--out", run), "holds this run, but with different rows")

    def test_out_is_for_the_hub(self, run: Path, tmp_path: Path) -> None:
        one_line(filter_("--out", tmp_path / "x", repo=str(run)), "is a local run")

    def test_private_without_a_token(
        self, hub: HubServer, push: Push, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        push(run)
        monkeypatch.delenv("HF_TOKEN")
        one_line(filter_("--dry-run"), "no such dataset on the Hub (private? `hf auth login`)")


def test_a_run_of_others_brings_no_code(
    hub: HubServer, push: Push, run: Path, tmp_path: Path
) -> None:
    push(run)
    manifest = json.loads(hub.repos[REPO].files["run.json"])
    evil_engine = {"trust_remote_code": True, "vllm": {"worker_cls": "evil.W"}}
    manifest["config"]["engine"] |= {**evil_engine, "servers": ["http://evil"]}
    manifest["config"]["engine"]["cluster"] = "ray://evil:10001"
    evil = {"run.json": Blob(json.dumps(manifest).encode())}
    hub.repos[REPO].change("main", evil, [], "evil")
    assert filter_("--out", tmp_path / "again").exit_code == 0
    engine = json.loads((tmp_path / "again/run.json").read_text())["config"]["engine"]
    assert (engine["trust_remote_code"], engine["vllm"], engine["servers"]) == (False, {}, [])
    assert engine["cluster"] is None
