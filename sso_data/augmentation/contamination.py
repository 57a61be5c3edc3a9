"""Decontamination: runs of words (n-grams) that a new query shares with benchmark texts.

A query with N words or more is contaminated by N of them in a row that are in a benchmark text, a
shorter one by being in there as a whole, and by a benchmark text shorter than N that is in the
query as a whole. Texts too short for that must be equal.
"""

import hashlib
import re
import unicodedata
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sso_data.config.augmentation import DecontaminateConfig
from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError
from sso_data.core.words import texts_in
from sso_data.prompts import raw_rows
from sso_data.prompts.rows import BadRow

Hashes = npt.NDArray[np.uint64]
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIN_LETTERS = 4
"""Texts of fewer letters (answers such as A or 12) are left out."""
_WORDS = re.compile(
    r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|[^\W_]+"
)
"""A run of letters and digits; in scripts that write no spaces between words, one character."""


def words(text: str) -> list[str]:
    """The words of a text, case folded."""
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Words that a query shares with a benchmark: the file, its row (from 1) and the words."""

    file: str
    row: int
    words: str


class Benchmark:
    """The texts of one file as hashes of their words.

    Memory: 8 bytes a word, and 8 more for each run length that is looked up. `fingerprint` is the
    hash of the words.
    """

    def __init__(self, file: Path) -> None:
        """Read a file in any format of prompts; raises InputError where it holds no texts."""
        self.name = str(file)
        hashes, lengths, rows = array("Q"), array("q"), array("q")
        for number, row in enumerate(raw_rows(self.name, SourceConfig(column="")), start=1):
            if isinstance(row, BadRow):
                raise InputError(f"{row.where}: {row.detail}; correct the row")
            for text in texts_in(row.fields):
                if sum(map(str.isalpha, text)) >= _MIN_LETTERS and (found := words(text)):
                    hashes.extend(map(_hash_of, found))
                    lengths.append(len(found))
                    rows.append(number)
        if not rows:
            raise InputError(f"{file}: no texts in it; --decontaminate takes a benchmark's file")
        self._words = np.frombuffer(hashes, np.uint64)
        self._lengths = np.frombuffer(lengths, np.int64)
        self._ends = np.cumsum(self._lengths)
        self._rows = rows
        self._known: dict[tuple[int, bool], Hashes] = {}
        digest = hashlib.sha256(self._words.tobytes() + self._lengths.tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def find(self, query: Hashes, config: DecontaminateConfig) -> tuple[int, int, int] | None:
        """The first overlap with the words of a query: (start in the query, words, row)."""
        count, ngram, shortest = len(query), config.ngram, config.shortest
        sizes: list[tuple[int, bool]] = []  # (words, they must be a whole benchmark text)
        if count >= shortest or count >= ngram:
            sizes.append((min(count, ngram), False))
        below = np.unique(self._lengths[self._lengths < min(ngram, count)]).tolist()
        sizes += [(size, True) for size in below if size >= shortest]
        if 0 < count < shortest:
            sizes.append((count, True))
        for size, whole in sizes:
            if (size, whole) not in self._known:
                runs = _run_hashes(self._words, self._places(size, whole=whole), size)
                self._known[size, whole] = np.unique(runs)
            known = self._known[size, whole]
            runs = _run_hashes(query, np.arange(count - size + 1), size)
            if not len(known):
                continue
            nearest = known[np.minimum(np.searchsorted(known, runs), len(known) - 1)]
            hits = np.flatnonzero(nearest == runs)
            if len(hits):
                places = self._places(size, whole=whole)
                same = _run_hashes(self._words, places, size) == runs[hits[0]]
                text = np.searchsorted(self._ends, places[same][0], side="right")
                return int(hits[0]), size, self._rows[int(text)]
        return None

    def _places(self, size: int, *, whole: bool) -> npt.NDArray[np.int64]:
        """Return where runs of `size` words begin; with `whole`, the texts of just that length."""
        if whole:
            starts: npt.NDArray[np.int64] = (self._ends - self._lengths)[self._lengths == size]
            return starts
        left = np.repeat(self._ends, self._lengths) - np.arange(len(self._words))
        return np.flatnonzero(left >= size)


class Contamination:
    """The benchmarks of a configuration; raises InputError for a file that is not readable."""

    def __init__(self, config: DecontaminateConfig) -> None:
        self._config = config
        self.benchmarks = tuple(Benchmark(file) for file in config.files)

    def find(self, text: str) -> Overlap | None:
        """The first overlap of a query with a benchmark."""
        if not self.benchmarks:
            return None
        found = words(text)
        hashes = np.array([_hash_of(word) for word in found], np.uint64)
        for benchmark in self.benchmarks:
            if hit := benchmark.find(hashes, self._config):
                start, size, row = hit
                shared = " ".join(found[start : start + size])
                return Overlap(file=benchmark.name, row=row, words=shared)
        return None


def _hash_of(word: str) -> int:
    """64 bits of a word's hash, the same in every process."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _run_hashes(text: Hashes, places: npt.NDArray[np.int64], size: int) -> Hashes:
    """A hash of the `size` words from each of `places` on."""
    total = np.zeros(len(places), np.uint64)
    for offset in range(size):
        total = total * _PRIME + text[places + offset]
    return total
