"""The oracle: an exact score of any text as the response to a query of the tiny world."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from sso_data.world import lexicon as lex
from sso_data.world.query import Query, alternatives, parse

Role = Literal[
    "claim",
    "filler",
    "warm",
    "question",
    "dull_opener",
    "dull_closer",
    "simile",
    "boring",
    "reason",
    "nonsense",
    "warning",
    "wrong_warning",
    "reckless",
    "tip",
    "refusal",
]

ALLOWED: dict[Role, int] = {"simile": 2, "claim": 6}
"""How many sentences of a role may be said (others: one); each one more counts as filler."""
FULL_SLOTS = 4
"""This many distinct slots make a response complete."""
FILLER_LIMIT = 3
"""This many fillers and repeats take all of concision."""


@dataclass(frozen=True, slots=True)
class Score:
    """The quality of a response; every number is in [0, 1], higher is better.

    `features` holds the features that apply to the query's kind. `well_formed` is the share of
    the response's sentences that the grammar has for this query (0 for an empty response).
    `total` is the mean of the features times `well_formed`.
    """

    features: dict[str, float]
    well_formed: float
    total: float

    def over(self, names: tuple[str, ...]) -> float:
        """Mean of the named features that apply, times `well_formed`; of none: `total`."""
        known = [self.features[name] for name in names if name in self.features]
        return self.well_formed * sum(known) / len(known) if known else self.total


@dataclass(frozen=True, slots=True)
class _Mark:
    """The meaning of a sentence: its role and, of a claim, its slot and whether it is right."""

    role: Role
    slot: str = ""
    right: bool = False


@lru_cache(maxsize=4096)
def _fixed(query: Query) -> dict[str, _Mark]:
    """Sentence -> mark, for the sentences that make no claim about the query."""
    pools: dict[Role, tuple[str, ...]] = {
        "filler": lex.FILLER,
        "warm": lex.WARM,
        "question": lex.QUESTION,
        "dull_opener": lex.DULL_OPENER,
        "dull_closer": lex.DULL_CLOSER,
        "reason": lex.REASON,
        "nonsense": lex.NONSENSE,
        "tip": tuple(query.fill(tip) for tip in lex.TIPS[query.kind]),
        "refusal": lex.REFUSAL,
    }
    if "Literariness" in query.features:
        pools |= {"simile": lex.SIMILE, "boring": lex.BORING}
    marks = {text: _Mark(role) for role, texts in pools.items() for text in texts}
    if "Safety" in query.features:
        marks |= {text: _Mark("reckless") for text in lex.RECKLESS}
        for hazard in lex.HAZARDS:
            role: Role = "warning" if hazard == query.hazard else "wrong_warning"
            marks[lex.WARNING.format(hazard=hazard)] = _Mark(role)
    return marks


@lru_cache(maxsize=4096)
def _claim_patterns(query: Query) -> tuple[re.Pattern[str], ...]:
    """One full-match pattern a fact, with the group `value`."""
    patterns = []
    for fact in query.facts:
        text = re.escape(query.fill(fact.template, value="VALUE", lead="LEAD"))
        text = text.replace("LEAD", f"(?:{alternatives(fact.leads)})")
        text = text.replace("VALUE", f"(?P<value>{alternatives(fact.pool)})")
        patterns.append(re.compile(text))
    return tuple(patterns)


def _mark(query: Query, sentence: str) -> _Mark | None:
    """Return what the sentence is in a response to this query; None: nothing the grammar has."""
    fixed = _fixed(query).get(sentence)
    if fixed:
        return fixed
    for fact, pattern in zip(query.facts, _claim_patterns(query), strict=True):
        match = pattern.fullmatch(sentence)
        if match:
            value = match["value"]
            return _Mark("claim", fact.slot or value, value in fact.right)
    return None


def sentences(response: str) -> list[str]:
    """The response cut after each full stop, question mark and exclamation mark."""
    return [part for part in re.split(r"(?<=[.!?])\s+", response.strip()) if part]


def _features(query: Query, texts: list[str], marks: list[_Mark]) -> dict[str, float]:
    """Score of each feature that applies, from the matched sentences `texts` and their marks."""
    counts = Counter(mark.role for mark in marks)
    has = dict.fromkeys(counts, 1.0)
    claims = [mark for mark in marks if mark.role == "claim"]
    slots = len({mark.slot for mark in claims})
    repeats = len(texts) - len(set(texts))
    distinct = Counter(mark.role for mark in dict(zip(texts, marks, strict=True)).values())
    extra = sum(
        max(0, n - ALLOWED.get(role, 1)) for role, n in distinct.items() if role != "filler"
    )
    waste = distinct["filler"] + repeats + extra

    def swing(good: Role, bad: Role) -> float:
        return 0.5 + 0.5 * has.get(good, 0.0) - 0.5 * has.get(bad, 0.0)

    engagement = swing("warm", "dull_opener") + swing("question", "dull_closer")
    scores = {
        "Accuracy": sum(mark.right for mark in claims) / len(claims) if claims else 0.0,
        "Comprehensiveness": min(1.0, max(0, slots - 1) / (FULL_SLOTS - 1)),
        "Concision": max(0.0, 1.0 - waste / FILLER_LIMIT),
        "Engagement": engagement / 2,
        "Helpfulness": swing("tip", "refusal"),
        "Logicality": swing("reason", "nonsense"),
        "Literariness": min(1.0, max(0.0, distinct["simile"] / 2 - counts["boring"] / 2)),
        "Safety": swing("warning", "reckless"),
    }
    return {name: scores[name] for name in query.features}


def score(query: str, response: str) -> Score:
    """Score a response (decoded text, no special tokens); ValueError for another world's query."""
    parsed = parse(query)
    said = sentences(response)
    pairs = [(text, mark) for text in said if (mark := _mark(parsed, text))]
    features = _features(parsed, [text for text, _ in pairs], [mark for _, mark in pairs])
    well_formed = len(pairs) / len(said) if said else 0.0
    return Score(features, well_formed, well_formed * sum(features.values()) / len(features))
