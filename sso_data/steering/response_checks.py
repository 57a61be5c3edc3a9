"""Checks of a response by rule: what an annotator would tick for the good side of a principle."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sso_data.core.language import language_of

Most = Annotated[int, Field(ge=1)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]

_ITEM = re.compile(r"^\s*(?:[-*+\u2022\u2013]|\d{1,3}[.)])\s+", re.MULTILINE)
_SENTENCE_END = re.compile(
    r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*\s+(?![a-z])|(?<=[\u3002\uff01\uff1f])|\n+"
)


class ResponseCheck(BaseModel):
    """What a program can tick off a response; of several keys, the mean degree counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_sentences: Most | None = None
    """Most sentences: they end at `.`, `!`, `?` or a line's end; an item of a list is one."""
    max_words: Most | None = None
    """Most words, separated by white space."""
    layout: Literal["list", "prose"] | None = None
    """`list`: two lines or more begin with a bullet or a number; `prose`: no line does."""
    language: Annotated[str, StringConstraints(pattern="^[a-z]{2,3}$")] | None = None
    """ISO 639 code of the language; a text whose language is uncertain is in none."""
    word: Words | None = None
    """A word or phrase that the response must hold, in any case."""
    without_word: Words | None = None
    """A word or phrase that the response must not hold, in any case."""
    ends_with: Words | None = None
    """How the response must end, white space and closing quotes apart."""

    @model_validator(mode="after")
    def _checks_something(self) -> "ResponseCheck":
        if not self._wanted():
            raise ValueError(f"name what is checked: one of {', '.join(_DEGREES)}")
        return self

    def degree(self, text: str) -> float:
        """Return how well a response follows, 0 to 1; 1 is a tick. An empty one follows nothing."""
        if not text.strip():
            return 0.0
        wanted = self._wanted()
        return sum(_DEGREES[name](text, value) for name, value in wanted.items()) / len(wanted)

    def _wanted(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


def sentences(text: str) -> int:
    """Return the number of sentences; each line of a list is at least one."""
    plain = _ITEM.sub("", text)
    return sum(any(map(str.isalnum, part)) for part in _SENTENCE_END.split(plain))


def list_items(text: str) -> int:
    """Return the number of lines that begin with a bullet or a number."""
    return len(_ITEM.findall(text))


def holds(text: str, words: str) -> bool:
    """Return True when the text holds the words, in any case, and not as a part of others."""
    pattern = r"\s+".join(map(re.escape, words.split()))
    return bool(re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE))


def _at_most(number: int, most: int) -> float:
    """Return 1 up to `most`, and then the share that is allowed: 2 of at most 1 is 0.5."""
    return min(1.0, most / max(number, 1))


def _bare_end(text: str, end: str) -> str:
    """Return the text without white space, quotes and marks at its end that are not in `end`."""
    return text.rstrip("".join({*" \t\r\n\"'\u201d\u2019)*_"} - {*end}))


_DEGREES: Mapping[str, Callable[[str, Any], float]] = {
    "max_sentences": lambda text, most: _at_most(sentences(text), most),
    "max_words": lambda text, most: _at_most(len(text.split()), most),
    "layout": lambda text, kind: float(
        list_items(text) > 1 if kind == "list" else not list_items(text)
    ),
    "language": lambda text, code: float(language_of(text) == code),
    "word": lambda text, words: float(holds(text, words)),
    "without_word": lambda text, words: float(not holds(text, words)),
    "ends_with": lambda text, end: float(_bare_end(text, end).endswith(end)),
}
"""How well a text follows each key of a check, 0 to 1."""
