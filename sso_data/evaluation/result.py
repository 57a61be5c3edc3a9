"""What came out of an evaluation: win rates, lengths, steering, and the books of the prompts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from sso_data.core.records import SCHEMA_VERSION, Row
from sso_data.evaluation.answers import Answer, NoAnswer
from sso_data.evaluation.judges import (
    Comparison,
    NoVerdict,
    Rate,
    Verdict,
    agreement,
    length_controlled,
    rate_of,
    tied,
)
from sso_data.evaluation.judges.pairs import mean_score


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One model's plain answers; means are over the prompts that both answered.

    `truncated`: the share of answers that were cut off. `score`: the judge's mean score of them.
    """

    name: str
    fingerprint: str
    mean_tokens: float | None
    mean_chars: float | None
    truncated: float | None
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wins:
    """How often the model's plain answer is better than the other's; ties count half.

    `length_controlled`: at equal lengths (`judges.statistics`). `agreement`: the share of pairs of
    which the judge said the same in both orders, where it is asked about both.
    """

    rate: Rate
    length_controlled: Rate
    won: int
    tied: int
    lost: int
    agreement: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "win_rate": self.rate.to_json(),
            "length_controlled_win_rate": self.length_controlled.to_json(),
            "won": self.won,
            "tied": self.tied,
            "lost": self.lost,
            "agreement": self.agreement,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """Whether the good view still raises y+ and the bad view y-, over the model's rows.

    With m = nats/token: `good` is the share of rows with m.good.good > m.plain.good > m.bad.good,
    `bad` with m.bad.bad > m.plain.bad > m.good.bad, `both` with both. `gap_good` and `gap_bad` are
    the mean differences between the outer two, `below_good` and `below_bad` how far y+ and y- lie
    below y0 under the plain view, in the mean.
    """

    rows: int
    good: float | None
    bad: float | None
    both: float | None
    gap_good: float | None
    gap_bad: float | None
    below_good: float | None
    below_bad: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A finished evaluation: `prompts = judged + failed`, failures by who failed and why.

    Without a judge, `judged` counts the prompts that both models answered. `signal` is how often
    the judge finds y+ better than y- (its failures are in `signal_failed`).
    """

    model: Side
    against: Side
    judge: str | None
    judge_identity: Mapping[str, Any]
    prompts: int
    judged: int
    failed: Mapping[str, int]
    wins: Wins | None
    steering: Steering
    signal: Rate | None
    signal_failed: Mapping[str, int]
    seconds: float
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.prompts != self.judged + sum(self.failed.values()):
            raise AssertionError(
                f"{self.prompts} prompts, but {self.judged} judged + {dict(self.failed)} failed"
            )

    @property
    def account(self) -> str:
        """The books, one line."""
        what = "judged" if self.judge else "answered"
        parts = [f"prompts {self.prompts} = {what} {self.judged}"]
        return " + ".join([*parts, *(f"{n} {reason}" for reason, n in self.failed.items())])

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "model": asdict(self.model),
            "against": asdict(self.against),
            "judge": {"name": self.judge, **self.judge_identity},
            "prompts": self.prompts,
            "judged": self.judged,
            "failed": dict(self.failed),
            **(self.wins.to_json() if self.wins else {}),
            "steering": asdict(self.steering),
            "signal_accuracy": self.signal.to_json() if self.signal else None,
            "signal_failed": dict(self.signal_failed),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 2),
        }


def wins_of(comparisons: Mapping[str, Comparison], verdicts: Sequence[Verdict]) -> Wins:
    """The win rate of `a` over the verdicts; `comparisons` are looked up by key."""
    sides = [comparisons[verdict.key] for verdict in verdicts]
    preferences = [verdict.preference for verdict in verdicts]
    won = sum(preference > 0.5 for preference in preferences)
    ties = tied(verdicts)
    return Wins(
        rate=rate_of(preferences),
        length_controlled=length_controlled(
            preferences, [len(one.a.text) for one in sides], [len(one.b.text) for one in sides]
        ),
        won=won,
        tied=ties,
        lost=len(verdicts) - won - ties,
        agreement=agreement(verdicts),
    )


def steering_of(rows: Sequence[Row]) -> Steering:
    """How the views move the rows' log-probs."""
    usable = [row for row in rows if all(one.num_tokens for one in row.responses.values())]
    good = [_falls(row, ("good", "good"), ("plain", "good"), ("bad", "good")) for row in usable]
    bad = [_falls(row, ("bad", "bad"), ("plain", "bad"), ("good", "bad")) for row in usable]
    own = [row.mean("plain", "plain") for row in usable]
    plain_good = [row.mean("plain", "good") for row in usable]
    plain_bad = [row.mean("plain", "bad") for row in usable]
    return Steering(
        rows=len(usable),
        good=_mean(good),
        bad=_mean(bad),
        both=_mean([a and b for a, b in zip(good, bad, strict=True)]),
        gap_good=_mean([row.mean("good", "good") - row.mean("bad", "good") for row in usable]),
        gap_bad=_mean([row.mean("bad", "bad") - row.mean("good", "bad") for row in usable]),
        below_good=_mean([a - b for a, b in zip(own, plain_good, strict=True)]),
        below_bad=_mean([a - b for a, b in zip(own, plain_bad, strict=True)]),
    )


def side_of(
    name: str,
    fingerprint: str,
    answers: Sequence[Answer],
    verdicts: Sequence[Verdict],
    which: int,
) -> Side:
    """One model's numbers; `which` is its place in the comparisons (0: a, 1: b)."""
    return Side(
        name=name,
        fingerprint=fingerprint,
        mean_tokens=_mean([answer.num_tokens for answer in answers]),
        mean_chars=_mean([len(answer.text) for answer in answers]),
        truncated=_mean([answer.finish_reason != "stop" for answer in answers]),
        score=mean_score(verdicts, which),
    )


def failures_of(
    ids: Sequence[str],
    model: Mapping[str, Answer | NoAnswer],
    against: Mapping[str, Answer | NoAnswer],
    said: Mapping[str, Verdict | NoVerdict],
) -> dict[str, int]:
    """Prompts without a verdict by who failed and why; the first that failed counts."""
    found: Counter[str] = Counter()
    for identity in ids:
        mine, theirs = model[identity], against[identity]
        verdict = said.get(identity)
        if isinstance(mine, NoAnswer):
            found[f"model.{mine.reason}"] += 1
        elif isinstance(theirs, NoAnswer):
            found[f"against.{theirs.reason}"] += 1
        elif isinstance(verdict, NoVerdict):
            found[f"judge.{verdict.reason}"] += 1
    return dict(sorted(found.items()))


def _falls(row: Row, *cells: tuple[Any, Any]) -> bool:
    """Whether the means fall strictly from cell to cell."""
    means = [row.mean(seen, drawn) for seen, drawn in cells]
    return all(a > b for a, b in pairwise(means))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
