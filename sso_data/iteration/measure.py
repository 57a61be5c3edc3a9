"""The numbers of a round, from its rows and from what the judge says of them.

Means are nats/token; rows are taken in the order of their ids, so that the same rows give the same
numbers whatever order they were finished in.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sso_data.config.evaluation import JudgeConfig
from sso_data.config.run import FilterConfig
from sso_data.core.progress import Progress
from sso_data.core.records import JsonRow, Row
from sso_data.core.statistics import mean_of
from sso_data.evaluation.judges import judge_all, judge_identity
from sso_data.evaluation.statistics import consistency_of, rate_of
from sso_data.evaluation.verdicts import Answered, Comparison, NoVerdict, Verdict, answered
from sso_data.filtering.filters import INCOMPLETE, STEERED, decide
from sso_data.runs.columns import Rows, are_representative, measures, representative
from sso_data.runs.journal import Scores, load_scores
from sso_data.templating.external_rows import preference_of

Floats = NDArray[np.float64]
Numbers = dict[str, float | None]
CountTokens = Callable[[str], int]
"""Counts the tokens of a text, without special ones."""

_DIGITS = 6
_SCORES = {"oracle": True, "rule": True, "reward": True, "llm": False}
"""Kinds of judges that score single answers, and that do not; a function's verdicts show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRows:
    """The rows of a run as the filter sees them; `kept` are ascending positions in `scores`.

    `test` names the filter's steering test, the chain where it has none.
    """

    scores: Scores
    kept: NDArray[np.intp]
    test: str = "chain"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToJudge:
    """A judge's questions about a round.

    `pairs`: comparisons of chosen (a) with rejected (b), each with whether the filter kept it and
    whether it stands for all rows. `own`: rows whose y0 is the policy's own answer. `first`: rows
    of the first round by id, with whose y0 those of `own` are compared where the judge scores no
    answers and the prompts are the same.
    """

    pairs: Sequence[tuple[Comparison, bool, bool]]
    own: Sequence[Row] = ()
    first: Mapping[str, Row] | None = None


def load_run(run: Path, config: FilterConfig) -> RunRows:
    """Return the rows of a finished run, and those that the filter keeps. Raises RunError."""
    scores = load_scores(run, dry=False)
    test = "contrast" if config.steering_test == "contrast" else "chain"
    return RunRows(scores=scores, kept=decide(scores.rows, config).kept, test=test)


def numbers_of(run: RunRows) -> dict[str, Any]:
    """The share of steered rows, means over all rows and over the kept ones, and the 95 %
    intervals of the former. Of a run whose rows lack what was not asked for, "all" are the
    representative ones."""
    rows = representative(run.scores.rows)
    complete = ~INCOMPLETE.fails(rows, {})
    steered = complete
    for check in STEERED[run.test]:
        steered = steered & ~check.fails(rows, {})
    return {
        "steered": ratio(int(steered.sum()), int(complete.sum())),
        "all": means(rows),
        "kept": means(run.scores.rows[run.kept]),
        "intervals": {name: interval_of(values) for name, values in measures(rows).items()},
    }


def means_of_pairs(rows: Iterable[JsonRow], count_tokens: CountTokens) -> dict[str, Any]:
    """The mean lengths of labelled pairs in tokens, in the form of `numbers_of`; all are kept."""
    tokens: dict[str, list[float]] = {"tokens_chosen": [], "tokens_rejected": []}
    for number, row in enumerate(rows, start=1):
        _, chosen, rejected = preference_of(row, f"row {number}")
        for said, found in zip((chosen, rejected), tokens.values(), strict=True):
            found.append(count_tokens(said[-1].content))
    means_of = {name: mean(values) for name, values in tokens.items()}
    return {"steered": None, "all": means_of, "kept": means_of}


def means(rows: Rows) -> Numbers:
    """The means of `measures`."""
    return {name: mean(values) for name, values in measures(rows).items()}


def interval_of(values: Iterable[float]) -> list[float] | None:
    """The 95 % interval of a mean; None of fewer than two values."""
    found = mean_of(values)
    return found.to_json()[1:] if found else None


def mean(values: Floats | Sequence[float]) -> float | None:
    """The mean of the finite values; None where there are none."""
    array = np.asarray(values, np.float64)
    finite = array[np.isfinite(array)]
    return round(float(finite.mean()), _DIGITS) if len(finite) else None


def ratio(part: int, whole: int) -> float | None:
    """A share; None where the whole is 0."""
    return round(part / whole, _DIGITS) if whole else None


def sample(
    run: RunRows, most: int | None, *, and_kept: bool = False
) -> list[tuple[Row, bool, bool]]:
    """At most `most` of the rows that stand for all, `and_kept` of the kept ones, too.

    Each comes with whether it is kept and whether it stands for all; these come first. They are
    chosen by their ids, so that the same rows are chosen in whatever order they were written.
    """
    rows = run.scores.rows
    for_all, is_kept = are_representative(rows), np.zeros(len(rows), np.bool_)
    is_kept[run.kept] = True
    order = np.lexsort((rows["key"], ~for_all))
    chosen = np.sort(order[(for_all | (is_kept & and_kept))[order]][:most])
    found = zip(
        run.scores.read(chosen), is_kept[chosen].tolist(), for_all[chosen].tolist(), strict=True
    )
    return sorted(found, key=lambda one: one[0].id)


def labelled_comparison(
    row: JsonRow, number: int, where: str, count_tokens: CountTokens
) -> Comparison:
    """Is the chosen response of a labelled pair better than the rejected one?

    Raises InputError, which names `where`, for a row that is no pair.
    """
    messages, chosen, rejected = preference_of(row, where)
    texts = (turns[-1].content for turns in (chosen, rejected))
    a, b = (Answered(text=text, num_tokens=count_tokens(text)) for text in texts)
    return Comparison(key=f"{number}/signal", messages=messages, a=a, b=b)


def judge_round(
    config: JudgeConfig, asked: ToJudge, place: Path, progress: Progress
) -> dict[str, Any]:
    """The judge's numbers of a round, JSON-able; `accuracy_*` and win rates count ties half.

    The judge is opened where there is something to ask, and closed before anything is trained.
    Verdicts are kept under `place` and not asked for again. Raises SsoDataError as `judge_all`.
    """
    identity = judge_identity(config)

    def ask(comparisons: Sequence[Comparison]) -> tuple[str | None, dict[str, Verdict | NoVerdict]]:
        return judge_all(config, identity, comparisons, place, progress)

    signal = [one for one, *_ in asked.pairs]
    scores = _SCORES.get(config.kind)
    name, said = ask(signal if scores is None else [*signal, *_own(asked, scores=scores)])
    if scores is None:
        verdicts = [one for one in said.values() if isinstance(one, Verdict)]
        scores = all(one.scores is not None for one in verdicts)
        said |= ask(_own(asked, scores=scores))[1]
    found = [
        (verdict, is_kept, for_all)
        for pair, is_kept, for_all in asked.pairs
        if isinstance(verdict := said[pair.key], Verdict)
    ]
    every = [one.preference for one, _, for_all in found if for_all]
    kept = [one.preference for one, is_kept, _ in found if is_kept]
    orders = consistency_of(one for one, *_ in found)
    own = [one for row in asked.own if isinstance(one := said.get(f"{row.id}/own"), Verdict)]
    own_scores = [one.scores[0] for one in own if one.scores] if scores else []
    return {
        "judge": identity,
        "name": name,
        "judged": len(found),
        "refused": dict(Counter(o.reason for o in said.values() if isinstance(o, NoVerdict))),
        "agreement": orders.agreement if orders else None,
        "first_share": orders.first_share if orders else None,
        "accuracy_all": mean(every),
        "accuracy_all_interval": _interval(every),
        "accuracy_kept": mean(kept),
        "accuracy_kept_interval": _interval(kept),
        "unprompted": mean(own_scores),
        "unprompted_interval": interval_of(own_scores),
        "unprompted_win_rate": None if scores else mean([one.preference for one in own]),
    }


def _own(asked: ToJudge, *, scores: bool) -> list[Comparison]:
    """The policy's own answers: to be scored, or compared with the first round's."""
    first = asked.first or {}
    return [
        Comparison(
            key=f"{row.id}/own",
            messages=row.messages,
            a=answered(row, "plain"),
            b=answered(row, "bad") if scores else answered(first[row.id], "plain"),
            principles=row.steering.features,
        )
        for row in asked.own
        if scores or row.id in first
    ]


def _interval(preferences: Sequence[float]) -> list[float] | None:
    """The 95 % interval of a mean preference."""
    rate = rate_of(preferences)
    if rate.low is None or rate.high is None:
        return None
    return [round(rate.low, _DIGITS), round(rate.high, _DIGITS)]
