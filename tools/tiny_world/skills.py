"""The policy's other skills: choosing features, writing principles, making new queries."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Literal, get_args

from sso_data.core.jinja import render
from sso_data.steering.principles import Principle
from sso_data.world import lexicon as lex
from sso_data.world import skill_templates_dir
from sso_data.world.query import Query, is_held_out, parse, sample_query
from tools.tiny_world.guidelines import feature_pairs, short_catalogue

Operation = Literal["rephrase", "evolve", "topic", "harder", "easier", "new"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
"""How a new query comes from a seed; "new" is what the template asks for under any other name."""

OPERATION_WEIGHTS = (0.25, 0.2, 0.15, 0.15, 0.15, 0.1)
"""How often each is trained; what copies more of the seed needs more examples."""
DEGREES = ("harder", "easier")
MIDDLE = 12
"""The middle of all totals of two addends."""

COUNTS = ((1, 0.15), (2, 0.7), (3, 0.15))
"""How many features a prompt asks for, with the chance of each."""
WHOLE, WITHOUT_CONCISION = 0.4, 0.3
"""Chances that a prompt offers all features, or all but Concision; else a random part of them."""
SHUFFLED = 0.6
"""Chance that they are not in the catalogue's order."""
FREE_FORM = 0.1
"""Chance that a principle is asked for without naming a feature."""


def choose_prompt(features: Sequence[Principle], count: int, query: str) -> str:
    """The user turn that asks for `count` of the features."""
    offered = [
        {
            "name": one.name,
            "meaning": one.meaning,
            "good_adjective": one.adjectives.good,
            "bad_adjective": one.adjectives.bad,
        }
        for one in features
    ]
    return _prompt("choose.j2", query, features=offered, count=count)


def write_prompt(feature: Principle | None, query: str) -> str:
    """The user turn that asks for a good and a bad principle."""
    return _prompt(
        "write.j2",
        query,
        feature=feature.name if feature else "",
        meaning=feature.meaning if feature else "",
        adjectives=feature.adjectives.model_dump() if feature else {},
    )


def augment_prompt(seeds: Sequence[str], operation: str) -> str:
    """The user turn that asks for a query made from the last of the seeds."""
    return render(
        "augment.j2", directory=skill_templates_dir(), seeds=list(seeds), operation=operation
    )


def _prompt(name: str, query: str, **variables: object) -> str:
    conversation = [{"role": "user", "content": query}]
    return render(name, directory=skill_templates_dir(), conversation=conversation, **variables)


def draw_choice(rng: random.Random) -> tuple[str, str]:
    """(prompt, answer): a JSON list of features, each that applies as likely, in order of names."""
    text = sample_query(rng)
    catalogue = short_catalogue().principles
    count = rng.choices([n for n, _ in COUNTS], [chance for _, chance in COUNTS])[0]
    offered = list(catalogue)
    draw = rng.random()
    if draw >= WHOLE:
        offered.remove("Concision")
    if draw >= WHOLE + WITHOUT_CONCISION:
        must = rng.sample([name for name in offered if name in parse(text).features], count)
        offered = [name for name in catalogue if name in must or rng.random() < 0.6]
    if rng.random() < SHUFFLED:
        rng.shuffle(offered)
    names = sorted(rng.sample([name for name in offered if name in parse(text).features], count))
    return choose_prompt([catalogue[name] for name in offered], count, text), json.dumps(names)


def draw_principle(rng: random.Random) -> tuple[str, str]:
    """(prompt, answer): one of the feature's pairs of guidelines as a JSON object."""
    text = sample_query(rng)
    query = parse(text)
    name = rng.choice(query.features)
    pair = rng.choice(feature_pairs(name, query))
    feature = short_catalogue()[name] if rng.random() >= FREE_FORM else None
    return write_prompt(feature, text), json.dumps({"good": pair.good, "bad": pair.bad})


def draw_query(rng: random.Random) -> tuple[str, str]:
    """(prompt, answer): a new query from one to three seeds, all of the training split."""
    seeds = [sample_query(rng) for _ in range(rng.choices((1, 2, 3), (0.85, 0.1, 0.05))[0])]
    operation = rng.choices(OPERATIONS, OPERATION_WEIGHTS)[0]
    answer = new_query(seeds[-1], operation, rng)
    return augment_prompt(seeds, operation), answer


def new_query(seed: str, operation: Operation, rng: random.Random) -> str:
    """A query of the training split that the operation makes of the seed."""
    query = parse(seed)
    same = operation == "rephrase" or (operation in DEGREES and query.kind != "sum")
    while True:
        text = reword(query, rng) if same else sample_query(rng)
        if fits(seed, text, operation):
            return text


def reword(query: Query, rng: random.Random) -> str:
    """A random text of the training split that asks the same; endless for sums held out of it."""
    words = dict(query.fields)
    entity = f"{words['a']}+{words['b']}" if query.kind == "sum" else query.fields[0][1]
    while True:
        phrasing = rng.randrange(len(lex.PHRASINGS[query.kind]))
        if not is_held_out(query.kind, entity, phrasing):
            body = query.fill(lex.PHRASINGS[query.kind][phrasing])
            return rng.choice(lex.PREFIXES) + body + rng.choice(lex.SUFFIXES)


def fits(seed: str, text: str, operation: Operation) -> bool:
    """Whether `text` is a query that the operation may make of the seed; never the seed itself.

    A harder sum has a total above `MIDDLE`, an easier one below it; the other kinds are the same
    query with a greeting and a thank-you around it, or with neither.
    """
    try:
        old, new = parse(seed), parse(text)
    except ValueError:
        return False
    same_kind, same = new.kind == old.kind, new.fields == old.fields
    checks: dict[Operation, bool] = {
        "new": True,
        "topic": not same_kind,
        "evolve": same_kind and not same,
        "rephrase": same,
        "harder": same_kind and _has_degree(text, new, harder=True) and _same_subject(old, new),
        "easier": same_kind and _has_degree(text, new, harder=False) and _same_subject(old, new),
    }
    return text != seed and checks[operation]


def _same_subject(old: Query, new: Query) -> bool:
    """Whether both ask about the same; sums count as one subject."""
    return new.kind == "sum" or new.fields == old.fields


def _has_degree(text: str, query: Query, *, harder: bool) -> bool:
    if query.kind == "sum":
        values = dict(query.fields)
        total = int(values["a"]) + int(values["b"])
        return total > MIDDLE if harder else total < MIDDLE
    edges = [text.startswith(lex.PREFIXES[1:]), text.endswith(lex.SUFFIXES[1:])]
    return edges == [harder, harder]
