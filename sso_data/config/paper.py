"""The paper's values: what `recipe: paper` lays under the settings that are given.

They stay what they are when defaults of ours change. What the paper and its published code do not
tell (learning rate and rows of a step of the first version) is not here and stays our default.
"""

from collections.abc import Mapping
from typing import Any, Literal

from sso_data.core.yaml_files import Tree, deep_merge

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
"""How rows are made and chosen."""

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
"""How anything is trained, reward models included."""

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
"""What an objective adds; the generator's values are those of the second version of the paper."""


def training_of(given: Mapping[str, Any]) -> Tree:
    """The values that fit a training: those of its objective, no loss at all for a reward model."""
    if given.get("kind") == "reward":
        return deep_merge(TRAINING, {})
    loss = given.get("loss")
    objective = loss.get("objective", "sso") if isinstance(loss, Mapping) else "sso"
    name = objective if isinstance(objective, str) else "sso"
    return deep_merge(TRAINING, LOSSES.get(name, LOSSES["pairs"]))
