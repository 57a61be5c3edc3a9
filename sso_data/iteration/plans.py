"""What the steps of a round are told: the iteration's configuration with the round's own policy."""

from typing import Any

from sso_data.config.evaluation import EvalConfig
from sso_data.config.iteration import IterateConfig
from sso_data.config.run import RunConfig, SourceConfig
from sso_data.config.training import TrainConfig
from sso_data.core.records import derive_seed
from sso_data.iteration.slices import slice_source
from sso_data.iteration.state import PolicyAt


def seed_of(config: IterateConfig, number: int, purpose: str) -> int:
    """The 31-bit seed of a step of a round."""
    return derive_seed(config.seed, f"round {number}", purpose) % 2**31


def generate_config(
    config: IterateConfig, number: int, policy: PolicyAt, *, purpose: str = "generate"
) -> RunConfig:
    """How a policy (or a generator) makes the rows of a round."""
    engine = config.generate.engine
    revision = engine.revision if policy.path == config.model else None
    return config.generate.model_copy(
        update={
            "model": policy.path,
            "seed": seed_of(config, number, purpose),
            "source": slice_source(config),
            "engine": engine.model_copy(update={"revision": revision}),
        }
    )


def train_config(config: IterateConfig, number: int, policy: PolicyAt) -> TrainConfig:
    """How a round trains its policy.

    Pairs that the policy did not sample itself (labelled ones, a generator's) bring no references
    that count.
    """
    is_foreign = config.labelled is not None or config.generator is not None
    found = _of_round(config, config.train, number, policy, "train")
    reference = found.reference
    if is_foreign and reference.mode == "auto" and found.loss.objective != "pairs":
        update = {"reference": reference.model_copy(update={"mode": "rescore"})}
        return found.model_copy(update=update) if found.kind == "policy" else found
    return found


def generator_config(config: IterateConfig, number: int, policy: PolicyAt) -> TrainConfig:
    """How a round trains its generator, from the policy."""
    assert config.generator is not None
    return _of_round(config, config.generator.train, number, policy, "generator")


def eval_config(config: IterateConfig) -> EvalConfig:
    """How a policy is compared with the first one on held-out prompts."""
    held_out = config.held_out
    own: dict[str, Any] = {"model": "", "seed": 0, "source": SourceConfig()}
    return EvalConfig(
        prompts=held_out.prompts or "",
        source=SourceConfig(split=held_out.split, column=held_out.column, limit=held_out.limit),
        judge=held_out.judge,
        generate=config.generate.model_copy(update=own),
        seed=seed_of(config, 0, "held out"),
    )


def merges_adapters(config: IterateConfig) -> bool:
    """Whether an adapter is trained that has to be merged, so that a round's model is whole."""
    parts = [config.train, *([config.generator.train] if config.generator else [])]
    return any(part.lora.enabled and not part.lora.merge for part in parts)


def _of_round(
    config: IterateConfig, train: TrainConfig, number: int, policy: PolicyAt, purpose: str
) -> TrainConfig:
    is_first = policy.path == config.model
    return train.model_copy(
        update={
            "model": policy.path,
            "revision": train.revision if is_first else None,
            "seed": seed_of(config, number, purpose),
            "data": train.data.model_copy(update={"order": "id"}),
            "lora": train.lora.model_copy(update={"merge": train.lora.enabled}),
        }
    )
