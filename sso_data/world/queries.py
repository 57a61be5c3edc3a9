"""Queries of the tiny world: making them, reading them back, and keeping some for measuring."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

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


def _sum_query(name: str, objects: str, a: int, b: int) -> Query:
    fields = (("name", name), ("objects", objects), ("a", str(a)), ("b", str(b)))
    right = {"start": a, "change": b, "sum": a + b, "total": a + b}
    pool = tuple(str(number) for number in lex.NUMBERS)
    facts = tuple(
        Fact(
            slot,
            template,
            frozenset({str(right[slot])}),
            lex.WRONG_NUMBERS,
            pool,
        )
        for slot, template in lex.SUM_CLAIMS.items()
    )
    return Query("sum", fields, facts, "")


def _thing_query(animal: lex.Animal) -> Query:
    facts = []
    for slot, template in lex.THING_CLAIMS.items():
        value = str(getattr(animal, slot))
        wrong = lex.WRONG_THING[slot]
        pool = tuple(dict.fromkeys(str(getattr(other, slot)) for other in lex.ANIMALS)) + wrong
        facts.append(Fact(slot, template, frozenset({value}), wrong, pool))
    return Query("thing", (("animal", animal.name),), tuple(facts), animal.hazard)


def _howto_query(task: lex.Task) -> Query:
    things = dict.fromkeys(thing for other in lex.TASKS for _, thing in other.steps)
    pool = (*things, *lex.WRONG_OBJECTS)
    facts = tuple(
        Fact(
            verb,
            lex.STEP_CLAIM.replace("{verb}", verb),
            frozenset({thing}),
            lex.WRONG_OBJECTS,
            pool,
            lex.STEP_LEADS,
        )
        for verb, thing in task.steps
    )
    return Query("howto", (("task", task.name),), facts, task.hazard)


def _list_query(category: str) -> Query:
    members = tuple(member for group in lex.CATEGORIES.values() for member in group)
    right = frozenset(lex.CATEGORIES[category])
    wrong = lex.WRONG_EXAMPLES
    fact = Fact("", lex.EXAMPLE_CLAIM, right, wrong, (*members, *wrong), lex.EXAMPLE_LEADS)
    return Query("list", (("category", category),), (fact,), "")


_ANIMALS = {animal.name: animal for animal in lex.ANIMALS}
_TASKS = {task.name: task for task in lex.TASKS}


def _build(kind: Kind, words: dict[str, str]) -> Query:
    """The query about these words; raises KeyError or ValueError for words of no entity."""
    if kind == "sum":
        return _sum_query(words["name"], words["objects"], int(words["a"]), int(words["b"]))
    if kind == "thing":
        return _thing_query(_ANIMALS[words["animal"]])
    if kind == "howto":
        return _howto_query(_TASKS[words["task"]])
    return _list_query(words["category"])


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
            return _build(kind, match.groupdict())
    raise ValueError(f"not a query of the tiny world: {text[:80]!r}")


def _stable(text: str, modulus: int) -> int:
    """A number below `modulus` that depends on the text alone, the same in every process."""
    return zlib.crc32(text.encode()) % modulus


def is_held_out(kind: Kind, entity: str, phrasing: int) -> bool:
    """Whether training never shows this entity in this phrasing (a sum: these addends)."""
    if kind == "sum":
        return _stable(entity, SUM_HELD_OUT_ONE_IN) == 0
    return _stable(entity, len(lex.PHRASINGS[kind])) == phrasing


def _entity(kind: Kind, rng: random.Random) -> tuple[str, dict[str, str]]:
    """(what `is_held_out` goes by, the words that fill a phrasing) of one random entity."""
    if kind == "sum":
        words = {field: rng.choice(_CHOICES[field]) for field in ("name", "objects", "a", "b")}
        return f"{words['a']}+{words['b']}", words
    field = {"thing": "animal", "howto": "task", "list": "category"}[kind]
    word = rng.choice(_CHOICES[field])
    return word, {field: word}


def sample_query(
    rng: random.Random, *, held_out: bool = False, kinds: tuple[Kind, ...] = lex.KINDS
) -> str:
    """The text of one random query, each kind equally likely, from one side of the split."""
    kind = rng.choice(kinds)
    while True:
        entity, words = _entity(kind, rng)
        phrasing = rng.randrange(len(lex.PHRASINGS[kind]))
        if is_held_out(kind, entity, phrasing) == held_out:
            body = lex.PHRASINGS[kind][phrasing].format(**words)
            return rng.choice(lex.PREFIXES) + body + rng.choice(lex.SUFFIXES)


def reword(query: Query, rng: random.Random) -> str:
    """A random text of the training split that asks the same; endless for sums held out of it."""
    words = dict(query.fields)
    entity = f"{words['a']}+{words['b']}" if query.kind == "sum" else query.fields[0][1]
    while True:
        phrasing = rng.randrange(len(lex.PHRASINGS[query.kind]))
        if not is_held_out(query.kind, entity, phrasing):
            body = query.fill(lex.PHRASINGS[query.kind][phrasing])
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


def every_query() -> Iterator[Query]:
    """One query for each entity, and for each sum of each name and thing."""
    for animal in lex.ANIMALS:
        yield _thing_query(animal)
    for task in lex.TASKS:
        yield _howto_query(task)
    for category in lex.CATEGORIES:
        yield _list_query(category)
    for name, objects, a, b in product(lex.NAMES, lex.OBJECTS, lex.ADDENDS, lex.ADDENDS):
        yield _sum_query(name, objects, a, b)
