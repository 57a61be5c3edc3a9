"""The two responses of a pair before a judge, and what scores come to."""

from collections.abc import Iterable

from sso_data.core.records import Row, View
from sso_data.evaluation.judges.verdicts import Answered, Comparison, Verdict


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


def mean_score(verdicts: Iterable[Verdict], side: int) -> float | None:
    """The mean score of one side (0: a, 1: b) over the verdicts that have scores."""
    scores = [verdict.scores[side] for verdict in verdicts if verdict.scores is not None]
    return sum(scores) / len(scores) if scores else None
