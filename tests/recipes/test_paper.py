"""`recipe: paper`: the paper's values lie under what is given, whatever our defaults are."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sso_data.config.loading import load
from sso_data.config.run import FilterConfig, RunConfig, load_config
from sso_data.config.section import Section
from sso_data.config.training import LossConfig, TrainConfig
from sso_data.core.errors import ConfigError
from sso_data.generation.generate import prepare
from sso_data.world import catalogue_dir, policy_dir


def value_at(config: BaseModel, key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


RUN = {
    "steering.choose": "policy",
    "steering.count": 2,
    "steering.concision_probability": 0.2,
    "steering.principles": "catalogue",
    "steering.paraphrase": False,
    "sampling.temperature": 0.7,
    "sampling.top_p": 0.8,
    "sampling.max_tokens": 2048,
    "filter.preset": "reference",
    "filter.strict_paper": True,
}
TRAINING = {
    "sequence.max_length": 2048,
    "optim.epochs": 1,
    "optim.beta1": 0.9,
    "optim.beta2": 0.95,
    "optim.weight_decay": 0.1,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 0.1,
}
SSO = {
    "loss.objective": "sso",
    "loss.type": "ipo",
    "loss.beta": 0.2,
    "loss.alpha": 0.66,
    "loss.g": 0.1,
    "loss.use_w": True,
    "loss.use_g": True,
    "loss.detach_weight": False,
    "loss.weight_scope": "good_bad",
}
GENERATOR = {
    "loss.type": "dpo",
    "loss.beta": 0.1,
    "loss.generator_nll": 0.1,
    "optim.lr": 5e-7,
    "optim.warmup_steps": 0.04,
}


@pytest.mark.parametrize(("key", "value"), RUN.items())
def test_a_run_has_the_papers_values(key: str, value: Any) -> None:
    assert value_at(load_config(recipe="paper"), key) == value


@pytest.mark.parametrize(("key", "value"), (TRAINING | SSO).items())
def test_a_training_has_the_papers_values(key: str, value: Any) -> None:
    assert value_at(load(TrainConfig, recipe="paper"), key) == value


@pytest.mark.parametrize(("key", "value"), (TRAINING | GENERATOR).items())
def test_a_generators_training_has_those_of_the_second_version(key: str, value: Any) -> None:
    config = load(TrainConfig, recipe="paper", loss__objective="sso-generator")
    assert value_at(config, key) == value


@pytest.mark.parametrize("objective", ["pairs", "pbaa"])
def test_the_base_loss_alone_takes_no_key_of_sso(objective: str) -> None:
    loss = load(TrainConfig, recipe="paper", loss__objective=objective).loss
    assert (loss.objective, loss.type, loss.beta) == ("pairs", "ipo", 0.2)


def test_a_reward_model_has_the_papers_optimizer_and_no_loss() -> None:
    config = load(TrainConfig, recipe="paper", kind="reward")
    assert {key: value_at(config, key) for key in TRAINING} == TRAINING
    assert config.loss == LossConfig()


def test_the_papers_values_do_not_follow_our_defaults() -> None:
    class OtherLoss(LossConfig):
        g: float = 1.0
        alpha: float = 0.5

    class OtherTrain(TrainConfig):
        loss: OtherLoss = OtherLoss()

    class OtherFilter(FilterConfig):
        preset: Any = "none"

    class OtherRun(RunConfig):
        filter: OtherFilter = OtherFilter()

    assert OtherTrain().loss.g == 1.0
    assert OtherTrain.model_validate({"recipe": "paper"}).loss.g == 0.1
    assert OtherTrain.model_validate({"recipe": "paper", "loss": {"g": 0.3}}).loss.alpha == 0.66
    pairs = {"recipe": "paper", "loss": {"objective": "pairs"}}
    assert OtherTrain.model_validate(pairs).loss.type == "ipo"
    assert OtherRun().filter.preset == "none"
    assert OtherRun.model_validate({"recipe": "paper"}).filter.preset == "reference"


def test_given_keys_win(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("recipe: paper\nsampling:\n  top_p: 0.95\nfilter:\n  preset: closeness\n")
    config = load_config(file, ["steering.choose=random"], sampling__temperature=1.0)
    assert (config.sampling.top_p, config.sampling.temperature) == (0.95, 1.0)
    assert config.sampling.max_tokens == 2048
    assert config.filter.preset == "closeness"
    assert (config.steering.choose, config.steering.concision_probability) == ("random", 0.2)
    training = load(TrainConfig, None, ["loss.g=1", "optim.warmup_steps=0"], recipe="paper")
    assert (training.loss.g, training.optim.warmup_steps, training.loss.alpha) == (1.0, 0.0, 0.66)


def test_a_section_made_in_python_counts_what_was_set_in_it() -> None:
    config = RunConfig(recipe="paper", filter=FilterConfig(strict_paper=False))
    assert (config.filter.preset, config.filter.strict_paper) == ("reference", False)


def test_without_the_word_nothing_changes() -> None:
    assert load_config() == load_config(recipe="default") == RunConfig()
    assert load(TrainConfig, recipe="default") == TrainConfig()


@pytest.mark.parametrize("kind", [RunConfig, TrainConfig])
def test_another_word_is_refused(kind: type[Section]) -> None:
    with pytest.raises(ConfigError, match="recipe: "):
        load(kind, recipe="papers")


@pytest.mark.parametrize(("key", "value"), [("filter", None), ("filter", 3), ("sampling", [1])])
def test_a_section_that_is_none_is_refused_as_ever(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        load_config(base={"recipe": "paper", key: value})


def test_a_run_is_known_by_the_values_and_not_by_the_word() -> None:
    tiny = {"model": str(policy_dir()), "principles": str(catalogue_dir())}
    engine = {"name": "transformers"}
    spelled: dict[str, Any] = {}
    for key, value in RUN.items():
        section, name = key.split(".")
        spelled.setdefault(section, {})[name] = value
    by_word = prepare(load_config(base={**tiny, "engine": engine, "recipe": "paper"}))
    by_value = prepare(load_config(base={**tiny, "engine": engine, **spelled}))
    ours = prepare(load_config(base={**tiny, "engine": engine}))
    assert by_word.details == by_value.details
    assert by_word.identity == by_value.identity != ours.identity


@pytest.mark.parametrize("kind", [RunConfig, TrainConfig])
def test_what_is_recorded_gives_the_same_configuration_again(kind: type[Section]) -> None:
    config = load(kind, recipe="paper")
    recorded = json.loads(config.model_dump_json())
    assert "recipe" not in recorded
    again = type(config).model_validate(recorded)
    assert json.loads(again.model_dump_json()) == recorded
