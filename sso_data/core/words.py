"""Words of a text, runs of them, and how much two texts have in common."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+"
)
"""A word, or one character of Thai, Lao, Burmese, Khmer, Japanese or Chinese."""

_AFTER = re.compile(r"[.,;:!?…\"'”’»)\]。，！？、；：」]+(?!\w)")
_BEFORE = re.compile(r"(?<!\w)[\"'“‘„«(\[¿¡「]+")


def words(text: str) -> list[str]:
    """Return the case-folded words of a text; in scripts without spaces, its characters."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value, however deep, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(part)


def runs(found: list[str], size: int) -> set[tuple[str, ...]]:
    """Return the runs of `size` words in a row; none of fewer words."""
    return {tuple(found[start : start + size]) for start in range(len(found) - size + 1)}


def share_run(one: str, other: str, size: int) -> bool:
    """Return True for two texts with `size` words in a row in common."""
    return not runs(words(one), size).isdisjoint(runs(words(other), size))


def likeness(one: str, other: str) -> float:
    """Return the Jaccard similarity of two texts' pairs of neighbouring words, 0 to 1."""
    first, second = runs(words(one), 2), runs(words(other), 2)
    return len(first & second) / len(first | second) if first | second else 0.0


def containment(one: str, other: str) -> float:
    """Return the share of the shorter text's pairs of neighbouring words that both hold, 0 to 1."""
    first, second = runs(words(one), 2), runs(words(other), 2)
    fewest = min(len(first), len(second))
    return len(first & second) / fewest if fewest else 0.0


def normal(text: str) -> str:
    """The normal form of a text: no case, extra white space, or punctuation at the ends of words.

    Signs inside of words and between spaces stay: 3.5 is not 35, 3 + 4 is not 3 - 4, C++ is not C.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_BEFORE.sub(" ", _AFTER.sub(" ", folded)).split())


def holds(text: str, part: str) -> bool:
    """Return True where `part` is in `text` as whole words, both in normal form."""
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        neighbours = ((text[start - 1 : start], part[0]), (text[end : end + 1], part[-1]))
        if not any(
            outer.isascii() and outer.isalnum() and inner.isalnum() for outer, inner in neighbours
        ):
            return True
        start = text.find(part, start + 1)
    return False
