"""What `train` says of its result: log, card and saved model agree, or it says that they do not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from sso_data.models.directory import model_fingerprint
from sso_data.world import policy_dir
from tests.training.command.conftest import Train, weights

DEFAULT_RATE = (
    *("--set=optim.lr=5e-7", "--set=optim.warmup_steps=0.1", "--set=optim.max_steps=12"),
    "--set=optim.batch_size=4",
)
FLOAT32 = "--set=optim.save_dtype=float32"


def comparison_of(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)["comparison"]
    return found


def test_twelve_steps_at_the_default_rate_do_not_survive_bfloat16(
    train: Train, run: Path, tmp_path: Path
) -> None:
    """In float32 files they do, and what an engine in bfloat16 sees is told as well."""
    done = train(run, tmp_path / "a", "--json", *DEFAULT_RATE)
    found = comparison_of(done)
    assert (found["rows"], found["saved_dtype"]) == (24, "bfloat16")
    assert found["memory"][1] > 0, "the training moved the policy"
    assert found["memory"][0] > 3 * abs(found["saved"][0]) and found["lost_saved"] > 0.5
    assert 0 < found["changed_saved"] < 0.02
    assert "undid" in done.stderr and "optim.save_dtype=float32" in done.stderr
    assert "of the weights can move by a step of bfloat16" in done.stderr
    card = (tmp_path / "a" / "README.md").read_text()
    assert found["text"] in card and found["warnings"][0] in card

    done = train(run, tmp_path / "b", "--json", FLOAT32, *DEFAULT_RATE)
    exact = comparison_of(done)
    assert exact["memory"] == found["memory"] == exact["saved"]
    assert (exact["lost_saved"], exact["saved_dtype"]) == (0.0, "float32")
    assert exact["loaded"] == found["saved"] and exact["changed_loaded"] == found["changed_saved"]
    assert exact["changed_saved"] > 0.9
    assert "engine.dtype=float32" in done.stderr and "undid" not in done.stderr
    after, before = weights(tmp_path / "b"), weights(policy_dir())
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == "float32"
    shares = [(after[name] != before[name].float()).double().mean() for name in before]
    assert min(shares) > 0.5


def test_a_training_that_shows_in_its_files(train: Train, run: Path, tmp_path: Path) -> None:
    done = train(run, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "in the saved bfloat16 files +" in done.stdout
    assert "undid" not in done.stderr and "can move" not in done.stderr


def test_nothing_trained_is_an_error_each_time(train: Train, run: Path, tmp_path: Path) -> None:
    options = ("--set=optim.lr=1e-12", "--set=optim.max_steps=1")
    for _ in range(2):
        done = train(run, tmp_path / "out", *options)
        assert done.exit_code == 1
        assert "nothing was trained: no weight of the saved bfloat16 files" in done.stderr
    manifest = json.loads((tmp_path / "out" / "train.json").read_text())
    assert manifest["comparison"]["changed_saved"] == 0 and "finished" in manifest
    assert model_fingerprint(tmp_path / "out") == model_fingerprint(policy_dir())


def test_an_adapter_and_a_merged_one(train: Train, run: Path, tmp_path: Path) -> None:
    """An adapter keeps its numbers in bfloat16; a merged one keeps them all in float32."""
    pytest.importorskip("peft")
    options = ("--lora", "--json", "--set=optim.lr=1e-3")
    found = comparison_of(train(run, tmp_path / "a", *options))
    assert found["memory"][0] > 0 and found["changed_saved"] > 0.9, "its matrices began at 0"
    assert found["saved"] == pytest.approx(found["memory"], rel=0.05)
    merged = comparison_of(train(run, tmp_path / "b", FLOAT32, "--set=lora.merge=true", *options))
    assert merged["memory"] == found["memory"]
    assert merged["saved"] == pytest.approx(merged["memory"], rel=1e-3)


def test_reward_models_compare_rewards(train: Train, run: Path, tmp_path: Path) -> None:
    options = ("--objective", "reward", "--json", FLOAT32)
    found = comparison_of(train(run, tmp_path / "out", *options))
    assert found["of"] == "reward of y+ less that of y-"
    assert found["saved"] == pytest.approx(found["memory"], rel=1e-4)
