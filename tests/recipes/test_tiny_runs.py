"""Recipes of each kind really run with `--tiny`, on fewer rows still: every step of a round."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sso_data.config.iteration import IterateConfig
from sso_data.config.loading import config_tree, validated
from sso_data.config.recipes import load_recipe
from sso_data.iteration.report import Iterated
from sso_data.iteration.run import iterate
from sso_data.iteration.training import Training
from sso_data.training.run import train
from sso_data.training.state import read_training
from tests.tiny_runs import Silent

KINDS = {
    "llama3.1-8b-sft-sso": "sso/ipo",
    "qwen2-7b-instruct-pbaa-dpo": "pairs/dpo",
    "llama3-8b-instruct-ultrafeedback": "pairs/ipo",
    "qwen2-7b-instruct-sso-without-w": "sso/ipo",
    "reward-skywork-synthetic": "reward",
    "llama3.1-8b-instruct-generator": "pairs/dpo",
}
"""A recipe of each kind, and the objective and loss type that its last training had."""

FEW = (
    "rounds=1",
    "slices.prompts=32",
    "generate.sampling.max_tokens=128",
    "held_out.limit=4",
)


def train_here(training: Training) -> None:
    """In this process: without the seconds in which another one imports torch."""
    train(str(training.source), training.out, training.config, Silent())


def run_tiny(name: str, out: Path, *settings: str) -> Iterated:
    torch.set_num_threads(1)
    tree = config_tree(None, [*FEW, *settings], base=load_recipe(name, tiny=True))
    return iterate(validated(IterateConfig, tree), out, train=train_here)


def objective_of(model: Path) -> str:
    """What a finished training was; `reward` for a reward model."""
    manifest: Any = read_training(model)
    assert manifest["finished"]
    config = manifest["config"]
    return "reward" if config["kind"] == "reward" else "{objective}/{type}".format(**config["loss"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "objective"), KINDS.items())
def test_a_recipe_of_each_kind_runs_to_its_end(name: str, objective: str, tmp_path: Path) -> None:
    few = ["slices.prompts=12"] if name.endswith("generator") else []  # its filter drops nothing
    done = run_tiny(name, tmp_path / "out", *few)
    assert done.stop is None
    (line,) = done.lines
    assert line["train_steps"]
    assert line["kept"] > 0
    assert (tmp_path / "out/report.html").is_file()
    assert objective_of(tmp_path / "out/round-1/model") == objective
    if name.endswith("generator"):
        assert objective_of(tmp_path / "out/round-1/generator") == "sso-generator/dpo"
    if objective == "reward":
        assert done.reward_model
    else:
        assert Path(done.policy.path).samefile(tmp_path / "out/round-1/model")
