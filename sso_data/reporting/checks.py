"""Checks of the pairs that a person would make by reading them: each one names its rows."""

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sso_data.augmentation.duplicates import near_duplicates
from sso_data.core.errors import ConfigError
from sso_data.core.language import is_another_language
from sso_data.core.records import (
    SIDE_OF,
    STEERED_VIEWS,
    Row,
    View,
    content_hash,
    split_sample,
)
from sso_data.core.statistics import wilson
from sso_data.core.words import normal, runs, words
from sso_data.filtering.filters import Decision
from sso_data.runs.columns import hash64, leaks
from sso_data.steering.checks import refuses

ONE_SIDED = 0.9
"""From this share of pairs on in which the longer (or the shorter) answer is chosen, they teach
little but length."""

_OPENING_WORDS = 5
_OPENING_SHARE = 0.05
_FEWEST_ALIKE = 3
_COPIED_WORDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A check and the positions of its rows; `of`: the rows that were looked at.

    `warning` says what is wrong with data like these; empty where nothing is.
    """

    name: str
    title: str
    rows: Sequence[int]
    of: int
    warning: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval (Wilson) of the share of its rows."""
        return wilson(len(self.rows) / self.of, self.of) if self.of else (0.0, 1.0)


class Checks:
    """Looks at a run's rows one by one; `found` is asked at the end.

    Kept rows alone are looked at, where there are any: what was dropped is not trained on. Answers
    are held as hashes, 8 bytes each; `read` gives the row at a position once more.
    """

    def __init__(self, decision: Decision, read: Callable[[int], Row]) -> None:
        self._is_kept = decision.reason_code == 0
        self._read = read
        self._places = array("Q")
        self._rows: dict[tuple[str, View], list[int]] = defaultdict(list)
        self._longer: list[int] = []
        self._shorter: list[int] = []
        self._languages: list[int] = []
        self._openings = {view: array("Q") for view in STEERED_VIEWS}
        self._said = {view: array("Q") for view in STEERED_VIEWS}
        self._prompts: dict[str, int] = {}
        self._prompt_of = array("Q")
        self._texts: list[tuple[str, str]] = []

    @property
    def _seen(self) -> int:
        return len(self._places)

    def add(self, position: int, row: Row) -> None:
        """Look at the row at `position`."""
        if not self._is_kept[position]:
            return
        self._places.append(position)
        chosen, rejected = row.responses["good"], row.responses["bad"]
        if chosen.num_tokens != rejected.num_tokens:
            longer = chosen.num_tokens > rejected.num_tokens
            (self._longer if longer else self._shorter).append(position)
        if is_another_language(chosen.text, rejected.text):
            self._languages.append(position)
        last = row.messages[-1].content
        prompt = split_sample(row.id)[0]  # its other samples are no duplicates
        number = self._prompts.setdefault(prompt, len(self._texts))
        self._prompt_of.append(number)
        if number == len(self._texts):
            self._texts.append((content_hash(row.messages[:-1]), last))
        asked = content_hash(row.messages)
        for view in STEERED_VIEWS:
            text = row.responses[view].text
            told = row.steering.good if view == "good" else row.steering.bad
            properties = {
                "refusal": refuses(text),
                "cut_off": row.responses[view].finish_reason != "stop",
                "copied": leaks(text) or _copies(text, told, last),
                "foreign": is_another_language(text, last),
            }
            for name, holds in properties.items():
                if holds:
                    self._rows[name, view].append(position)
            first = _opening(text)
            self._openings[view].append(hash64(first) if first else 0)
            self._said[view].append(hash64(f"{asked} {normal(text)}"))

    def found(self) -> Iterator[Found]:
        """Yield every check, those without rows too."""
        yield from self._lengths()
        titles = {
            "refusal": ("refuses", "an answer that refuses is the one to imitate"),
            "cut_off": ("is cut off", "training learns not to end"),
            "copied": (
                "repeats four words of its principles or speaks of guidelines",
                "training learns to speak of guidelines that are not there",
            ),
            "foreign": ("is in another language than the prompt", ""),
        }
        for name, (title, harm) in titles.items():
            for view in STEERED_VIEWS:
                rows = self._rows[name, view]
                is_harm = bool(rows) and view == "good"
                yield self._of(
                    f"{name}_{SIDE_OF[view]}",
                    f"{SIDE_OF[view]} {title}",
                    rows,
                    harm if is_harm else "",
                )
        yield self._of(
            "language",
            "chosen and rejected are in different languages",
            self._languages,
            "training learns the language, not the principle" if self._languages else "",
        )
        yield from self._repeated()

    def _lengths(self) -> Iterator[Found]:
        for word, rows in (("longer", self._longer), ("shorter", self._shorter)):
            warning = ""
            if self._seen >= _FEWEST_ALIKE and len(rows) >= ONE_SIDED * self._seen:
                warning = (
                    f"chosen is the {word} answer in {len(rows)} of {self._seen} pairs: a model "
                    "can learn them by length alone"
                )
            yield self._of(word, f"chosen is {word}", rows, warning)

    def _repeated(self) -> Iterator[Found]:
        """Yield the checks that compare rows with each other."""
        yield self._alike()
        places, alike = np.array(self._places, np.int64), []
        for view, hashes in self._openings.items():
            keys = np.array(hashes, np.uint64)
            for key, count in zip(*np.unique(keys, return_counts=True), strict=True):
                if key and count >= fewest_alike(self._seen):
                    rows = places[keys == key].tolist()
                    opening = _opening(self._read(rows[0]).responses[view].text)
                    alike.append((-count, view, opening, rows))
        for _, view, opening, rows in sorted(alike):
            yield self._of(
                f"opening_{SIDE_OF[view]}", f'{SIDE_OF[view]} opens with "{opening}"', rows
            )
        chosen, rejected = (np.array(hashes, np.uint64) for hashes in self._said.values())
        common, both = np.intersect1d(chosen, rejected), set[int]()
        for keys in (chosen, rejected):
            at = np.flatnonzero(np.isin(keys, common))
            both |= set(dict(zip(keys[at].tolist(), places[at].tolist(), strict=True)).values())
        yield self._of(
            "contradicting",
            "the same answer to the same prompt is chosen once and rejected once",
            sorted(both),
            "these pairs contradict each other" if both else "",
        )

    def _alike(self) -> Found:
        """Return the rows of near-duplicate prompts; without rensa, of the same ones."""
        title = "nearly the same prompt as another pair (MinHash)"
        try:
            found = near_duplicates(self._texts)
        except ConfigError:
            title = "the same prompt as another pair, but for case and punctuation"
            places: dict[tuple[str, str], list[int]] = defaultdict(list)
            for place, (before, text) in enumerate(self._texts):
                places[before, normal(text)].append(place)
            found = {place for same in places.values() if len(same) > 1 for place in same}
        asked = zip(self._places, self._prompt_of, strict=True)
        return self._of("prompts", title, [place for place, prompt in asked if prompt in found])

    def _of(self, name: str, title: str, rows: Sequence[int], warning: str = "") -> Found:
        return Found(name=name, title=title, rows=rows, of=self._seen, warning=warning)


def fewest_alike(pairs: int) -> int:
    """Return from how many of so many pairs on the same opening is told."""
    return max(_FEWEST_ALIKE, math.ceil(_OPENING_SHARE * pairs))


def _opening(text: str) -> str:
    """Return the first words of a text; "" where it has fewer."""
    first = words(text[:200])[:_OPENING_WORDS]
    return " ".join(first) if len(first) == _OPENING_WORDS else ""


def _copies(text: str, principles: Sequence[str], prompt: str) -> bool:
    """Return True for an answer with words in a row of a principle that are not the prompt's."""
    size = _COPIED_WORDS
    told = set().union(*(runs(words(one), size) for one in principles))
    return not (told & runs(words(text), size)) <= runs(words(prompt), size)
