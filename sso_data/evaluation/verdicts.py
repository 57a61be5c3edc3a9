"""What judges are asked and answer: comparisons, verdicts, and the interface of a judge."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from sso_data.core.errors import SsoDataError
from sso_data.core.records import JsonRow, Message, Row, View


class JudgeError(SsoDataError):
    """A judge cannot judge: the user's function raises, or returns something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One side of a comparison; `num_tokens` as its own model counts them."""

    text: str
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Is `a` or `b` the better answer to `messages`? Keys are unique within one call.

    `principles`: the features that steered the row of the answers, where there is one.
    """

    key: str
    messages: tuple[Message, ...]
    a: Answered
    b: Answered
    principles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judge's answer to a comparison.

    `preference`: 1 where `a` is better, 0 where `b` is, 0.5 for a tie; a judge that is asked about
    both orders gives their mean, and `orders` holds the preferences for `a` of each: shown first,
    shown second. `scores` are those of `a` and `b` where the judge scores single answers.
    """

    key: str
    preference: float
    scores: tuple[float, float] | None = None
    orders: tuple[float, float] | None = None
    detail: str = ""

    def to_json(self) -> JsonRow:
        """The line of verdicts.jsonl: what is there of it."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}

    @classmethod
    def from_json(cls, line: JsonRow) -> "Verdict":
        """The verdict of such a line; raises KeyError, TypeError or ValueError for another."""
        pairs: JsonRow = {name: tuple(line[name]) for name in ("scores", "orders") if name in line}
        if any(len(pair) != 2 for pair in pairs.values()):
            raise ValueError("a pair of another length")
        numbers = [line["preference"], *itertools.chain.from_iterable(pairs.values())]
        if any(type(number) not in (int, float) for number in numbers if number is not None):
            raise TypeError("a number of another type")  # None: a score that was NaN
        return cls(**line | pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoVerdict:
    """A comparison without a verdict: the reason as a word to count, and a line for a person."""

    key: str
    reason: str
    detail: str


class Judge(Protocol):
    """Compares answers; `close` frees what it holds."""

    @property
    def name(self) -> str:
        """Its name in reports: "oracle", "reward model X", "X as judge", "module:function"..."""
        ...

    def compare(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict | NoVerdict]:
        """Yield a verdict or a reason for each comparison as soon as it is there, in any order.

        Raises SsoDataError when nothing can be judged any more.
        """
        ...

    def close(self) -> None:
        """Free memory; the judge is not used afterwards."""
        ...


def preference_of(a: float, b: float) -> float:
    """The preference that two scores mean: 1 where a's is higher, 0 where b's is, 0.5 if equal."""
    return 0.5 if a == b else float(a > b)


def answered(row: Row, drawn: View) -> Answered:
    """A row's response drawn under a view, as a side of a comparison."""
    response = row.responses[drawn]
    return Answered(text=response.text, num_tokens=response.num_tokens)


def signal_comparison(row: Row) -> Comparison:
    """Return the comparison of y+ with y-; its key is the row's id and `/signal`."""
    return Comparison(
        key=f"{row.id}/signal",
        messages=row.messages,
        a=answered(row, "good"),
        b=answered(row, "bad"),
        principles=row.steering.features,
    )
