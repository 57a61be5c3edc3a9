"""The pairs of a run before a judge: how often chosen is better than rejected."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sso_data.judges.statistics import Rate, agreement, rate_of, tied
from sso_data.judges.verdicts import (
    Answered,
    Comparison,
    Judge,
    OnProgress,
    Verdict,
    quiet,
)
from sso_data.records import Row, View


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPairs:
    """`pairs = judged + failed`; `signal` is how often y+ is better than y- (ties half).

    `score_*` are the mean scores of y+, y- and y0 where the judge scores answers; `agreement` is
    that of both orders where it is asked about both.
    """

    pairs: int
    judged: int
    failed: Mapping[str, int]
    signal: Rate
    ties: int
    agreement: float | None = None
    score_chosen: float | None = None
    score_rejected: float | None = None
    score_original: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "pairs": self.pairs,
            "judged": self.judged,
            "failed": dict(self.failed),
            "signal_accuracy": self.signal.to_json(),
            "ties": self.ties,
            "agreement": self.agreement,
            "score_chosen": self.score_chosen,
            "score_rejected": self.score_rejected,
            "score_original": self.score_original,
        }


def answered(row: Row, drawn: View) -> Answered:
    """A row's response drawn under a view, as a side of a comparison."""
    response = row.responses[drawn]
    return Answered(text=response.text, num_tokens=response.num_tokens)


def signal_comparison(row: Row) -> Comparison:
    """Is y+ better than y-? Its key is the row's id and `/signal`."""
    return Comparison(
        key=f"{row.id}/signal",
        messages=row.messages,
        a=answered(row, "good"),
        b=answered(row, "bad"),
    )


def judged_pairs(
    rows: Iterable[Row], judge: Judge, *, originals: bool = False, on_progress: OnProgress = quiet
) -> JudgedPairs:
    """Every row's chosen against its rejected response.

    `originals`: a judge that scores answers also scores y0; others are not asked for it.
    """
    found = list(rows)
    asked = [signal_comparison(row) for row in found]
    if originals and judge.scores_answers:
        asked += [
            Comparison(
                key=f"{row.id}/original",
                messages=row.messages,
                a=answered(row, "plain"),
                b=answered(row, "bad"),
            )
            for row in found
        ]
    results = judge.compare(asked, on_progress=on_progress)
    said = results[: len(found)]
    verdicts = [one for one in said if isinstance(one, Verdict)]
    rest = [one for one in results[len(found) :] if isinstance(one, Verdict)]
    return JudgedPairs(
        pairs=len(found),
        judged=len(verdicts),
        failed=Counter(one.reason for one in said if not isinstance(one, Verdict)),
        signal=rate_of([verdict.preference for verdict in verdicts]),
        ties=tied(verdicts),
        agreement=agreement(verdicts),
        score_chosen=mean_score(verdicts, 0),
        score_rejected=mean_score(verdicts, 1),
        score_original=mean_score(rest, 0),
    )


def mean_score(verdicts: Iterable[Verdict], side: int) -> float | None:
    """The mean score of one side (0: a, 1: b) over the verdicts that have scores."""
    scores = [verdict.scores[side] for verdict in verdicts if verdict.scores is not None]
    return sum(scores) / len(scores) if scores else None
