"""The shipped policy is small, loads, and is steered by good and bad principles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sso_data.world import policy_dir
from tests.once import once
from tools.tiny_world.measure import draw_rows, logp_table, measure, summarize
from tools.tiny_world.sampling import Policy, mean_logps, sample
from tools.tiny_world.train_policy import main as train_main

N = 200


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load(policy_dir())


@pytest.fixture(scope="module")
def summary(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def make(folder: Path) -> None:
        rows = draw_rows(policy, N, seed=7)
        found = summarize(rows, logp_table(policy, rows))
        (folder / "summary.json").write_text(json.dumps(found))

    return json.loads((once(tmp_path_factory, "summary", make) / "summary.json").read_text())


def test_the_checkpoint_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in policy_dir().iterdir()}
    assert set(files) == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= 1_500_000


def test_the_checkpoint_says_what_it_is() -> None:
    config = json.loads((policy_dir() / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] == 4096
    assert config["head_dim"] == 32
    assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (0, 1, 2)


def test_good_principles_steer_up_and_bad_ones_down(summary: Any) -> None:
    named = {view: summary["named"][view]["mean"] for view in ("good", "plain", "bad")}
    assert named["good"] >= 0.80
    assert named["bad"] <= 0.38
    assert named["bad"] + 0.15 <= named["plain"] <= named["good"] - 0.10


def test_every_feature_can_be_steered(summary: Any) -> None:
    for name, views in summary["feature"].items():
        assert views["good"]["mean"] >= views["bad"]["mean"] + 0.3, name


def test_the_oracle_prefers_the_response_drawn_under_good(summary: Any) -> None:
    assert summary["signal_accuracy_named"]["mean"] >= 0.90
    assert summary["signal_accuracy_total"]["mean"] >= 0.88


def test_responses_are_well_formed_and_end(summary: Any) -> None:
    for view in ("plain", "good", "bad"):
        assert summary["well_formed"][view]["mean"] >= 0.97
        assert summary["ended"][view]["mean"] >= 0.99


def test_the_plain_policy_has_room_to_improve(summary: Any) -> None:
    assert 0.45 <= summary["total"]["plain"]["mean"] <= 0.75


def test_mean_log_probabilities_order_the_views(summary: Any) -> None:
    logp = {cell: value["mean"] for cell, value in summary["logp"].items()}
    assert logp["good.good"] > logp["plain.good"] > logp["bad.good"]
    assert logp["bad.bad"] > logp["plain.bad"] > logp["good.bad"]


def test_sampling_is_deterministic_and_scores_are_log_probabilities(policy: Policy) -> None:
    prompts = [[{"role": "user", "content": "Name some fruits."}]] * 5
    drawn = sample(policy, prompts, seed=3)
    assert drawn == sample(policy, prompts, seed=3)
    assert len({one.text for one in drawn}) > 1
    assert all(-3.0 < mean < 0.0 for mean in mean_logps(policy, [(d.prompt, d.ids) for d in drawn]))


def test_foreign_text_does_not_break_the_policy(policy: Policy) -> None:
    drawn = sample(policy, [[{"role": "user", "content": "Où est la gare ? 🚉"}]], seed=0, most=20)
    assert 1 <= len(drawn[0].ids) <= 20


def test_training_writes_a_checkpoint_that_can_be_measured(tmp_path: Path) -> None:
    def train(name: str) -> bytes:
        steps = ["--clear-steps", "2", "--noisy-steps", "1", "--batch", "4"]
        assert train_main(["--out", str(tmp_path / name), *steps]) == 0
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert train("one") == train("two")
    assert set(measure(tmp_path / "one", 2, seed=0)) >= {"signal_accuracy_total", "seconds"}
