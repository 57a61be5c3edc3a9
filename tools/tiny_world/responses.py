"""The response grammar: one random response to a query at a chosen level of each feature."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from sso_data.world import lexicon as lex
from sso_data.world.query import Fact, Query

Level = Literal["good", "mid", "bad"]
LEVELS: tuple[Level, ...] = ("good", "mid", "bad")

RIGHT_RATE: dict[Level, float] = {"good": 0.98, "mid": 0.6, "bad": 0.05}
"""Accuracy: the chance of each claim to be right."""
SLOTS: dict[Level, tuple[int, ...]] = {"good": (4,), "mid": (2, 3), "bad": (1,)}
"""Comprehensiveness: how many slots are filled."""
FILLERS: dict[Level, tuple[int, ...]] = {"good": (0,), "mid": (1, 2), "bad": (3, 4)}
"""Concision: how many filler sentences are said."""
MOST_MORE = 20
"""So many sentences one of the two places where a response may ramble has at most."""


def _value(fact: Fact, right: bool, used: set[str], rng: random.Random) -> str:
    """A right or a wrong value for the fact, not one that is `used` already."""
    values = sorted(fact.right) if right else fact.wrong
    return rng.choice([value for value in values if value not in used])


def _claims(query: Query, accuracy: Level, slots: int, rng: random.Random) -> list[str]:
    """`slots` claims in the order of the facts, always with the first of them."""
    facts = query.facts * slots if len(query.facts) == 1 else query.facts
    rest = rng.sample(range(1, len(facts)), slots - 1)
    chosen = [facts[i] for i in sorted([0, *rest])]
    used: set[str] = set()
    sentences: list[str] = []
    for place, fact in enumerate(chosen):
        right = rng.random() < RIGHT_RATE[accuracy]
        value = _value(fact, right, set() if fact.slot else used, rng)
        used.add(value)
        lead = fact.leads[min(place, len(fact.leads) - 1)] if fact.leads else ""
        sentences.append(query.fill(fact.template, value=value, lead=lead))
    return sentences


def _one(
    level: Level, good: tuple[str, ...], bad: tuple[str, ...], rng: random.Random
) -> list[str]:
    """A good sentence, none, or a bad one."""
    pool = {"good": good, "mid": (), "bad": bad}[level]
    return [rng.choice(pool)] if pool else []


def _frame(level: Level, rng: random.Random) -> tuple[list[str], list[str]]:
    """(opener, closer) at a level of engagement; mid has one of the two good ones."""
    if level == "bad":
        return [rng.choice(lex.DULL_OPENER)], [rng.choice(lex.DULL_CLOSER)]
    opener, closer = [rng.choice(lex.WARM)], [rng.choice(lex.QUESTION)]
    if level == "good":
        return opener, closer
    return (opener, []) if rng.random() < 0.5 else ([], closer)


def _literary(level: Level, rng: random.Random) -> list[str]:
    if level == "bad":
        return [rng.choice(lex.BORING)]
    return rng.sample(lex.SIMILE, 2 if level == "good" else 1)


def _rambled(
    said: list[str], level: Level, pool: tuple[str, ...], ramble: float, rng: random.Random
) -> list[str]:
    """A good level goes on and on: by chance `ramble` one more of the pool, and again."""
    if level != "good" or not ramble:
        return said
    more: list[str] = []
    while len(more) < MOST_MORE and rng.random() < ramble:
        more.append(rng.choice(pool))
    return said + more


def sample_response(
    query: Query, levels: Mapping[str, Level], rng: random.Random, *, ramble: float = 0.0
) -> str:
    """One response; `levels` names a level for each feature that applies to the query.

    Order: opener, fillers, claims, fillers, similes, reason, safety, tip, closer. With `ramble`,
    good similes and tips are followed by more of them, with that chance each time: such responses
    are long because they are good, and the oracle counts what is too much as filler.
    """
    slots = rng.choice(SLOTS[levels["Comprehensiveness"]])
    fillers = rng.sample(lex.FILLER, rng.choice(FILLERS[levels["Concision"]]))
    cut = rng.randint(0, len(fillers))
    opener, closer = _frame(levels["Engagement"], rng)
    parts = opener + fillers[:cut]
    parts += _claims(query, levels["Accuracy"], slots, rng)
    parts += fillers[cut:]
    if "Literariness" in query.features:
        level = levels["Literariness"]
        parts += _rambled(_literary(level, rng), level, lex.SIMILE, ramble, rng)
    parts += _one(levels["Logicality"], lex.REASON, lex.NONSENSE, rng)
    if "Safety" in query.features:
        warning = (lex.WARNING.format(hazard=query.hazard),)
        parts += _one(levels["Safety"], warning, lex.RECKLESS, rng)
    tips = tuple(query.fill(tip) for tip in lex.TIPS[query.kind])
    level = levels["Helpfulness"]
    parts += _rambled(_one(level, tips, lex.REFUSAL, rng), level, tips, ramble, rng)
    return " ".join(parts + closer)
