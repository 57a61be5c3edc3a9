"""Queries of the tiny world: making them, reading them back, and keeping some for measuring."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from sso_data.world import lexicon as lex
from sso_data.world.lexicon import Kind

SUM_HELD_OUT_ONE_IN = 10
"""One pair of addends in this many is never trained on, in any phrasing."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing a response may claim about the query's entity.

    `template` holds `{value}` (and `{lead}` where `leads` is not empty). `right` are the true
    values, `wrong` the few false ones that an inaccurate response takes, `pool` all values that
    the oracle knows. An empty `slot` means that each value is its own slot.

    So few wrong values because many would each be unlikely, and sampling below temperature 1 or
    with top-p would nearly always return to the right one.
    """

    slot: str
    template: str
    right: frozenset[str]
    wrong: tuple[str, ...]
    pool: tuple[str, ...]
    leads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query: `fields` fill the sentence templates, `facts` are what is true of it."""

    kind: Kind
    fields: tuple[tuple[str, str], ...]
    facts: tuple[Fact, ...]
    hazard: str

    def fill(self, template: str, **more: str) -> str:
        """The template with the query's own words put in."""
        return template.format(**dict(self.fields), **more)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that apply."""
        return lex.features_of(self.kind)


_ANIMALS = {animal.name: animal for animal in lex.ANIMALS}
_TASKS = {task.name: task for task in lex.TASKS}


def query_about(kind: Kind, words: Mapping[str, str]) -> Query:
    """The query of a kind whose phrasings these words fill.

    Raises KeyError or ValueError for words that name no entity of the world.
    """
    hazard = ""
    if kind == "sum":
        a, b = int(words["a"]), int(words["b"])
        right = {"start": a, "change": b, "sum": a + b, "total": a + b}
        pool = tuple(map(str, lex.NUMBERS))
        facts = [
            Fact(slot, template, frozenset({str(right[slot])}), lex.WRONG_NUMBERS, pool)
            for slot, template in lex.SUM_CLAIMS.items()
        ]
    elif kind == "thing":
        animal = _ANIMALS[words["animal"]]
        hazard, facts = animal.hazard, []
        for slot, template in lex.THING_CLAIMS.items():
            wrong = lex.WRONG_THING[slot]
            values = dict.fromkeys(str(getattr(other, slot)) for other in lex.ANIMALS)
            value = frozenset({str(getattr(animal, slot))})
            facts.append(Fact(slot, template, value, wrong, (*values, *wrong)))
    elif kind == "howto":
        task = _TASKS[words["task"]]
        hazard = task.hazard
        things = dict.fromkeys(step.split()[1] for other in lex.TASKS for step in other.steps)
        pool = (*things, *lex.WRONG_OBJECTS)
        facts = [
            Fact(
                verb,
                lex.STEP_CLAIM.replace("{verb}", verb),
                frozenset({thing}),
                lex.WRONG_OBJECTS,
                pool,
                lex.STEP_LEADS,
            )
            for verb, thing in map(str.split, task.steps)
        ]
    else:
        members = [member for group in lex.CATEGORIES.values() for member in group]
        pool = (*members, *lex.WRONG_EXAMPLES)
        examples = frozenset(lex.CATEGORIES[words["category"]])
        wrong = lex.WRONG_EXAMPLES
        facts = [Fact("", lex.EXAMPLE_CLAIM, examples, wrong, pool, lex.EXAMPLE_LEADS)]
    return Query(kind, tuple(sorted(words.items())), tuple(facts), hazard)


_CHOICES: dict[str, tuple[str, ...]] = {
    "name": lex.NAMES,
    "objects": lex.OBJECTS,
    "a": tuple(str(number) for number in lex.ADDENDS),
    "b": tuple(str(number) for number in lex.ADDENDS),
    "animal": tuple(_ANIMALS),
    "task": tuple(_TASKS),
    "category": tuple(lex.CATEGORIES),
}


def alternatives(words: tuple[str, ...]) -> str:
    """A regular expression that matches exactly one of the words, the longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


@lru_cache
def _patterns() -> tuple[tuple[Kind, re.Pattern[str]], ...]:
    """(kind, full-match pattern with one named group per field) for each phrasing."""
    patterns: list[tuple[Kind, re.Pattern[str]]] = []
    edges = [alternatives(lex.PREFIXES), alternatives(lex.SUFFIXES)]
    for kind, phrasings in lex.PHRASINGS.items():
        for phrasing in phrasings:
            seen: set[str] = set()
            parts: list[str] = []
            for part in re.split(r"(\{\w+\})", phrasing):
                field = part.strip("{}")
                if not part.startswith("{"):
                    parts.append(re.escape(part))
                elif field in seen:
                    parts.append(f"(?P={field})")
                else:
                    seen.add(field)
                    parts.append(f"(?P<{field}>{alternatives(_CHOICES[field])})")
            text = f"(?:{edges[0]}){''.join(parts)}(?:{edges[1]})"
            patterns.append((kind, re.compile(text)))
    return tuple(patterns)


@lru_cache(maxsize=4096)
def parse(text: str) -> Query:
    """The query that this text asks; raises ValueError for a text that is not of this world."""
    for kind, pattern in _patterns():
        match = pattern.fullmatch(text.strip())
        if match:
            return query_about(kind, match.groupdict())
    raise ValueError(f"not a query of the tiny world: {text[:80]!r}")


def is_held_out(kind: Kind, entity: str, phrasing: int) -> bool:
    """Return True if training never shows this entity in this phrasing (a sum: these addends).

    `entity` is the name of the animal, task or category, or "a+b". The answer depends on the text
    alone and is the same in every process.
    """
    digest = zlib.crc32(entity.encode())
    if kind == "sum":
        return digest % SUM_HELD_OUT_ONE_IN == 0
    return digest % len(lex.PHRASINGS[kind]) == phrasing


def sample_query(
    rng: random.Random, *, held_out: bool = False, kinds: tuple[Kind, ...] = lex.KINDS
) -> str:
    """The text of one random query, each kind equally likely, from one side of the split."""
    kind = rng.choice(kinds)
    while True:
        if kind == "sum":
            words = {field: rng.choice(_CHOICES[field]) for field in ("name", "objects", "a", "b")}
            entity = f"{words['a']}+{words['b']}"
        else:
            field = {"thing": "animal", "howto": "task", "list": "category"}[kind]
            entity = rng.choice(_CHOICES[field])
            words = {field: entity}
        phrasing = rng.randrange(len(lex.PHRASINGS[kind]))
        if is_held_out(kind, entity, phrasing) == held_out:
            body = lex.PHRASINGS[kind][phrasing].format(**words)
            return rng.choice(lex.PREFIXES) + body + rng.choice(lex.SUFFIXES)


def queries(n: int, *, seed: int, held_out: bool = False) -> list[str]:
    """`n` query texts, the same for the same arguments, and distinct while there are enough."""
    rng = random.Random(f"queries-{seed}-{held_out}")
    seen: set[str] = set()
    texts: list[str] = []
    while len(texts) < n:
        text = sample_query(rng, held_out=held_out)
        for _ in range(50):
            if text not in seen:
                break
            text = sample_query(rng, held_out=held_out)
        seen.add(text)
        texts.append(text)
    return texts
