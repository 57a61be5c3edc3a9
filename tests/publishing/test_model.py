"""A trained model in its repository: what is there, what may be replaced, whose card it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from typer.testing import CliRunner

from sso_data.cli import app
from sso_data.config.training import TrainConfig
from sso_data.core.errors import HubError, RunError, SsoDataError
from sso_data.publishing.model import check_model_target, push_model
from sso_data.publishing.upload import Published
from sso_data.runs.workdir import write_json
from sso_data.training.card import write_card
from tests.cli.test_bad_input import one_line
from tests.hub_server import HubServer, Repo
from tests.loopback.repos import Blob
from tests.publishing.listening import Listening

REPO = "team/model"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return made_training(tmp_path / "out")


def made_training(folder: Path, *, data: str = "0123456789abcdef") -> Path:
    """A finished training of an adapter: a real card and manifest, weights of two numbers."""
    folder.mkdir()
    config = TrainConfig(model="/data/mine/models/base").model_dump(mode="json")
    manifest = {
        "identity": {"model": "fedcba9876543210", "data": data},
        "sso_data": "0.1.0",
        "model": {"name": "/data/mine/models/base", "fingerprint": "fedcba9876543210"},
        "data": {
            "source": "team/pairs:rows",
            "fingerprint": data,
            "training": 8,
            "held_out": 0,
            "encoding": {"too_long": 0},
            "made_by": [],
        },
        "config": config,
        "references": {"text": "references from the data"},
        "steps": 3,
        "max_steps": 3,
        "stopped": None,
        "finished": "2026-01-02T03:04:05+0000",
    }
    write_json(folder / "train.json", manifest)
    write_card(manifest, [{"loss": 1.0, "step": 1}], folder / "README.md")
    save_file({"a": np.ones(2, np.float32)}, folder / "adapter_model.safetensors")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "/data/mine/models/base"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "metrics.jsonl").write_text('{"loss":1.0,"step":1}\n')
    (folder / "references.npz").write_bytes(b"not for others")
    (folder / "checkpoints").mkdir()
    return folder


def push(out: Path, *, overwrite: bool = False, private: bool | None = None) -> Published:
    return push_model(out, REPO, overwrite=overwrite, private=private, progress=Listening())


def stored(hub: HubServer) -> dict[str, bytes]:
    return hub.repos[f"models/{REPO}"].files


def test_what_is_there(hub: HubServer, out: Path) -> None:
    done = push(out)
    assert (done.private, done.is_new, done.url) == (True, True, f"{hub.endpoint}/{REPO}")
    assert set(stored(hub)) == {
        *(".gitattributes", "README.md", "train.json", "metrics.jsonl"),
        *("adapter_model.safetensors", "adapter_config.json"),
    }
    weights = (out / "adapter_model.safetensors").read_bytes()
    assert stored(hub)["adapter_model.safetensors"] == weights
    for path in ("README.md", "train.json", "adapter_config.json"):
        assert "/data/mine" not in stored(hub)[path].decode()
    adapter = json.loads(stored(hub)["adapter_config.json"])
    assert adapter["base_model_name_or_path"] == "./base"
    assert not (out / ".push").exists()


def test_the_card_is_linked_to_the_dataset(hub: HubServer, out: Path) -> None:
    push(out)
    card = yaml.safe_load(stored(hub)["README.md"].decode().split("---\n")[1])
    assert card["datasets"] == ["team/pairs"]


def test_the_same_again_is_nothing_to_do(hub: HubServer, out: Path) -> None:
    first = push(out)
    again = push(out)
    assert (again.new_files, again.commit) == (0, first.commit)


def test_another_training_is_refused_then_replaced(
    hub: HubServer, out: Path, tmp_path: Path
) -> None:
    push(out)
    other = made_training(tmp_path / "other", data="00000000ffffffff")
    with pytest.raises(HubError, match="holds another training: data is"):
        push(other)
    assert push(other, overwrite=True).new_files == 2
    assert json.loads(stored(hub)["train.json"])["identity"]["data"] == "00000000ffffffff"


def test_what_others_wrote_in_the_card_stays(hub: HubServer, out: Path) -> None:
    theirs = b"---\nlicense: mit\ntags:\n- mine\n---\n# My words\n"
    hub.keep("model", REPO, Repo.of({"README.md": theirs}, kind="model", private=True))
    push(out)
    text = stored(hub)["README.md"].decode()
    card = yaml.safe_load(text.split("---\n")[1])
    assert "# My words" in text
    assert card["license"] == "mit"
    assert card["tags"][:2] == ["mine", "sso-data"]
    assert push(out).new_files == 0


def test_weights_that_are_not_there_any_more_go(hub: HubServer, out: Path) -> None:
    push(out)
    repo = hub.repos[f"models/{REPO}"]
    repo.change("main", {"model.safetensors": Blob(b"old"), "notes.md": Blob(b"n")}, [], "old")
    push(out)
    assert "model.safetensors" not in stored(hub)
    assert stored(hub)["notes.md"] == b"n"


def test_an_unfinished_training(hub: HubServer, out: Path) -> None:
    manifest = json.loads((out / "train.json").read_text())
    del manifest["finished"]
    write_json(out / "train.json", manifest)
    with pytest.raises(RunError, match="no finished training in it"):
        push(out)
    assert not hub.requests


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--push", "nowhere"), "write it as namespace/name"),
        (("--push", "other/model"), "tester is no member of other"),
        (("--public",), "--public and --private need --push"),
    ],
)
def test_a_wrong_target_is_found_before_training(
    hub: HubServer, tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    words = ["train", "team/pairs", "--model", "none/such", "--out", str(tmp_path / "model")]
    one_line(CliRunner().invoke(app, [*words, *options]), line)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("repo", "line"),
    [
        ("model", "no namespace"),
        ("other/model", "no member of other"),
        ("team/data", "is a dataset, not a model"),
        ("team/open", "is public; add --public"),
    ],
)
def test_what_is_wrong_with_a_target_is_known_before(hub: HubServer, repo: str, line: str) -> None:
    hub.add_dataset("team/data", {})
    hub.keep("model", "team/open", Repo.of({}, kind="model"))
    with pytest.raises(SsoDataError, match=line):
        check_model_target(repo)
    assert not [request for request in hub.requests if not request.startswith("GET")]
