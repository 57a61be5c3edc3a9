"""The result of an evaluation: win rates, lengths, steering, and the accounting of the prompts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sso_data.core.records import SCHEMA_VERSION, View
from sso_data.core.statistics import Estimate
from sso_data.evaluation.answers import Answer, NoAnswer
from sso_data.evaluation.statistics import (
    Consistency,
    Rate,
    consistency_of,
    length_controlled,
    mean_score,
    rate_of,
    tied,
)
from sso_data.evaluation.verdicts import NoVerdict, Verdict
from sso_data.filtering.explain import Effect, effect_of
from sso_data.runs.columns import Rows, closeness, gap, mean_logp


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
    """The share of prompts where the model's plain answer is better than the other's; ties: half.

    `length_controlled`: at equal lengths (`statistics.length_controlled`). A pair of which the
    judge prefers the same place in both orders counts half, too, but is no tie:
    `judged = won + tied + contradicted + lost`. `consistency`: of a judge asked in both orders.
    """

    rate: Rate
    length_controlled: Rate
    won: int
    tied: int
    lost: int
    consistency: Consistency | None

    @property
    def contradicted(self) -> int:
        """Pairs of which the judge preferred the same place in both orders."""
        return self.consistency.contradicted if self.consistency else 0

    def to_json(self) -> dict[str, Any]:
        """The keys that eval.json holds."""
        return {
            "win_rate": self.rate.to_json(),
            "length_controlled_win_rate": self.length_controlled.to_json(),
            "won": self.won,
            "tied": self.tied,
            "lost": self.lost,
            "contradicted": self.contradicted,
            **_of_orders(self.consistency),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringRates:
    """Shares of the model's rows where the good view still raises y+ and the bad view y-.

    With m = nats/token: `good` is the share of rows with m.good.good > m.plain.good > m.bad.good,
    `bad` with m.bad.bad > m.plain.bad > m.good.bad, `both` with both. `gap_good` and `gap_bad` are
    the mean differences between the outer two, `below_good` and `below_bad` how far y+ and y- lie
    below y0 under the plain view, on average. `effect`: contrast against reverse contrast, which
    leave the plain view out.
    """

    rows: int
    effect: Effect
    good: float | None
    bad: float | None
    both: float | None
    gap_good: float | None
    gap_bad: float | None
    below_good: float | None
    below_bad: float | None

    def passing(self, test: str) -> float | None:
        """The share of rows that pass a steering test, the chain where it is not `contrast`."""
        if test != "contrast":
            return self.both
        return self.effect.contrast / self.effect.rows if self.effect.rows else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A finished evaluation: `prompts = judged + failed`, failures by party and reason.

    Without a judge, `judged` counts the prompts that both models answered. `signal` is how often
    the judge finds y+ better than y- (its failures are in `signal_failed`); `signal_consistency`
    says how far these verdicts depend on the order. `score_difference` and `tokens_difference` are
    those of the plain answers to the same prompts, the model's less the other's.
    """

    model: Side
    against: Side
    judge: str | None
    judge_identity: Mapping[str, Any]
    prompts: int
    judged: int
    failed: Mapping[str, int]
    wins: Wins | None
    steering: SteeringRates
    signal: Rate | None
    signal_consistency: Consistency | None
    signal_failed: Mapping[str, int]
    seconds: float
    score_difference: Estimate | None = None
    tokens_difference: Estimate | None = None
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.prompts != self.judged + sum(self.failed.values()):
            raise AssertionError(
                f"{self.prompts} prompts, but {self.judged} judged + {dict(self.failed)} failed"
            )

    @property
    def account(self) -> str:
        """The accounting of the prompts, one line."""
        what = "judged" if self.judge else "answered"
        parts = [f"prompts {self.prompts} = {what} {self.judged}"]
        return " + ".join([*parts, *(f"{n} {reason}" for reason, n in self.failed.items())])

    @property
    def warnings(self) -> list[str]:
        """What a reader of the rates must know: no verdicts, or a judge that contradicts itself."""
        found = []
        if self.judge and not self.judged:
            found.append("the judge has judged no pair, so there is no win rate")
        rates = {"win rate": self.wins and self.wins.consistency}
        rates["signal accuracy"] = self.signal_consistency
        for name, one in rates.items():
            if one and one.is_low:
                found.append(
                    f"the {name} says little: {one} of {one.n} pairs (a coin agrees in 50 %); "
                    "take a stronger judge"
                )
        return found

    def to_json(self) -> dict[str, Any]:
        """The content of eval.json."""
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
            **_of_orders(self.signal_consistency, "signal_"),
            "signal_failed": dict(self.signal_failed),
            "score_difference": self.score_difference and self.score_difference.to_json(),
            "tokens_difference": self.tokens_difference and self.tokens_difference.to_json(),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 2),
        }


def wins_of(verdicts: Sequence[Verdict], chars: Mapping[str, tuple[int, int]]) -> Wins:
    """The win rate of `a`; `chars` are the lengths of both answers by the verdict's key."""
    preferences = [verdict.preference for verdict in verdicts]
    lengths = [chars[verdict.key] for verdict in verdicts]
    won = sum(preference > 0.5 for preference in preferences)
    ties, consistency = tied(verdicts), consistency_of(verdicts)
    contradicted = consistency.contradicted if consistency else 0
    return Wins(
        rate=rate_of(preferences),
        length_controlled=length_controlled(
            preferences, [a for a, _ in lengths], [b for _, b in lengths]
        ),
        won=won,
        tied=ties,
        lost=len(verdicts) - won - ties - contradicted,
        consistency=consistency,
    )


def steering_of(rows: Rows) -> SteeringRates:
    """Return how views move the log-probs of rows; those with an empty response are left out."""
    rows = rows[(rows["num_tokens"] > 0).all(axis=1)]
    mean = partial(mean_logp, rows)

    def falls(drawn: View, *views: View) -> NDArray[np.bool_]:
        first, second, third = (mean(seen, drawn) for seen in views)
        return (first > second) & (second > third)

    good, bad = falls("good", "good", "plain", "bad"), falls("bad", "bad", "plain", "good")
    return SteeringRates(
        rows=len(rows),
        effect=effect_of(rows),
        good=_mean(good.tolist()),
        bad=_mean(bad.tolist()),
        both=_mean((good & bad).tolist()),
        gap_good=_mean(gap(mean, "good").tolist()),
        gap_bad=_mean(gap(mean, "bad").tolist()),
        below_good=_mean(closeness(mean, "good").tolist()),
        below_bad=_mean(closeness(mean, "bad").tolist()),
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
    """Prompts without a verdict by party and reason; the first party that failed counts."""
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


def _of_orders(found: Consistency | None, start: str = "") -> dict[str, float | None]:
    """The keys of eval.json about the two orders."""
    return {
        f"{start}agreement": found.agreement if found else None,
        f"{start}first_share": found.first_share if found else None,
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
