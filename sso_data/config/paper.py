"""The paper's values: the defaults of `recipe: paper`.

They do not change with our own defaults. Values that neither the paper nor its published code
states (learning rate and batch size of the first version) are missing here: our default holds.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from sso_data.core.trees import Tree, deep_merge

DefaultsFrom = Literal["default", "paper"]

RUN: Mapping[str, Any] = {
    "steering": {
        "choose": "policy",
        "count": 2,
        "concision_probability": 0.2,
        "principles": "catalogue",
        "paraphrase": False,
    },
    "sampling": {"temperature": 0.7, "top_p": 0.8, "max_tokens": 2048},
    "filter": {"preset": "reference", "strict_paper": True},
}
"""Sampling, steering and filter of a run."""

TRAINING: Mapping[str, Any] = {
    "sequence": {"max_length": 2048},
    "optim": {
        "epochs": 1.0,
        "beta1": 0.9,
        "beta2": 0.95,
        "weight_decay": 0.1,
        "schedule": "cosine",
        "warmup_steps": 0.1,
    },
}
"""Training of policies and reward models."""

_PAIRS = {"type": "ipo", "beta": 0.2}
_SSO = {
    **_PAIRS,
    "alpha": 0.66,
    "g": 0.1,
    "use_w": True,
    "use_g": True,
    "detach_weight": False,
    "weight_scope": "good_bad",
}
_GENERATOR = {"type": "dpo", "beta": 0.1, "generator_nll": 0.1}

LOSSES: Mapping[str, Tree] = {
    "sso": {"loss": _SSO},
    "pairs": {"loss": _PAIRS},
    "sso-generator": {"loss": _GENERATOR, "optim": {"lr": 5e-7, "warmup_steps": 0.04}},
}
"""Values by objective; the generator's are those of the second version of the paper."""


def training_of(given: Mapping[str, Any]) -> Tree:
    """Return the paper's values for a training; for a reward model without a loss."""
    if given.get("kind") == "reward":
        return deep_merge(TRAINING, {})
    loss = given.get("loss")
    objective = loss.get("objective", "sso") if isinstance(loss, Mapping) else "sso"
    name = objective if isinstance(objective, str) else "sso"
    return deep_merge(TRAINING, LOSSES.get(name, LOSSES["pairs"]))


def over_paper(values: Any, paper: Mapping[str, Any]) -> Any:
    """Return the given values, merged over `paper` if they hold `recipe: paper`."""
    if not isinstance(values, dict) or values.get("recipe") != "paper":
        return values
    given = {
        name: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        for name, value in values.items()
    }
    return deep_merge(paper, given)
