"""What can be told of a principle text by looking at it: length, likeness, quotation, leakage."""

import re
import unicodedata

from sso_data.runs.columns import leaks

QUOTED_WORDS, QUOTED_SIGNS = 6, 12
"""So many words in a row, or characters of a script without spaces, are a quotation."""

SHORT_REQUEST = 3
"""A whole request of at least so many words is one, too."""

_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+"
)
"""A word, or one character of Thai, Lao, Burmese, Khmer, Japanese or Chinese."""

_FILLERS = frozenset("a an the and or to of in please very really".split())  # noqa: SIM905
_CONTROL = re.compile(r"<\|[^|>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>")


def words(text: str) -> list[str]:
    """The words of a text without case and marks; in scripts without spaces, its characters."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def length_ratio(one: str, other: str) -> float:
    """How many times as long as the shorter text the longer one is, in characters."""
    short, long = sorted((len(one), len(other)))
    return long / short if short else float("inf")


def are_alike(one: str, other: str) -> bool:
    """Whether two texts say the same: the same words in any order, fillers apart.

    Opposites may differ in a single word ("right" and "wrong", "not"), so that no measure of
    similarity tells them from duplicates; the set of words does.
    """
    return _content(words(one)) == _content(words(other))


def likeness(one: str, other: str) -> float:
    """Shared pairs of neighbouring words as a share of all of theirs (Jaccard), 0 to 1."""
    first, second = _pairs(words(one)), _pairs(words(other))
    return len(first & second) / len(first | second) if first | second else 0.0


def quotes(text: str, request: str) -> bool:
    """Whether `text` copies a passage of `request`, or the whole of a short one."""
    asked, said = words(request), words(text)
    signs = sum(len(word) == 1 and not word.isascii() for word in asked)
    size = QUOTED_SIGNS if 2 * signs > len(asked) else QUOTED_WORDS
    if len(asked) < size:
        size = len(asked)
        if size < SHORT_REQUEST:
            return False
    return not _runs(asked, size).isdisjoint(_runs(said, size))


def speaks_of_itself(text: str) -> bool:
    """Whether a principle uses words that the filter takes for a leak (templates/leakage.txt)."""
    return leaks(text)


def holds_control(text: str) -> bool:
    """Whether something that looks like a control token of a chat stands in the text."""
    return bool(_CONTROL.search(text))


def is_showable(text: str) -> bool:
    """Whether the text has no characters that no reader sees."""
    return all(unicodedata.category(char) not in ("Cc", "Cs", "Co") for char in text)


def _content(found: list[str]) -> list[str]:
    return sorted(word for word in found if word not in _FILLERS)


def _pairs(found: list[str]) -> set[tuple[str, ...]]:
    return _runs(found, 2)


def _runs(found: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(found[start : start + size]) for start in range(len(found) - size + 1)}
