"""The judge's word on a round: signal accuracy of its pairs, and how good the own answers are.

The judge is opened where it has something to say, and closed before anything is trained.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sso_data.core.records import JsonRow, Row
from sso_data.evaluation.judges import (
    Answered,
    Comparison,
    JudgeConfig,
    NoVerdict,
    Verdict,
    judge_identity,
    open_judge,
    rate_of,
)
from sso_data.evaluation.judges.pairs import answered
from sso_data.evaluation.judging import directory_of, judge_all
from sso_data.iteration.measure import mean
from sso_data.templating.external_rows import preference_of

Said = Verdict | NoVerdict

_SCORES = {"oracle": True, "reward": True, "llm": False}
"""Whether a judge scores answers by themselves; of a Python function its verdicts tell."""


class Listener(Protocol):
    """Who is told how judging goes on."""

    def warn(self, text: str) -> None: ...

    def written(self, done: int, total: int, what: str = "pairs") -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToJudge:
    """What a judge is asked about a round.

    `pairs`: comparisons of chosen (a) with rejected (b), each with whether the filter kept it.
    `own`: rows whose y0 is the policy's own answer. `first`: rows of the first round by id, whose
    y0 stands against that of `own` where the judge scores no answers and the prompts are the same.
    """

    pairs: Sequence[tuple[Comparison, bool]]
    own: Sequence[Row] = ()
    first: Mapping[str, Row] | None = None


def asked_of_labelled(row: JsonRow, number: int, where: str) -> Comparison:
    """Is the chosen response of a labelled pair better than the rejected one?"""
    messages, chosen, rejected = preference_of(row, where)
    a, b = (
        Answered(text=turns[-1].content, num_tokens=len(turns[-1].content.split()))
        for turns in (chosen, rejected)
    )
    return Comparison(key=f"{number}/signal", messages=messages, a=a, b=b)


def judge_round(
    config: JudgeConfig, asked: ToJudge, place: Path, listener: Listener
) -> dict[str, Any]:
    """What the judge says of a round, JSON-able; `accuracy_*` and win rates count ties half.

    Its verdicts are kept under `place`, so that none is asked for twice.
    """
    identity = judge_identity(config)

    def ask(comparisons: Sequence[Comparison]) -> tuple[str | None, dict[str, Said]]:
        return judge_all(
            comparisons,
            lambda: open_judge(config, tell=listener.warn),
            directory_of(place, identity),
            identity,
            lambda done, total: listener.written(done, total, "verdicts"),
        )

    signal = [one for one, _ in asked.pairs]
    scores = _SCORES.get(config.kind)
    name, said = ask(signal if scores is None else [*signal, *_own(asked, scores=scores)])
    if scores is None:
        verdicts = [one for one in said.values() if isinstance(one, Verdict)]
        scores = all(one.scores is not None for one in verdicts)
        said |= ask(_own(asked, scores=scores))[1]
    return {"judge": identity, "name": name, **_numbers(asked, said, scores=scores)}


def _numbers(asked: ToJudge, said: Mapping[str, Said], *, scores: bool) -> dict[str, Any]:
    """Accuracies with their 95 % intervals, and how good the policy's own answers are."""
    signal = [(said[one.key], kept) for one, kept in asked.pairs]
    every = [one.preference for one, _ in signal if isinstance(one, Verdict)]
    kept = [one.preference for one, is_kept in signal if isinstance(one, Verdict) and is_kept]
    keys = [_own_key(row) for row in asked.own]
    own = [one for key in keys if isinstance(one := said.get(key), Verdict)]
    return {
        "judged": len(every),
        "refused": dict(Counter(o.reason for o in said.values() if isinstance(o, NoVerdict))),
        "accuracy_all": mean(every),
        "accuracy_all_interval": _interval(every),
        "accuracy_kept": mean(kept),
        "accuracy_kept_interval": _interval(kept),
        "unprompted": mean([one.scores[0] for one in own if one.scores]) if scores else None,
        "unprompted_win_rate": None if scores else mean([one.preference for one in own]),
    }


def _own(asked: ToJudge, *, scores: bool) -> list[Comparison]:
    """The policy's own answers: before a judge that scores, or against the first round's."""
    first = asked.first or {}
    return [
        Comparison(
            key=_own_key(row),
            messages=row.messages,
            a=answered(row, "plain"),
            b=answered(row, "bad") if scores else answered(first[row.id], "plain"),
        )
        for row in asked.own
        if scores or row.id in first
    ]


def _own_key(row: Row) -> str:
    return f"{row.id}/own"


def _interval(preferences: Sequence[float]) -> list[float] | None:
    """The 95 % interval of a mean preference."""
    rate = rate_of(preferences)
    if rate.low is None or rate.high is None:
        return None
    return [round(rate.low, 6), round(rate.high, 6)]
