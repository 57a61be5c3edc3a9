"""How texts are compared: what of them counts as the same, their n-grams, their words."""

import re
import unicodedata

_AFTER = re.compile(r"[.,;:!?…\"'”’»)\]。，！？、；：」]+(?!\w)")
_BEFORE = re.compile(r"(?<!\w)[\"'“‘„«(\[¿¡「]+")
_WORDS = re.compile(
    r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|[^\W_]+"
)
"""A run of letters and digits; of scripts that write no spaces between words, one character."""


def normal(text: str) -> str:
    """The text without case, superfluous white space and punctuation at the ends of words.

    Signs inside of words and between spaces stay: 3.5 is not 35, 3 + 4 is not 3 - 4, C++ is not C.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_BEFORE.sub(" ", _AFTER.sub(" ", folded)).split())


def shingles(text: str, size: int) -> set[str]:
    """The character n-grams of a text in normal form; a shorter text is its own."""
    return {text[start : start + size] for start in range(max(1, len(text) - size + 1))}


def words(text: str) -> list[str]:
    """The words of a text, without case."""
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())
