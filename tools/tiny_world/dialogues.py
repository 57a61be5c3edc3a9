"""Training data: random system messages and the responses a policy that obeys them would give."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sso_data.core.jinja import render
from sso_data.world import lexicon as lex
from sso_data.world.query import Query, parse, sample_query
from tools.tiny_world.guidelines import feature_pairs
from tools.tiny_world.responses import LEVELS, Level, sample_response
from tools.tiny_world.skills import draw_choice, draw_principle, draw_query

Side = Literal["good", "bad"]
Message = dict[str, str]
Weights = Mapping[Level, float]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One training example: the messages of the prompt and the assistant's response."""

    messages: tuple[Message, ...]
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How training data is drawn in one phase; all numbers are chances.

    `named[side]` weighs the levels of a feature that the system message names. The other features
    follow `unnamed`, or `halo[side]` where all named features have the same side: asked to be good
    (bad) in some ways, the policy is a little better (worse) in the others too. `ramble`: see
    `sample_response`.
    """

    skills: float
    prompted: float
    mixed: float
    count: tuple[float, float, float, float]
    paraphrase: float
    named: Mapping[Side, Weights]
    halo: Mapping[Side, Weights]
    unnamed: Weights
    ramble: float = 0.0


def _weights(good: float, mid: float, bad: float) -> Weights:
    return {"good": good, "mid": mid, "bad": bad}


EVEN = _weights(1 / 3, 1 / 3, 1 / 3)

CLEAR = Mixture(
    skills=0.24,
    prompted=0.85,
    mixed=0.5,
    count=(0.3, 0.4, 0.2, 0.1),
    paraphrase=0.35,
    named={"good": _weights(0.96, 0.03, 0.01), "bad": _weights(0.01, 0.03, 0.96)},
    halo={"good": EVEN, "bad": EVEN},
    unnamed=EVEN,
)
"""First phase: what is asked for happens nearly always, so the link is easy to find."""

NOISY = Mixture(
    skills=0.24,
    prompted=0.6,
    mixed=0.2,
    count=(0.15, 0.6, 0.2, 0.05),
    paraphrase=0.35,
    named={"good": _weights(0.68, 0.22, 0.10), "bad": _weights(0.10, 0.22, 0.68)},
    halo={"good": _weights(0.40, 0.34, 0.26), "bad": _weights(0.26, 0.34, 0.40)},
    unnamed=_weights(0.34, 0.38, 0.28),
)
"""Second phase: steering that usually works, and an unprompted policy with room to improve."""

FOREIGN_FEATURE = 0.1
"""Chance that a feature is named that does not apply to the query (and changes nothing)."""


FRAMES = (("system.j2", 0.8), ("system_2.j2", 0.1), ("system_3.j2", 0.1))
"""The product's wordings of the system message, with the chance of each."""

SKILLS = ((draw_choice, 0.2), (draw_principle, 0.3), (draw_query, 0.5))
"""What is trained besides answering, with the share of each."""


def system_message(texts: tuple[str, ...], frame: str = FRAMES[0][0]) -> str:
    """The system message of these guidelines in one of the product's wordings."""
    return render(frame, texts=list(texts))


def _choose(kind: lex.Kind, mixture: Mixture, rng: random.Random) -> dict[str, Side]:
    """The features that the system message names, each with its side."""
    pool = list(lex.FEATURES if rng.random() < FOREIGN_FEATURE else lex.features_of(kind))
    names = rng.sample(pool, rng.choices((1, 2, 3, 4), mixture.count)[0])
    side: Side = rng.choice(("good", "bad"))
    if rng.random() >= mixture.mixed:
        return dict.fromkeys(names, side)
    return {name: rng.choice(("good", "bad")) for name in names}


def _levels(
    kind: lex.Kind, named: Mapping[str, Side], mixture: Mixture, rng: random.Random
) -> dict[str, Level]:
    """A level for each feature that applies."""
    sides = set(named.values())
    rest = mixture.halo[next(iter(sides))] if len(sides) == 1 else mixture.unnamed
    found: dict[str, Level] = {}
    for name in lex.features_of(kind):
        weights = mixture.named[named[name]] if name in named else rest
        found[name] = rng.choices(LEVELS, [weights[level] for level in LEVELS])[0]
    return found


def _guideline(name: str, side: Side, query: Query, chance: float, rng: random.Random) -> str:
    """One wording of the guideline: by `chance` another one than the catalogue's main sentence."""
    pairs = feature_pairs(name, query)
    pair = rng.choice(pairs[1:]) if rng.random() < chance else pairs[0]
    return pair.good if side == "good" else pair.bad


def sample_dialogue(mixture: Mixture, rng: random.Random) -> Dialogue:
    """One example: an answer to a query of the training split, or one of the other skills."""
    if rng.random() < mixture.skills:
        draw = rng.choices([skill for skill, _ in SKILLS], [share for _, share in SKILLS])[0]
        prompt, answer = draw(rng)
        return Dialogue(({"role": "user", "content": prompt},), answer)
    return _sample_answer(mixture, rng)


def _sample_answer(mixture: Mixture, rng: random.Random) -> Dialogue:
    text = sample_query(rng)
    query = parse(text)
    named: dict[str, Side] = {}
    messages: list[Message] = []
    if rng.random() < mixture.prompted:
        named = _choose(query.kind, mixture, rng)
        texts = tuple(
            _guideline(name, side, query, mixture.paraphrase, rng) for name, side in named.items()
        )
        frame = rng.choices([name for name, _ in FRAMES], [chance for _, chance in FRAMES])[0]
        messages.append({"role": "system", "content": system_message(texts, frame)})
    messages.append({"role": "user", "content": text})
    levels = _levels(query.kind, named, mixture, rng)
    return Dialogue(tuple(messages), sample_response(query, levels, rng, ramble=mixture.ramble))
