"""What the study of the paper's claims runs: arms, seeds, checkpoints, and the claims to judge.

The claims and their margins stand in `claims.yaml` as they were declared; what was changed after
that is listed with dates in docs/claims_changes.yaml.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

ROUNDS = 3
PROMPTS, HELD_OUT = 192, 250
"""Fresh prompts of a round, and held-out ones that judge before the first and after the last."""
STEPS, STEP_ROWS = 12, 16
"""Optimizer steps of a round, and rows of a step."""
PRIMARY_SEEDS, SECONDARY_SEEDS = (1, 2, 3, 4), (1, 2, 3)

CHECKPOINTS: dict[str, dict[str, Any] | None] = {
    "shipped": None,
    "second": {"seed": 2},
    "rambling": {"seed": 3, "ramble": 0.6},
}
"""The policies that the chains start from: the shipped one, and trainings of the tiny world with
other seeds (arguments of `tools.tiny_world.train_policy`). Good responses of `rambling` go on and
on by chance, so that there is room for responses to grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """How every round of a chain makes its pairs and trains on them.

    `pairs`: `own` are the policy's steered pairs; `generator` those of a generator trained first
    (the paper's second version); `labelled` two plain answers of the checkpoint `second`, ranked by
    the oracle. `keeps`: the rows that pass the steering test, or `all` that were not cut off.
    """

    name: str
    loss: dict[str, Any] = field(default_factory=dict, hash=False)
    lr: float = 3e-4
    pairs: Literal["own", "generator", "labelled"] = "own"
    keeps: Literal["steered", "all"] = "steered"
    temperature: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One chain of rounds; the same seed draws the same prompts and numbers for every arm."""

    study: str
    checkpoint: str
    arm: Arm
    seed: int

    @property
    def key(self) -> str:
        return f"{self.study}/{self.checkpoint}/{self.arm.name}/{self.seed}"


def _dpo(name: str, **loss: Any) -> Arm:
    return Arm(name=name, loss={"type": "dpo", **loss})


def _ipo(name: str, **loss: Any) -> Arm:
    return Arm(name=name, loss={"type": "ipo", **loss})


PBAA, SSO, SSO_1 = _dpo("pbaa", objective="pairs"), _dpo("sso g=.1", g=0.1), _dpo("sso g=1", g=1.0)
NO_W, NO_G = _dpo("sso without W", use_w=False), _dpo("sso without g", use_g=False)
SSO_3 = _dpo("sso g=.3", g=0.3)
IPO = (
    _ipo("ipo pbaa", objective="pairs"),
    _ipo("ipo sso g=.1", g=0.1),
    _ipo("ipo sso g=1", g=1.0),
)
GENERATOR = Arm(name="generator", loss={"type": "dpo", "objective": "pairs"}, pairs="generator")
LABELLED = Arm(name="labelled pairs", loss={"type": "dpo", "objective": "pairs"}, pairs="labelled")
HOT = tuple(
    Arm(name=f"T=1 {keeps}", loss={"type": "dpo", "g": 0.1}, keeps=keeps, temperature=1.0)
    for keeps in ("steered", "all")
)
PRIMARY = (PBAA, SSO, SSO_1, NO_W, NO_G)
REWARD = (
    Arm(name="reward: base"),
    Arm(name="reward: base and ours", pairs="own"),
    Arm(name="reward: base and labelled", pairs="labelled"),
)
"""Reward models, trained once: on labelled pairs of the checkpoint `second`, alone or together with
the shipped policy's own steered pairs, or with labelled ones of `rambling`."""

STUDIES: dict[str, tuple[tuple[str, ...], tuple[int, ...], tuple[Arm, ...]]] = {
    "primary": (("shipped", "second"), PRIMARY_SEEDS, PRIMARY),
    "secondary": (("shipped",), SECONDARY_SEEDS, (SSO_3, *IPO, GENERATOR, LABELLED, *HOT)),
    "length": (("rambling",), SECONDARY_SEEDS, (PBAA, SSO, NO_W, *IPO[:2])),
    "reward": (("shipped",), SECONDARY_SEEDS, REWARD),
}
"""Study -> checkpoints, seeds, arms."""

HALVES: dict[int, tuple[tuple[str, str], ...]] = {
    1: (("primary", "shipped"), ("secondary", "shipped")),
    2: (("primary", "second"), ("length", "rambling"), ("reward", "shipped")),
}
"""What each half of the study runs, as (study, checkpoint)."""


def chains(half: int) -> Iterator[Chain]:
    """The chains of a half, seed by seed, so that an early end leaves whole comparisons."""
    for study, checkpoint in HALVES[half]:
        _, seeds, arms = STUDIES[study]
        for seed in seeds:
            for arm in arms:
                yield Chain(study=study, checkpoint=checkpoint, arm=arm, seed=seed)


Point = Literal["end", "data"]
"""Where a claim is measured: `end`, as declared, is the policy after the last training, on held-out
prompts; `data`, the changed measure, the rows that the last round trains on."""
CHANGED = ("signal_accuracy", "on_policy")
"""The metrics whose point of measurement was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim; `claims.yaml` says what its parts mean."""

    text: str
    study: str
    arm: str
    against: str
    metric: str
    wants: Literal["more", "less", "kept"]
    margin: float


def declared() -> list[Claim]:
    """The claims of `claims.yaml`, in its order."""
    content = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
    return [_claim(study, line) for study, lines in content.items() for line in lines]


def _claim(study: str, line: dict[str, Any]) -> Claim:
    wants: Any = next(key for key in ("more", "less", "kept") if key in line)
    parts = {key: value for key, value in line.items() if key != wants}
    return Claim(study=study, wants=wants, margin=line[wants], **parts)
