"""De-contamination: runs of words that a new query shares with benchmark texts.

A query with N words or more is contaminated by N of them in a row that stand in a benchmark text,
a shorter one where it stands in there as a whole, and a benchmark text shorter than N where it
stands as a whole in the query. Texts too short for that must agree as a whole.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sso_data.augmentation.texts import words
from sso_data.config.augmentation import DecontaminateConfig
from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError
from sso_data.prompts import raw_rows
from sso_data.prompts.rows import RawRow

Hashes = npt.NDArray[np.uint64]
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_FEWEST_LETTERS = 4
"""Texts of fewer letters (answers such as A or 12) are no texts that could be told again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What a query shares with a benchmark: the file, its row (from 1) and the words."""

    file: str
    row: int
    words: str


class Benchmark:
    """The texts of one file as hashes of words: 8 bytes a word, as much again for a length asked.

    `fingerprint` is of its words.
    """

    def __init__(self, name: str, texts: Iterable[tuple[int, list[str]]]) -> None:
        """`texts` are (row, words)."""
        self.name = name
        vocabulary: dict[str, int] = {}
        hashes = array("Q")
        self._starts, self._rows = [0], list[int]()
        for row, found in texts:
            hashes.extend(_hash_of(word, vocabulary) for word in found)
            self._starts.append(len(hashes))
            self._rows.append(row)
        self._words = np.frombuffer(hashes, np.uint64)
        self._lengths = np.diff(self._starts)
        self._runs: dict[tuple[int, bool], Hashes] = {}
        self.fingerprint = hashlib.sha256(
            self._words.tobytes() + self._lengths.tobytes()
        ).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._rows)

    def shared(self, query: Hashes, size: int, *, whole: bool) -> tuple[int, int] | None:
        """(start in the query, row) of its first run of `size` words that a text holds, or is."""
        known = self._sorted(size, whole=whole)
        keys = _run_hashes(query, size)
        if not len(known):
            return None
        places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        hits = np.flatnonzero(known[places] == keys)
        if not len(hits):
            return None
        start = int(hits[0])
        return start, self._row_of(keys[start], size, whole=whole)

    def _row_of(self, key: np.uint64, size: int, *, whole: bool) -> int:
        """The row of the first text with a run of this hash."""
        for row, text in self._texts(size, whole=whole):
            if key in _run_hashes(text, size):
                return row
        raise AssertionError("the run was found among these texts")

    def _texts(self, size: int, *, whole: bool) -> Iterator[tuple[int, Hashes]]:
        """(row, hashes of words) of the texts of at least `size` words, or of just so many."""
        for row, start, length in zip(self._rows, self._starts, self._lengths, strict=False):
            if length == size if whole else length >= size:
                yield row, self._words[start : start + length]

    def lengths_below(self, size: int) -> list[int]:
        """The numbers of words of the texts with fewer than `size`."""
        return [int(length) for length in np.unique(self._lengths) if length < size]

    def _sorted(self, size: int, *, whole: bool) -> Hashes:
        """The hashes of all runs of `size` words; with `whole`, of the texts of that length."""
        if (size, whole) not in self._runs:
            runs = [_run_hashes(text, size) for _, text in self._texts(size, whole=whole)]
            self._runs[size, whole] = np.unique(np.concatenate(runs)) if runs else _NONE
        return self._runs[size, whole]


_NONE: Hashes = np.array([], np.uint64)


def _hash_of(word: str, known: dict[str, int] | None = None) -> int:
    """64 bits of a word's hash, the same in every process."""
    if known is not None and word in known:
        return known[word]
    value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    if known is not None:
        known[word] = value
    return value


def _run_hashes(text: Hashes, size: int) -> Hashes:
    """A hash of every run of `size` words of a text of at least so many."""
    total = np.zeros(len(text) - size + 1, np.uint64)
    for place in range(size):
        total = total * _PRIME + text[place : len(text) - size + 1 + place]
    return total


class Contamination:
    """The benchmarks of a configuration, ready to be asked."""

    def __init__(self, config: DecontaminateConfig) -> None:
        self._config = config
        self.benchmarks = tuple(_read(file) for file in config.files)

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Content hashes by file name."""
        return {benchmark.name: benchmark.fingerprint for benchmark in self.benchmarks}

    def find(self, text: str) -> Overlap | None:
        """The first overlap of a query with a benchmark."""
        if not self.benchmarks:
            return None
        found = words(text)
        hashes = np.array([_hash_of(word) for word in found], np.uint64)
        for benchmark in self.benchmarks:
            for size, whole in self._sizes(benchmark, len(found)):
                hit = benchmark.shared(hashes, size, whole=whole)
                if hit is not None:
                    start, row = hit
                    shared = " ".join(found[start : start + size])
                    return Overlap(file=benchmark.name, row=row, words=shared)
        return None

    def _sizes(self, benchmark: Benchmark, count: int) -> Iterator[tuple[int, bool]]:
        """(words, whether they must be a whole benchmark text) to look for in `count` words."""
        ngram, shortest = self._config.ngram, self._config.shortest
        if count >= ngram:
            yield ngram, False
        elif count >= shortest:
            yield count, False
        for size in benchmark.lengths_below(min(ngram, count)):
            if size >= shortest:
                yield size, True
        if 0 < count < shortest:
            yield count, True


def _read(file: Path) -> Benchmark:
    """The texts of every row of a benchmark file."""
    found = Benchmark(str(file), _texts(file))
    if not len(found):
        raise InputError(f"{file}: no texts in it; --decontaminate takes a benchmark's file")
    return found


def _texts(file: Path) -> Iterator[tuple[int, list[str]]]:
    for number, row in enumerate(raw_rows(str(file), SourceConfig(column="")), start=1):
        if not isinstance(row, RawRow):
            raise InputError(f"{row.where}: {row.detail}; correct the row")
        for text in _strings(row.fields):
            if sum(map(str.isalpha, text)) >= _FEWEST_LETTERS and (found := words(text)):
                yield number, found


def _strings(value: Any) -> Iterator[str]:
    """Every text in a row's values, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _strings(one)
