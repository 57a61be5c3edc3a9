"""Near-duplicates: MinHash finds candidates among the texts so far, character n-grams decide.

Memory: about 2 KB a text (measured figures in `docs/augment.md`).
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sso_data.config.augmentation import DuplicatesConfig
from sso_data.core.errors import ConfigError
from sso_data.core.words import normal

Kind = Literal["seed", "example", "new"]

_Text = tuple[str, str]
"""Scope and normal form."""

_BANDS = 16
_RECALL = 0.98
_MOST_ROWS = 8
_MOST_CHARS = 4000
_HASH_SEED = 1


def shingles(text: str, size: int) -> set[str]:
    """The character n-grams of a text; a text shorter than `size` is its only one."""
    return {text[start : start + size] for start in range(max(1, len(text) - size + 1))}


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
    """An index of texts by similarity; raises ConfigError where rensa is not installed."""

    def __init__(self, config: DuplicatesConfig) -> None:
        try:
            import rensa
        except ImportError as error:
            raise ConfigError("augment needs rensa: pip install 'sso-data[augment]'") from error
        self._size = config.ngram
        self._threshold = config.threshold
        self._hashes = _BANDS * rows_of_bands(config.threshold)
        self._sketch: Any = rensa.RMinHash
        self._index: Any = rensa.RMinHashLSH(config.threshold, self._hashes, _BANDS)
        self._texts: list[_Text] = []
        self._owners: list[tuple[Kind, str]] = []

    def add(self, text: str, kind: Kind, identity: str, *, scope: str = "") -> None:
        """Add a text; only texts of the same `scope` are compared."""
        known = (scope, normal(text))
        self._index.insert(len(self._texts), self._sketch_of(scope, shingles(known[1], self._size)))
        self._texts.append(known)
        self._owners.append((kind, identity))

    def find(self, text: str, *, scope: str = "") -> Match | None:
        """The text most similar to this one, if it is a duplicate; the earliest of equals."""
        asked = (scope, normal(text))
        grams = shingles(asked[1], self._size)
        best, place = 0.0, -1
        for candidate in sorted(self._index.query(self._sketch_of(scope, grams))):
            other = self._texts[candidate]
            if asked == other:
                similarity = 2.0  # the same text: more than any other
            elif scope != other[0]:
                continue
            else:
                theirs = shingles(other[1], self._size)
                similarity = len(grams & theirs) / len(grams | theirs)
            if similarity > best:
                best, place = similarity, candidate
        if best < self._threshold:
            return None
        kind, identity = self._owners[place]
        return Match(kind=kind, id=identity, similarity=min(best, 1.0), same=best > 1)

    def bands(self, text: str, *, scope: str = "") -> list[int]:
        """Return a hash of each band of a text; near-duplicates have one in common (98 %)."""
        grams = shingles(normal(text), self._size)
        found = self._sketch_of(scope, grams).digest()
        size = len(found) // _BANDS
        return [hash((band, *found[band * size :][:size])) for band in range(_BANDS)]

    def _sketch_of(self, scope: str, grams: set[str]) -> Any:
        """The MinHash of n-grams; the scope is part of each, so that others are no candidates."""
        sketch = self._sketch(self._hashes, _HASH_SEED)
        sketch.update([scope + gram for gram in grams])
        return sketch


def near_duplicates(texts: Iterable[tuple[str, str]]) -> set[int]:
    """Return the positions of (scope, text) that resemble another one; long ones by their start.

    Each is compared with the last text of its bands alone: the time is linear in their number also
    where all of them follow one pattern. Raises ConfigError where rensa is not installed.
    """
    config = DuplicatesConfig()
    index, known, bands = NearDuplicateIndex(config), list[str](), array("q")
    for scope, text in texts:
        known.append(normal(text)[:_MOST_CHARS])
        bands.extend(index.bands(known[-1], scope=scope))
    columns = np.array(bands, np.int64).reshape(-1, _BANDS).T
    before = np.stack([_last_equal(hashes) for hashes in columns], axis=1)
    found = set[int]()
    for place in np.flatnonzero((before >= 0).any(axis=1)).tolist():
        grams = shingles(known[place], config.ngram)
        for other in {*before[place].tolist()} - {-1}:
            theirs = shingles(known[other], config.ngram)
            if len(grams & theirs) >= config.threshold * len(grams | theirs):
                found |= {place, other}
    return found


def _last_equal(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return for each value the place of the last equal one before it, or -1."""
    order = np.argsort(values, kind="stable")
    found = np.full(len(values), -1, np.int32)
    equal = values[order[1:]] == values[order[:-1]]
    found[order[1:][equal]] = order[:-1][equal]
    return found
