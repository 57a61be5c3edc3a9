"""Near-duplicates: MinHash finds candidates among all texts so far, n-grams decide.

The one home of rensa. Memory: about 2 KB a text (measured figures in `docs/augment.md`).
"""

from dataclasses import dataclass
from typing import Any, Literal

from sso_data.augmentation.texts import normal, shingles
from sso_data.config.augmentation import DuplicatesConfig
from sso_data.core.errors import ConfigError

Kind = Literal["seed", "example", "new"]

_Text = tuple[str, str]
"""Scope and normal form."""

_BANDS = 16
_RECALL = 0.98
_MOST_ROWS = 8
_HASH_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The most similar text of those added earlier; `similarity` is Jaccard of the n-grams."""

    kind: Kind
    id: str
    similarity: float
    same: bool


def rows_of_bands(threshold: float) -> int:
    """Hashes a band: the most with which 16 bands still find 98 % of the pairs at `threshold`."""
    fitting = [
        rows for rows in range(1, _MOST_ROWS + 1) if 1 - (1 - threshold**rows) ** _BANDS >= _RECALL
    ]
    return max(fitting, default=1)


class NearDuplicateIndex:
    """Texts by similarity. Raises ConfigError where rensa is not installed."""

    def __init__(self, config: DuplicatesConfig) -> None:
        rensa = _require_rensa()
        self._size = config.ngram
        self._threshold = config.threshold
        self._hashes = _BANDS * rows_of_bands(config.threshold)
        self._sketch = rensa.RMinHash
        self._index = rensa.RMinHashLSH(config.threshold, self._hashes, _BANDS)
        self._texts: list[_Text] = []
        self._owners: list[tuple[Kind, str]] = []

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str, kind: Kind, identity: str, *, scope: str = "") -> None:
        """Remember a text; only texts of the same `scope` are compared."""
        known = (scope, normal(text))
        self._index.insert(len(self._texts), self._sketch_of(scope, self._grams(known)))
        self._texts.append(known)
        self._owners.append((kind, identity))

    def find(self, text: str, *, scope: str = "") -> Match | None:
        """The text most similar to this one, if it is a duplicate; the earliest of equals."""
        asked = (scope, normal(text))
        grams = self._grams(asked)
        best, place = 0.0, -1
        for candidate in sorted(self._index.query(self._sketch_of(scope, grams))):
            similarity = self._similarity(asked, grams, self._texts[candidate])
            if similarity > best:
                best, place = similarity, candidate
        if best < self._threshold:
            return None
        kind, identity = self._owners[place]
        return Match(kind=kind, id=identity, similarity=min(best, 1.0), same=best > 1)

    def _similarity(self, asked: _Text, grams: set[str], other: _Text) -> float:
        """Jaccard similarity within a scope; 2 for the same text, which is more than any other."""
        if asked == other:
            return 2.0
        if asked[0] != other[0]:
            return 0.0
        theirs = self._grams(other)
        return len(grams & theirs) / len(grams | theirs)

    def _grams(self, text: _Text) -> set[str]:
        return shingles(text[1], self._size)

    def _sketch_of(self, scope: str, grams: set[str]) -> Any:
        """The MinHash of n-grams; the scope is part of each, so that others are no candidates."""
        sketch = self._sketch(self._hashes, _HASH_SEED)
        sketch.update([scope + gram for gram in grams])
        return sketch


def _require_rensa() -> Any:
    try:
        import rensa
    except ImportError as error:
        raise ConfigError("augment needs rensa: pip install 'sso-data[augment]'") from error
    return rensa
