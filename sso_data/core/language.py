"""Language identification, offline, with py3langid."""

from functools import cache, lru_cache
from typing import Any

CONFIDENT = 0.9
"""Least probability of a guess that counts; py3langid's are calibrated over text lengths."""

_LEAST_LETTERS = 12
_MOST_CHARS = 4000
_CLOSE = (
    frozenset(("bs", "hr", "sr", "sh", "me")),
    frozenset(("da", "nb", "nn", "no", "sv")),
    frozenset(("en", "pcm")),
    frozenset(("id", "jv", "ms", "su")),
    frozenset(("cs", "sk")),
    frozenset(("gl", "pt", "es", "ca", "ext")),
    frozenset(("ar", "ary", "arz")),
    frozenset(("fr", "gcf", "gcr", "ht")),
    frozenset(("hi", "ne", "mr")),
    frozenset(("zh", "yue", "wuu")),
    frozenset(("be", "ru", "uk")),
    frozenset(("fa", "ps", "ur")),
    frozenset(("af", "nl", "fy")),
    frozenset(("az", "tr", "tk", "crh")),
    frozenset(("kk", "ky", "tt", "ba")),
)
"""Groups of languages that are easily mistaken for each other in short texts."""


@lru_cache(maxsize=8)
def language_of(text: str) -> str | None:
    """Return the ISO 639 code of the language of `text`, or None where it is uncertain.

    Code, numbers and texts of fewer than a dozen letters have none.
    """
    part = text[:_MOST_CHARS]
    if sum(map(str.isalpha, part)) < _LEAST_LETTERS:
        return None
    found, probability = _identifier().classify(part)
    return None if found == "zxx" or probability < CONFIDENT else str(found)


def is_another_language(text: str, other: str) -> bool:
    """Return True if both languages are certain, and neither the same nor close to each other."""
    here, there = language_of(text), language_of(other)
    if here is None or there is None or here == there:
        return False
    return not any(here in group and there in group for group in _CLOSE)


@cache
def _identifier() -> Any:
    """Load the identifier, which takes about a second and 130 MB."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
