"""The configurations of a round's steps, and the identity of an iteration."""

import re
from pathlib import Path
from typing import Any

from sso_data.config.evaluation import EvalConfig
from sso_data.config.iteration import IterateConfig
from sso_data.config.run import VLLM_SPEED_KEYS, RunConfig, SourceConfig
from sso_data.config.training import TrainConfig
from sso_data.core.jinja import Templates
from sso_data.core.progress import Progress
from sso_data.core.records import derive_seed
from sso_data.core.trees import leaves
from sso_data.iteration.slices import slice_source
from sso_data.iteration.state import PolicyAt
from sso_data.models.directory import model_fingerprint, resolve_model
from sso_data.steering.models import identity_of as steering_identity
from sso_data.steering.principles import load_catalogue
from sso_data.steering.rules import Rules

_FREE = re.compile(
    r"(title|reproduces|rounds|model|prompts|launcher|held_out|stop)\b.*"
    r"|labelled\.data"
    r"|generate\.(model|seed|principles|templates|output\..*|scoring\.keep_tokens)"
    r"|generate\.engine\.(?!name$|dtype$|max_model_len$|revision$|vllm\.).*"
    rf"|generate\.engine\.vllm\.({'|'.join(sorted(VLLM_SPEED_KEYS))})"
    r"|(generator\.)?train\.(model|seed|stop\..*|log\..*)"
    r"|(generator\.)?train\.optim\.(micro_batch_rows|gradient_checkpointing)"
    r"|(generator\.)?train\.checkpoints\.(every|keep|keep_finished)"
)
"""Keys that may change between an interruption and its continuation: the number of rounds, places
of files, the judge and the limits, and what only changes speed, memory or output."""


def seed_of(config: IterateConfig, number: int, purpose: str) -> int:
    """The 31-bit seed of a step of a round."""
    return derive_seed(config.seed, f"round {number}", purpose) % 2**31


def generate_config(
    config: IterateConfig, number: int, policy: PolicyAt, *, purpose: str = "generate"
) -> RunConfig:
    """The configuration with which a policy (or a generator) makes the rows of a round."""
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
    """The configuration with which a round trains its policy.

    Pairs that the policy did not sample itself (labelled ones, a generator's) bring no references
    that could be used.
    """
    is_off_policy = config.labelled is not None or config.generator is not None
    found = _of_round(config, config.train, number, policy, "train")
    reference = found.reference
    if is_off_policy and reference.mode == "auto" and found.loss.objective != "pairs":
        update = {"reference": reference.model_copy(update={"mode": "rescore"})}
        return found.model_copy(update=update) if found.kind == "policy" else found
    return found


def generator_config(config: IterateConfig, number: int, policy: PolicyAt) -> TrainConfig:
    """The configuration with which a round trains its generator, from the policy."""
    assert config.generator is not None
    return _of_round(config, config.generator.train, number, policy, "generator")


def eval_config(config: IterateConfig) -> EvalConfig:
    """The configuration that compares a policy with the first one on held-out prompts."""
    held_out = config.held_out
    single = config.generate.sampling.model_copy(update={"samples": 1})
    own: dict[str, Any] = {"model": "", "seed": 0, "source": SourceConfig(), "sampling": single}
    own["scoring"] = config.generate.scoring.model_copy(update={"when": "all"})
    return EvalConfig(
        prompts=held_out.prompts or "",
        source=SourceConfig(split=held_out.split, column=held_out.column, limit=held_out.limit),
        judge=held_out.judge,
        generate=config.generate.model_copy(update=own),
        seed=seed_of(config, 0, "held out"),
    )


def merges_adapters(config: IterateConfig) -> bool:
    """True if an adapter is trained that has to be merged, so that a round's model is whole."""
    parts = [config.train, *([config.generator.train] if config.generator else [])]
    return any(part.lora.enabled and not part.lora.merge for part in parts)


def _of_round(
    config: IterateConfig, train: TrainConfig, number: int, policy: PolicyAt, purpose: str
) -> TrainConfig:
    is_first = policy.path == config.model
    carried = config.carry_float32 and train.optim.save_dtype == "auto"
    optim = train.optim.model_copy(update={"save_dtype": "float32"} if carried else {})
    return train.model_copy(
        update={
            "optim": optim,
            "model": policy.path,
            "revision": train.revision if is_first else None,
            "seed": seed_of(config, number, purpose),
            "data": train.data.model_copy(update={"order": "id"}),
            "lora": train.lora.model_copy(update={"merge": train.lora.enabled}),
        }
    )


def identity_of(config: IterateConfig, fingerprint: str) -> dict[str, Any]:
    """Everything that decides the weights of an iteration from the policy `fingerprint`, flat.

    Where pairs are labelled, `generate` decides nothing and is left out. Raises SsoDataError where
    the catalogue or the templates cannot be read.
    """
    dumped = config.model_dump(mode="json", exclude={"generate"} if config.labelled else set())
    flat = {key: value for key, value in leaves(dumped) if not _FREE.fullmatch(key)}
    found = {"model": fingerprint, **flat}
    if not config.labelled:
        catalogue = load_catalogue(config.generate.principles)
        templates = Templates(directory=config.generate.templates)
        rules = Rules(
            config=config.generate.steering, catalogue=catalogue, seed=0, templates=templates
        )
        found["principles"] = catalogue.fingerprint
        found["templates"] = steering_identity(rules)["templates"]
    return found


def fingerprint_at(
    path: str | Path, revision: str | None = None, progress: Progress | None = None
) -> str:
    """The fingerprint of a model directory or Hub id; ModelError where it is none."""
    return model_fingerprint(resolve_model(str(path), revision), progress)
