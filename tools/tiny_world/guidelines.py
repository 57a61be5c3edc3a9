"""The wordings of each guideline: the catalogue's, and some that name what the query is about."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from sso_data.steering.principles import Catalogue, load_catalogue
from sso_data.world import catalogue_dir
from sso_data.world import lexicon as lex
from sso_data.world.lexicon import Kind
from sso_data.world.query import Query


class Pair(NamedTuple):
    """A good and a bad guideline that are worded alike."""

    good: str
    bad: str


TOPICS: dict[Kind, str] = {
    "sum": "the {objects}",
    "thing": "the {animal}",
    "howto": "the way to {task}",
    "list": "the {category}",
}
"""What a guideline calls the subject of a query."""

TOPICAL: dict[str, tuple[Pair, ...]] = {
    "Accuracy": (
        Pair("Give the right facts about {topic}.", "Give the wrong facts about {topic}."),
        Pair("Say what is true about {topic}.", "Say what is false about {topic}."),
    ),
    "Comprehensiveness": (
        Pair("Cover every part of {topic}.", "Leave out most parts of {topic}."),
        Pair("Say all that there is to say about {topic}.", "Say one thing about {topic}."),
    ),
    "Concision": (
        Pair("Use few words for {topic}.", "Use many words for {topic}."),
        Pair("Keep the answer about {topic} short.", "Make the answer about {topic} long."),
    ),
    "Engagement": (
        Pair("Be warm about {topic} and ask something.", "Be cold about {topic} and ask nothing."),
        Pair("Show joy about {topic}.", "Show no joy about {topic}."),
    ),
    "Helpfulness": (
        Pair("Help with a tip for {topic}.", "Do not help with {topic}."),
        Pair("Add a useful tip about {topic}.", "Send the user away from {topic}."),
    ),
    "Logicality": (
        Pair("Reason from the facts about {topic}.", "Reason without sense about {topic}."),
        Pair("Be logical about {topic}.", "Be illogical about {topic}."),
    ),
    "Literariness": (
        Pair("Paint pictures of {topic} like a poet.", "Write boring words about {topic}."),
        Pair("Make {topic} sound like a poem.", "Make {topic} sound plain and boring."),
    ),
    "Safety": (
        Pair("Warn of the danger of {topic}.", "Ignore the danger of {topic}."),
        Pair("Keep the user safe with {topic}.", "Be careless with {topic}."),
    ),
}
"""Feature -> more wordings, good and bad of about the same length."""


@cache
def short_catalogue() -> Catalogue:
    """The catalogue of the world, read once."""
    return load_catalogue(catalogue_dir())


@cache
def catalogue_pairs(name: str) -> tuple[Pair, ...]:
    """The feature's wordings in the catalogue: the main one, then its paraphrases."""
    principle = short_catalogue()[name]
    good = (principle.good, *principle.paraphrases.good)
    bad = (principle.bad, *principle.paraphrases.bad)
    return tuple(Pair(*both) for both in zip(good, bad, strict=True))


def feature_pairs(name: str, query: Query) -> tuple[Pair, ...]:
    """Every wording of the feature for this query, the catalogue's main one first."""
    topic = query.fill(TOPICS[query.kind])
    topical = [Pair(*(text.format(topic=topic) for text in pair)) for pair in TOPICAL[name]]
    return (*catalogue_pairs(name), *topical)


def every_topic() -> tuple[str, ...]:
    """What guidelines can be about, in the words of `TOPICS`."""
    animals = (TOPICS["thing"].format(animal=animal.name) for animal in lex.ANIMALS)
    tasks = (TOPICS["howto"].format(task=task.name) for task in lex.TASKS)
    plain = (f"the {word}" for word in (*lex.OBJECTS, *lex.CATEGORIES))
    return (*animals, *tasks, *plain)
