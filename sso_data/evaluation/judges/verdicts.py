"""What a judge is asked and what it says, as frozen records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sso_data.core.records import Message

OnProgress = Callable[[int, int], None]
"""Told (done, of how many) comparisons."""


def quiet(done: int, total: int) -> None:
    """The listener that hears nothing."""


def unheard(verdict: "Verdict | NoVerdict") -> None:
    """The same for verdicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One side of a comparison; `num_tokens` as its own model counted them."""

    text: str
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Is `a` or `b` the better answer to `messages`? Keys are unique within one call."""

    key: str
    messages: tuple[Message, ...]
    a: Answered
    b: Answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a judge said.

    `preference`: 1 where `a` is better, 0 where `b` is, 0.5 for a tie; a judge that is asked about
    both orders gives their mean. `orders` holds what it said of each order then, as preferences for
    `a`: shown first, shown second. `scores` are those of `a` and `b` where the judge scores answers
    by themselves.
    """

    key: str
    preference: float
    scores: tuple[float, float] | None = None
    orders: tuple[float, float] | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoVerdict:
    """A comparison without a verdict: why, as a word that is counted and a line for a person."""

    key: str
    reason: str
    detail: str


def preference_of(a: float, b: float) -> float:
    """What two scores say: 1 where a's is higher, 0 where b's is, 0.5 where they are equal."""
    return 0.5 if a == b else float(a > b)


OnVerdict = Callable[[Verdict | NoVerdict], None]
"""Given each verdict as soon as it is there, in any order."""


class Judge(Protocol):
    """Who compares answers; what it holds is freed by `close`."""

    @property
    def name(self) -> str:
        """As reports name it: "oracle", "reward model X", "X as judge", "module:function"."""
        ...

    @property
    def scores_answers(self) -> bool:
        """Whether every verdict brings the scores of both answers."""
        ...

    def compare(
        self,
        comparisons: Sequence[Comparison],
        *,
        on_progress: OnProgress = quiet,
        on_verdict: OnVerdict = unheard,
    ) -> list[Verdict | NoVerdict]:
        """A verdict or a reason for each comparison, in their order.

        Raises SsoDataError when nothing can be judged any more.
        """
        ...

    def close(self) -> None: ...
