"""What a new query must be like by itself and beside its seeds; each check names its reason."""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence

from sso_data.augmentation.answers import Rejection
from sso_data.augmentation.attempts import OPERATIONS, TEMPLATE, Attempt
from sso_data.augmentation.texts import normal
from sso_data.config.augmentation import ChecksConfig
from sso_data.core.jinja import Templates, phrases
from sso_data.core.language import is_another_language

_CONTROL_TOKEN = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
_ALLOWED = "\n\t\r"
_REPLACEMENT = "�"
_SHORT_SEED = 40
_LEAST_QUOTE = 12
"""Characters of a seed or an example, in normal form, from which holding it is copying it."""
_LABEL = re.compile(r"^[\w ]{1,30}:\s+")


class Examples:
    """The few-shot examples of a template: everything it says when its seed is blank."""

    def __init__(self, templates: Templates) -> None:
        said = [
            message.content
            for operation in OPERATIONS
            for message in templates.messages(
                TEMPLATE, operation=operation, seeds=[""], context=[], system=""
            )
        ]
        self._said = tuple(dict.fromkeys(map(normal, said)))
        self.queries = tuple(dict.fromkeys(line for text in said for line in _queries(text)))

    def hold(self, query: str) -> bool:
        """Whether the template says all of this query."""
        asked = normal(query)
        return len(asked) >= _LEAST_QUOTE and any(_holds(text, asked) for text in self._said)


def _queries(said: str) -> Iterator[str]:
    """The lines of a template that could be queries, without the labels before them."""
    for line in said.splitlines():
        text = line.strip()
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict):
            yield from (one for one in value.values() if isinstance(one, str))
        elif len(text) >= _LEAST_QUOTE:
            yield _LABEL.sub("", text, count=1) or text


def first_problem(query: str, attempt: Attempt, config: ChecksConfig) -> Rejection | None:
    """Why a text is no query to keep, judged by itself and beside the seeds that were shown."""
    return (
        _forbidden_characters(query)
        or _not_a_query(query)
        or _length(query, attempt.texts, config)
        or _quotes_seed(query, attempt)
        or (_language(query, attempt) if config.language else None)
    )


def _forbidden_characters(query: str) -> Rejection | None:
    for char in query:
        category = unicodedata.category(char)
        if (category in ("Cc", "Cs", "Co", "Cn") and char not in _ALLOWED) or char == _REPLACEMENT:
            return Rejection(reason="control_characters", detail=f"holds U+{ord(char):04X}")
    token = _CONTROL_TOKEN.search(query)
    if token:
        return Rejection(reason="control_characters", detail=f"holds {token.group()}")
    return None


def _not_a_query(query: str) -> Rejection | None:
    """An answer's or a refusal's opening; see templates/not_queries.txt."""
    opening = " ".join(query[:200].replace("’", "'").lower().split())
    for phrase in phrases("not_queries.txt"):
        after = opening[len(phrase) : len(phrase) + 1]
        if opening.startswith(phrase) and not (after.isalnum() and phrase[-1].isascii()):
            return Rejection(reason="not_a_query", detail=f"begins with {phrase!r}")
    return None


def _length(query: str, seeds: Sequence[str], config: ChecksConfig) -> Rejection | None:
    size = len(query)
    mean = sum(map(len, seeds)) / len(seeds)
    least = max(config.min_chars, config.min_ratio * mean)
    most = min(config.max_chars, config.max_ratio * max(mean, _SHORT_SEED))
    if size < least:
        return Rejection(reason="too_short", detail=f"{size} characters, at least {least:.0f}")
    if size > most:
        return Rejection(reason="too_long", detail=f"{size} characters, at most {most:.0f}")
    return None


def _quotes_seed(query: str, attempt: Attempt) -> Rejection | None:
    """A seed that stands unchanged in the query; rephrased ones go by similarity alone."""
    if attempt.operation == "rephrase":
        return None
    asked = normal(query)
    for seed, text in zip(attempt.seeds, attempt.texts, strict=True):
        told = normal(text)
        if asked == told or (len(told) >= _LEAST_QUOTE and _holds(asked, told)):
            return Rejection(reason="quotes_seed", detail=f"holds the whole of {seed.id}")
    return None


def _language(query: str, attempt: Attempt) -> Rejection | None:
    if is_another_language(query, attempt.texts[-1]):
        return Rejection(reason="language", detail=f"not in the language of {attempt.base.id}")
    return None


def _holds(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as whole words, both in normal form."""
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        before, after = text[start - 1 : start], text[end : end + 1]
        if not _is_inside(before, part[0]) and not _is_inside(after, part[-1]):
            return True
        start = text.find(part, start + 1)
    return False


def _is_inside(beside: str, edge: str) -> bool:
    """Whether two neighbouring characters belong to one word (scripts with spaces alone)."""
    return beside.isascii() and beside.isalnum() and edge.isalnum()
