"""Every experiment of the paper's tables and figures has its recipe, with the settings it names."""

from collections.abc import Mapping
from typing import Any

import pytest

from sso_data.config.iteration import IterateConfig
from sso_data.config.loading import validated
from sso_data.config.recipes import load_recipe, recipe_names

SFT = {"llama3.1-8b-sft": "models/llama-3.1-8b-sft", "qwen2-7b-sft": "models/qwen2-7b-sft"}
INSTRUCT = {
    "llama3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen2-7b-instruct": "Qwen/Qwen2-7B-Instruct",
}
LLAMA_3 = {
    "llama3-8b-sft": "models/llama-3-8b-sft",
    "llama3-8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
}
ONLINE = ("ultrafeedback", "pbaa", "sso")
ABLATIONS = (
    "sso",
    "sso-without-w",
    "sso-without-w-as-published",
    "sso-without-g",
    "sso-without-w-g",
)

EXPERIMENTS: Mapping[str, set[str]] = {
    "Table 1": {f"{model}-{method}" for model in SFT for method in ONLINE},
    "Table 2": {f"{model}-{method}" for model in INSTRUCT for method in ONLINE},
    "Table 3": {
        f"llama3.1-8b-{kind}-offline-{data}"
        for kind in ("sft", "instruct")
        for data in ("ultrafeedback", "sso")
    },
    "Table 4": {"reward-skywork", "reward-skywork-synthetic", "reward-skywork-ultrafeedback"},
    "Table 5": {f"qwen2-7b-instruct-{method}" for method in ABLATIONS},
    "Table 6": {f"{model}-{method}-dpo" for model in INSTRUCT for method in ("pbaa", "sso")},
    "Table 7": {"infinity-llama3.1-8b-sso"},
    "Table 8": {f"{model}-{method}-dpo" for model in INSTRUCT for method in ("pbaa", "sso")},
    "Table 12": {f"{model}-{method}" for model in INSTRUCT for method in ABLATIONS},
    "Figure 1": {
        "llama3.1-8b-sft-sso",
        "llama3.1-8b-instruct-sso",
        "llama3.1-8b-sft-offline-sso",
        "llama3.1-8b-instruct-offline-sso",
        "reward-skywork-synthetic",
    },
    "Figure 4": {f"llama3.1-8b-sft-{method}" for method in ONLINE},
    "Figure 5": {
        "llama3.1-8b-instruct-sso",
        "llama3.1-8b-instruct-sso-w-on-all",
        "llama3.1-8b-instruct-sso-w-detached",
    },
    "Instruct models in full": {f"{model}-{method}" for model in INSTRUCT for method in ONLINE},
    "Llama 3 models": {f"{model}-{method}" for model in LLAMA_3 for method in ONLINE},
    "Offline in full": {
        f"llama3.1-8b-{kind}-offline-{data}"
        for kind in ("sft", "instruct")
        for data in ("ultrafeedback", "sso")
    },
    "Second version": {f"{model}-generator" for model in SFT | INSTRUCT},
}
"""By table and figure, captioned or not; those without experiments are left out: figures 2 and 3
are drawings, and the tables of principles are the catalogue's."""


def config_of(name: str) -> IterateConfig:
    return validated(IterateConfig, load_recipe(name), origin=name)


def test_every_experiment_has_its_recipe_and_no_recipe_is_without_one() -> None:
    found: dict[str, set[str]] = {}
    for name in recipe_names():
        for place in config_of(name).reproduces:
            found.setdefault(place, set()).add(name)
    assert found == EXPERIMENTS


@pytest.mark.parametrize(("start", "model"), (SFT | INSTRUCT | LLAMA_3).items())
def test_recipes_start_from_the_model_of_their_name(start: str, model: str) -> None:
    named = [name for name in recipe_names() if name.startswith(f"{start}-")]
    assert len(named) >= 3
    assert {config_of(name).model for name in named} == {model}


@pytest.mark.parametrize("name", [name for name in recipe_names() if "offline" not in name])
def test_prompts_are_those_of_ultrafeedback(name: str) -> None:
    config = config_of(name)
    assert config.prompts == "HuggingFaceH4/ultrafeedback_binarized"
    assert config.generate.source.split == "train_prefs"
    assert config.rounds == (1 if "reward" in name or "generator" in name else 3)


LOSSES: Mapping[str, Mapping[str, Any]] = {
    "sso": {"objective": "sso", "type": "ipo", "beta": 0.2, "alpha": 0.66, "g": 0.1},
    "pbaa": {"objective": "pairs", "type": "ipo", "beta": 0.2},
    "ultrafeedback": {"objective": "pairs", "type": "ipo", "beta": 0.2},
    "offline-ultrafeedback": {"objective": "pairs", "type": "ipo", "beta": 0.2},
    "offline-sso": {"objective": "pairs", "type": "ipo", "beta": 0.2},
    "sso-dpo": {"objective": "sso", "type": "dpo", "beta": 0.2, "g": 0.1},
    "pbaa-dpo": {"objective": "pairs", "type": "dpo", "beta": 0.2},
    "sso-without-w": {"objective": "sso", "use_w": False, "use_g": True, "recipe": "method"},
    "sso-without-w-as-published": {"use_w": False, "use_g": True, "recipe": "as-published"},
    "sso-without-g": {"objective": "sso", "use_w": True, "use_g": False},
    "sso-without-w-g": {"objective": "sso", "use_w": False, "use_g": False},
    "sso-w-on-all": {"objective": "sso", "weight_scope": "all", "detach_weight": False},
    "sso-w-detached": {"weight_scope": "good_bad", "detach_weight": True},
    "generator": {"objective": "pairs", "type": "dpo", "beta": 0.1},
}


@pytest.mark.parametrize("name", [name for name in recipe_names() if "reward" not in name])
def test_the_loss_is_that_of_the_recipes_method(name: str) -> None:
    method = max((m for m in LOSSES if name.endswith(f"-{m}")), key=len)
    loss = config_of(name).train.loss
    wanted = {"recipe": "method", "weight_scope": "good_bad"} | dict(LOSSES[method])
    assert {key: getattr(loss, key) for key in wanted} == wanted


def test_labelled_pairs_stand_in_for_generated_ones() -> None:
    labelled = {name: config.labelled for name in recipe_names() if (config := config_of(name))}
    ultrafeedback = {
        name: section
        for name, section in labelled.items()
        if section and section.data == "HuggingFaceH4/ultrafeedback_binarized"
    }
    assert ultrafeedback.keys() == {
        name for name in recipe_names() if name.endswith("ultrafeedback")
    }
    assert {section.split for section in ultrafeedback.values()} == {"train_prefs"}
    others = {name: section.data for name, section in labelled.items() if section}
    assert {name: data for name, data in others.items() if name not in ultrafeedback} == {
        "llama3.1-8b-sft-offline-sso": "data/llama3.1-8b-sft-pairs.jsonl",
        "llama3.1-8b-instruct-offline-sso": "data/llama3.1-8b-instruct-pairs.jsonl",
        "reward-skywork": "Skywork/Skywork-Reward-Preference-80K-v0.1",
    }


@pytest.mark.parametrize("more", ["", "-synthetic", "-ultrafeedback"])
def test_reward_models_are_trained_on_skyworks_pairs_and_others(more: str) -> None:
    config = config_of(f"reward-skywork{more}")
    assert config.train.kind == "reward"
    mixed = [part.data for part in config.train.reward.mix]
    assert mixed == (["Skywork/Skywork-Reward-Preference-80K-v0.1"] if more else [])


def test_the_second_version_trains_a_generator_first() -> None:
    config = config_of("llama3.1-8b-instruct-generator")
    assert config.generator
    loss = config.generator.train.loss
    assert (loss.objective, loss.type, loss.beta, loss.generator_nll) == (
        "sso-generator",
        "dpo",
        0.1,
        0.1,
    )
    for training in (config.generator.train, config.train):
        assert (training.optim.lr, training.optim.warmup_steps) == (5e-7, 0.04)
        assert training.sequence.max_length == 2048
    steering = config.generate.steering
    assert (steering.choose, steering.principles) == ("none", "written")
    assert config.generate.filter.preset == "none"
