"""From prompts to a trained model through the Hub, as a user does it: one process a command."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sso_data.core.records import Row
from sso_data.world import policy_dir, queries
from tests.cli.conftest import INLINE
from tests.factories import make_row, write_part
from tests.hub_server import HubServer
from tests.loopback.faults import Fault, from_then_on
from tests.publishing.conftest import TOKEN, made_run, reset
from tests.publishing.test_xet import HF_XET
from tests.training.command.conftest import QUICK
from tests.waiting import CHILD_SECONDS

LOADED = """
import json, sys, datasets

def lines(*files):
    return [json.loads(line) for file in files for line in open(file, encoding="utf-8")]

repo, run = sys.argv[1:]
pairs, rows = datasets.load_dataset(repo), datasets.load_dataset(repo, "rows")
assert list(pairs) == list(rows) == ["train"]
assert list(pairs["train"]) == lines(f"{run}/pairs/train.jsonl"), "pairs"
parts = [f"{run}/rows/{part:05}.jsonl" for part in range(int(sys.stdin.read()))]
assert list(rows["train"]) == lines(*parts), "rows"
streamed = datasets.load_dataset(repo, "rows", split="train", streaming=True)
assert list(streamed) == lines(*parts), "streamed"
"""
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def online() -> Iterator[None]:
    """This process asks nobody; its children do."""
    yield


@pytest.fixture
def command(server: HubServer, tmp_path: Path) -> Command:
    """A Python command in a process of its own; the tests' own `sso-data` with `-m sso_data`."""
    reset(server)

    def invoke(
        *words: object, xet: bool = False, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            env=environment(server, tmp_path, xet=xet),
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=CHILD_SECONDS,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done

    return invoke


def environment(hub: HubServer, folder: Path, *, xet: bool = False) -> dict[str, str]:
    return os.environ | hub.environment(folder / "hf", xet=xet) | {"HF_TOKEN": TOKEN}


def test_prompts_to_model(server: HubServer, command: Command, tmp_path: Path) -> None:
    prompts, run, out = tmp_path / "in.jsonl", tmp_path / "run", tmp_path / "model"
    prompts.write_text("".join(json.dumps({"prompt": q}) + "\n" for q in queries(12, seed=21)))
    tool = ("-m", "sso_data")
    done = command(*tool, "generate", prompts, "--out", run, *INLINE)
    assert done.returncode == 0, done.stderr
    loose = ("--set=filter.closeness=q1.0", "--set=filter.gap=q0.0")
    assert command(*tool, "filter", run, *loose).returncode == 0
    done = command(*tool, "push", run, "team/pairs", "--public", "--license", "mit")
    assert done.returncode == 0, done.stderr
    done = command("-c", LOADED, "team/pairs", run, stdin="1")
    assert done.returncode == 0, done.stderr
    for path, content in server.repos["team/pairs"].files.items():
        assert str(policy_dir()).encode() not in content, path
    model = ("--model", policy_dir(), "--out", out, "--push", "team/model", "--json")
    done = command(*tool, "train", "team/pairs", *model, *QUICK)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    kept = (run / "pairs/train.jsonl").read_text().splitlines()
    assert said["data"]["training"] == len(kept) > 0
    assert said["references"]["source"] == "recorded", "the log-probs travelled with the rows"
    _check_model(server, out)


def _check_model(hub: HubServer, out: Path) -> None:
    repo = hub.repos["models/team/model"]
    assert repo.private
    assert len(repo.branches["main"]) == 2
    assert repo.files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert repo.head("main").blobs["model.safetensors"].is_large
    assert {"config.json", "tokenizer.json", "train.json", "metrics.jsonl"} <= set(repo.files)
    card = yaml.safe_load(repo.files["README.md"].decode().split("---\n")[1])
    assert card["datasets"] == ["team/pairs"]
    for path in ("README.md", "train.json", "config.json"):
        assert str(policy_dir()) not in repo.files[path].decode(), path
    assert not hub.leaked


@pytest.mark.skipif(not HF_XET.startswith("1.8."), reason="needs hf_xet 1.8")
def test_over_xet(server: HubServer, command: Command, tmp_path: Path) -> None:
    """Columns that are null in the first part and texts in the second load, too."""
    run = made_run(tmp_path / "run")
    part = write_part(run, [_without_id(make_row(index)) for index in range(3)], 0)
    part.with_suffix(".scores").unlink()  # it describes the lines that were there
    server.xet_folder = str(tmp_path / "store")
    Path(server.xet_folder).mkdir()
    tool = ("-m", "sso_data")
    assert command(*tool, "filter", run).returncode == 0
    assert command(*tool, "push", run, "team/pairs", xet=True).returncode == 0
    assert server.repos["team/pairs"].head("main").blobs["rows/00000.jsonl"].xet_hash
    done = command("-c", LOADED, "team/pairs", run, xet=True, stdin="2")
    assert done.returncode == 0, done.stderr
    done = command(*tool, "filter", "team/pairs", "--out", tmp_path / "again", xet=True)
    assert done.returncode == 0, done.stderr
    for name in ("rows/00000.jsonl", "rows/00001.jsonl", "pairs/train.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()


def _without_id(row: Row) -> Row:
    return replace(row, source_id=None)


def test_ctrl_c_says_how_to_go_on(server: HubServer, tmp_path: Path) -> None:
    reset(server)
    run = made_run(tmp_path / "run")
    server.plan = from_then_on(3, Fault("slow", seconds=3.0))
    words = [sys.executable, "-m", "sso_data", "push", str(run), "team/pairs"]
    child = subprocess.Popen(
        words,
        env=environment(server, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    while "looking at" not in child.stderr.readline():
        assert child.poll() is None
    while len(server.requests) < 4:
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=CHILD_SECONDS)
    assert child.returncode == 130
    assert "run the same command again to continue" in said
    assert "Traceback" not in said
    assert "team/pairs" not in server.repos or server.repos["team/pairs"].private
