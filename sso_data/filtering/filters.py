"""The filter: keep a row, or drop it for the first reason that applies.

A check looks only at the rows that passed the checks before it; its limits are taken from those.
Rows may lack what was not asked for (`scoring.when=needed`). A check drops such a row only if it
drops it whatever the rest would be, so that whole rows and others are judged by the same code.
Means are nats/token; `m.<seen>.<drawn>` is `logp.<seen>.<drawn>.mean`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import takewhile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sso_data.config.run import FilterConfig, quantile_of
from sso_data.core.errors import RunError
from sso_data.core.records import OPTIONAL_SCORE, VIEWS, View
from sso_data.filtering.ranking import Ranking, best, margin, ranking_of
from sso_data.runs.columns import (
    FINISH_REASONS,
    UNKNOWN,
    Flag,
    Rows,
    closeness,
    gap,
    lacking,
    leak_fingerprint,
    mean_logp,
    num_tokens,
    prompt_keys,
    representative,
)

REASONS = (
    "kept",
    "empty",
    "truncated",
    "identical_chosen_rejected",
    "identical_chosen_original",
    "identical_rejected_original",
    "leak",
    "echo",
    "too_short",
    "too_long",
    "incomplete_scores",
    "not_steered",
    "off_policy",
    "gap",
    "low_margin",
    "not_best_of_prompt",
)
"""Reasons by their code; 0 is a kept row."""

_ALWAYS_SHOWN = ("rows", "not_steered", "off_policy", "gap")

SLACK = 1e-9
"""Nats/token by which a limit may be missed: rounding must not drop a row that lies on it."""

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Limits = Mapping[str, float]
_STEERED: tuple[Literal["good", "bad"], ...] = ("good", "bad")
_STOP = FINISH_REASONS.index("stop")
_OPTIONAL = tuple(VIEWS.index(view) for view in OPTIONAL_SCORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One step of the filter: `fails` marks the rows to drop, given the limits of the rows left.

    `row_local`: its limits do not depend on other rows.
    """

    reason: str
    fails: Callable[[Rows, Limits], Mask]
    limits: Callable[[Rows, FilterConfig], Limits] = lambda rows, config: {}
    row_local: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Result of one check, and means over the rows left after it (None if there are none).

    `not_asked`: the dropped rows that lack what was not asked for; while such rows are left, means
    are over the `representative` ones. `logp_plain_*`: nats/token under the plain view (`pair`: of
    chosen and rejected together); `gap_good` = m.good.good - m.bad.good and `gap_bad` = m.bad.bad -
    m.good.bad, nats/token.
    """

    reason: str
    dropped: int
    left: int
    mean_logp_plain_chosen: float | None
    mean_logp_plain_rejected: float | None
    mean_logp_plain_pair: float | None
    mean_tokens_chosen: float | None
    mean_tokens_rejected: float | None
    mean_tokens_original: float | None
    mean_gap_good: float | None
    mean_gap_bad: float | None
    not_asked: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return its form in filter.json."""
        found = asdict(self)
        return found if self.not_asked else {k: v for k, v in found.items() if k != "not_asked"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Result of the filter: `reason_code` per row (a position in REASONS, 0: kept).

    `thresholds` holds the resolved numbers (nats/token; None where no row was left to take them
    from); `funnel` opens with all rows (reason `rows`), then one stage per check; `ranking` says
    what `filter.keep_best` below 1 does to the lengths.
    """

    reason_code: NDArray[np.uint8]
    reasons: tuple[str, ...]
    thresholds: Mapping[str, float | None]
    funnel: tuple[Stage, ...]
    ranking: Ranking | None = None

    def __post_init__(self) -> None:
        if len(self.kept) + sum(self.dropped.values()) != len(self.reason_code):
            raise AssertionError(
                f"{len(self.reason_code)} rows, but {len(self.kept)} kept + {self.dropped} dropped"
            )

    @property
    def kept(self) -> NDArray[np.intp]:
        """Positions of the kept rows, ascending."""
        return np.flatnonzero(self.reason_code == 0)

    @property
    def dropped(self) -> dict[str, int]:
        """Rows dropped by reason, in the order of the checks; 0 for a check that dropped none."""
        return {stage.reason: stage.dropped for stage in self.funnel[1:]}

    @property
    def shown_stages(self) -> tuple[Stage, ...]:
        """The funnel without the checks that dropped nothing, but for those of log-probs."""
        return tuple(one for one in self.funnel if one.dropped or one.reason in _ALWAYS_SHOWN)

    @property
    def not_asked(self) -> int:
        """Dropped rows of which not everything was asked for."""
        return sum(stage.not_asked for stage in self.funnel)

    def reason(self, position: int) -> str | None:
        """Return the reason why the row at `position` was dropped, or None."""
        code = int(self.reason_code[position])
        return self.reasons[code] if code else None

    def summary(self, config: FilterConfig) -> dict[str, Any]:
        """Return the content of filter.json, which depends only on rows and configuration."""
        requested: Any = {
            "closeness": {
                "closeness": config.closeness,
                "closeness_offset": config.closeness_offset,
                "gap": config.gap,
            },
            "reference": "means",
            "none": {},
        }[config.preset]
        return {
            "preset": config.preset,
            "rows": len(self.reason_code),
            "kept": len(self.kept),
            "dropped": self.dropped,
            "thresholds": {
                "requested": requested,
                "resolved": dict(self.thresholds),
            },
            "funnel": [stage.to_json() for stage in self.funnel],
            **({"ranking": self.ranking.to_json()} if self.ranking else {}),
            "config": config.model_dump(mode="json"),
            "leakage_fingerprint": leak_fingerprint(),
        }


class NotAskedError(RunError):
    """Rows, at `positions`, that cannot be decided with what was asked for."""

    def __init__(self, positions: NDArray[np.intp], of: int) -> None:
        super().__init__(
            f"{len(positions)} of {of} rows need scores that were not asked for "
            "(scoring.when=needed); `sso-data complete RUN` makes them"
        )
        self.positions = positions


def decide(rows: Rows, config: FilterConfig) -> Decision:
    """Return the decision about all rows; relative limits are taken once, from the rows left.

    Raises NotAskedError where rows cannot be decided, or an undecided one would count for a limit.
    """
    codes = np.zeros(len(rows), np.uint8)
    left: NDArray[np.intp] = np.arange(len(rows))
    resolved: dict[str, float | None] = {}
    funnel = [_stage("rows", 0, rows)]
    ranking = None
    for check in checks(config):
        if not check.row_local:
            _refuse_lacking(rows, left, len(codes))
        if check.reason == "low_margin":
            ranking = ranking_of(rows, config.keep_best)
        limits = check.limits(rows, config)
        fails = check.fails(rows, limits)
        dropped = int(np.count_nonzero(fails))
        codes[left[fails]] = REASONS.index(check.reason)
        not_asked = int(np.count_nonzero(lacking(rows[fails])))
        if dropped:
            left, rows = left[~fails], rows[~fails]
        funnel.append(_stage(check.reason, dropped, rows, not_asked))
        resolved |= {k: v if math.isfinite(v) else None for k, v in limits.items()}
    _refuse_lacking(rows, left, len(codes))
    return Decision(
        reason_code=codes,
        reasons=REASONS,
        thresholds=resolved,
        funnel=tuple(funnel),
        ranking=ranking,
    )


def passing(rows: Rows, config: FilterConfig) -> NDArray[np.bool_]:
    """Mark the rows [row] that pass the row-local checks.

    With the closeness preset and absolute thresholds this is the whole filter; means and quantiles
    over other rows are left out.
    """
    kept = np.ones(len(rows), np.bool_)
    for check in checks(config):
        if check.row_local:
            kept &= ~check.fails(rows, check.limits(rows, config))
    return kept


def decided_early(rows: Rows, config: FilterConfig) -> list[str | None]:
    """Return why each row is dropped, whatever is still to be asked about it; None if that is open.

    Checks after one that looks at other rows do not count here: that one would see the row.
    """
    found: list[str | None] = [None] * len(rows)
    for check in takewhile(lambda check: check.row_local, checks(config)):
        for place in np.flatnonzero(check.fails(rows, check.limits(rows, config))).tolist():
            found[place] = found[place] or check.reason
    return found


def _refuse_lacking(rows: Rows, left: NDArray[np.intp], of: int) -> None:
    if (open_ := lacking(rows)).any():
        raise NotAskedError(left[open_], of)


@lru_cache(8)
def checks(config: FilterConfig) -> tuple[Check, ...]:
    """Return the checks of a configuration, in order."""
    ranked = (_best(config.keep_best),) if config.keep_best < 1 else ()
    return (*_preset(config), *((NOT_BEST,) if config.per_prompt == "best" else ()), *ranked)


def _preset(config: FilterConfig) -> tuple[Check, ...]:
    """Return the checks of the preset."""
    if config.preset == "none":
        return (*_texts(config), INCOMPLETE)
    steered = STEERED[config.steering_test]
    if config.preset == "closeness":
        return (*_texts(config), INCOMPLETE, *steered, *_thresholds(config))
    if config.strict_paper:
        return (*IDENTICAL, INCOMPLETE, *steered, UNDER_MEAN, GAP_NOT_OVER_MEAN)
    return (*_texts(config), INCOMPLETE, *steered, UNDER_MEAN, GAP_UNDER_MEAN)


def _texts(config: FilterConfig) -> tuple[Check, ...]:
    """Return the checks of the responses' texts, which come before those of log-probs."""
    return (
        EMPTY,
        *((TRUNCATED,) if config.drop_truncated else ()),
        *IDENTICAL,
        *((LEAK,) if config.drop_leaks else ()),
        *((ECHO,) if config.drop_echoes else ()),
        TOO_SHORT,
        *((TOO_LONG,) if config.max_tokens is not None else ()),
    )


def _thresholds(config: FilterConfig) -> tuple[Check, Check]:
    """Return the closeness preset's two checks, each with a number or a quantile as threshold."""
    far = partial(distance, offset=config.closeness_offset)
    return (
        Check(
            reason="off_policy",
            fails=lambda rows, limits: far(rows) > limits["closeness"] + SLACK,
            limits=lambda rows, c: {"closeness": _resolve(c.closeness, far, rows)},
            row_local=not isinstance(config.closeness, str),
        ),
        Check(
            reason="gap",
            fails=lambda rows, limits: smaller_gap(rows) < limits["gap"] - SLACK,
            limits=lambda rows, c: {"gap": _resolve(c.gap, smaller_gap, rows)},
            row_local=not isinstance(config.gap, str),
        ),
    )


def _best(share: float) -> Check:
    """Return the check that drops all but the `share` of the rows with the largest margins."""

    def limits(rows: Rows, _config: FilterConfig) -> Limits:
        kept = margin(rows)[best(rows, share)]
        return {"margin": float(kept.min()) if len(kept) else math.nan}

    return Check(
        reason="low_margin",
        fails=lambda rows, _limits: ~best(rows, share),
        limits=limits,
        row_local=False,
    )


def _flagged(*flags: Flag) -> Callable[[Rows, Limits], Mask]:
    """Mark rows that have any of the flags."""
    bits = sum(flags)
    return lambda rows, _limits: np.not_equal(rows["flags"] & np.uint16(bits), 0)


def _empty(rows: Rows, _limits: Limits) -> Mask:
    """Mark rows with a response that is white space only, or has no tokens."""
    blank = _flagged(Flag.BLANK_PLAIN, Flag.BLANK_GOOD, Flag.BLANK_BAD)(rows, {})
    return blank | _any_view(_known(rows) & (rows["num_tokens"] == 0))


def _truncated(rows: Rows, _limits: Limits) -> Mask:
    """Mark rows with a cut-off response; the original is used in the loss, too."""
    return _any_view(_known(rows) & (rows["finish"] != _STOP))


def _known(rows: Rows) -> Mask:
    """Mark the responses [row, view] that were asked for."""
    known: Mask = np.not_equal(rows["finish"], UNKNOWN)
    return known


def _any_view(fails: Mask) -> Mask:
    """Reduce [row, view] to [row] with `or`."""
    return fails[:, 0] | fails[:, 1] | fails[:, 2]


def _incomplete(rows: Rows, _limits: Limits) -> Mask:
    """Mark rows in which a mean log-prob for the filter or the loss is missing or not finite."""
    known = np.isfinite(rows["logp"]) & (rows["num_tokens"] > 0)[:, None]
    known[:, *_OPTIONAL] = True
    fails: Mask = ~(known.all(axis=(1, 2)) | lacking(rows))
    return fails


def _not_chained(rows: Rows, _limits: Limits) -> Mask:
    """Mark rows without m.good.good > m.plain.good > m.bad.good, or the same for bad and good."""
    known: Floats = comparisons(rows)  # its ends are the gap, known before its middle
    fails: Mask = np.any(np.less_equal(known, 0), axis=(1, 2))
    return fails


def _not_contrasted(rows: Rows, _limits: Limits) -> Mask:
    """Mark rows without m.good.good > m.bad.good, or without m.bad.bad > m.good.bad."""
    good, bad = gaps(rows)
    fails: Mask = (good <= 0) | (bad <= 0)
    return fails


def comparisons(rows: Rows) -> Floats:
    """Return the differences [row, response, comparison] of the steering tests, nats/token.

    Responses: y+, y-. Comparisons of a response's means: its own view minus plain, plain minus the
    opposite view, own minus opposite (the gap). NaN where a log-prob is missing.
    """
    found = np.empty((len(rows), 2, 3))
    pairs: tuple[tuple[View, View], ...] = (("good", "bad"), ("bad", "good"))
    for side, (own, opposite) in enumerate(pairs):
        at, plain, against = (mean_logp(rows, seen, own) for seen in (own, "plain", opposite))
        found[:, side] = np.stack([at - plain, plain - against, at - against], axis=1)
    return found


def _under_mean(rows: Rows, limits: Limits) -> Mask:
    """Mark rows less likely under the plain view than the rows left are on average."""
    chosen, rejected = mean_logp(rows, "plain", "good"), mean_logp(rows, "plain", "bad")
    chosen_is = chosen < limits["mean_logp_plain_chosen"] - SLACK
    return chosen_is | (rejected < limits["mean_logp_plain_rejected"] - SLACK)


def _gap_under_mean(rows: Rows, limits: Limits) -> Mask:
    """Mark rows with a gap under the mean of the rows left; one *at* the mean is kept.

    The paper asks for a gap over the mean, which a single row, or equal rows, cannot have.
    """
    good, bad = gaps(rows)
    return (good < limits["mean_gap_good"] - SLACK) | (bad < limits["mean_gap_bad"] - SLACK)


def _gap_not_over_mean(rows: Rows, limits: Limits) -> Mask:
    """Mark rows without gaps over the mean of the rows left: the paper's rule as it is written."""
    good, bad = gaps(rows)
    return (good <= limits["mean_gap_good"] + SLACK) | (bad <= limits["mean_gap_bad"] + SLACK)


def _plain_means(rows: Rows, _config: FilterConfig) -> Limits:
    return {
        "mean_logp_plain_chosen": _mean(mean_logp(rows, "plain", "good")),
        "mean_logp_plain_rejected": _mean(mean_logp(rows, "plain", "bad")),
    }


def _gap_means(rows: Rows, _config: FilterConfig) -> Limits:
    good, bad = gaps(rows)
    return {"mean_gap_good": _mean(good), "mean_gap_bad": _mean(bad)}


def gaps(rows: Rows) -> tuple[Floats, Floats]:
    """Return the gaps of the good and of the bad response, nats/token."""
    mean = partial(mean_logp, rows)
    return gap(mean, "good"), gap(mean, "bad")


def smaller_gap(rows: Rows) -> Floats:
    """Return the smaller gap of those that are known: both must reach the threshold."""
    smaller: Floats = np.fmin(*gaps(rows))
    return smaller


def _not_best(rows: Rows, _limits: Limits) -> Mask:
    """Mark all rows of a prompt but that with the largest margin; of equals, the first sample."""
    keys = prompt_keys(rows)
    order = np.lexsort((rows["sample"], -margin(rows), keys))
    fails = np.ones(len(rows), np.bool_)
    fails[order[np.unique(keys[order], return_index=True)[1]]] = False
    return fails


def distance(rows: Rows, offset: float = 0.0) -> Floats:
    """Return the larger of the `distances` of chosen and rejected [row], nats/token.

    Where one is not known, the other; NaN where neither is.
    """
    farther: Floats = np.fmax(*distances(rows, offset))
    return farther


def distances(rows: Rows, offset: float = 0.0) -> tuple[Floats, Floats]:
    """Return the closeness of chosen and of rejected to the policy's own answer, nats/token.

    `offset`: nats that are taken off each whole response, offset / tokens off its mean.
    """
    mean = partial(mean_logp, rows)
    good, bad = (
        closeness(mean, view) - offset / np.maximum(num_tokens(rows, view), 1) for view in _STEERED
    )
    return good, bad


def _resolve(threshold: float | str, measure: Callable[[Rows], Floats], rows: Rows) -> float:
    """Return the threshold of a measure as a number.

    A quantile `qX` is the smallest value with a share X of all values at or under it. It is the
    value of some row, so a single row lies on it; NaN if there is no row.
    """
    if not isinstance(threshold, str):
        return threshold
    if len(rows) == 0:
        return math.nan
    values = measure(rows)
    rank = math.ceil(quantile_of(threshold) * len(values) - SLACK)
    position = max(rank, 1) - 1
    return float(np.partition(values, position)[position])


def _mean(values: NDArray[Any]) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(np.mean(finite, dtype=np.float64)) if len(finite) else math.nan


def _stage(reason: str, dropped: int, rows: Rows, not_asked: int = 0) -> Stage:
    left, rows = len(rows), representative(rows)
    chosen, rejected = mean_logp(rows, "plain", "good"), mean_logp(rows, "plain", "bad")
    gap_good, gap_bad = gaps(rows)
    means: dict[str, NDArray[Any]] = {
        "mean_logp_plain_chosen": chosen,
        "mean_logp_plain_rejected": rejected,
        "mean_logp_plain_pair": (chosen + rejected) / 2,
        "mean_tokens_chosen": num_tokens(rows, "good"),
        "mean_tokens_rejected": num_tokens(rows, "bad"),
        "mean_tokens_original": num_tokens(rows, "plain"),
        "mean_gap_good": gap_good,
        "mean_gap_bad": gap_bad,
    }
    numbers = {name: _mean(values) for name, values in means.items()}
    shown = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
    return Stage(reason=reason, dropped=dropped, left=left, not_asked=not_asked, **shown)


EMPTY = Check(reason="empty", fails=_empty)
TRUNCATED = Check(reason="truncated", fails=_truncated)
IDENTICAL = tuple(
    Check(reason=f"identical_{pair}", fails=_flagged(flag))
    for pair, flag in (
        ("chosen_rejected", Flag.SAME_GOOD_BAD),
        ("chosen_original", Flag.SAME_GOOD_PLAIN),
        ("rejected_original", Flag.SAME_BAD_PLAIN),
    )
)
LEAK = Check(reason="leak", fails=_flagged(Flag.LEAK_GOOD, Flag.LEAK_BAD))
ECHO = Check(reason="echo", fails=_flagged(Flag.ECHO_GOOD, Flag.ECHO_BAD))
TOO_SHORT = Check(
    reason="too_short",
    fails=lambda rows, limits: _any_view(
        _known(rows) & (rows["num_tokens"] < limits["min_tokens"])
    ),
    limits=lambda _, c: {"min_tokens": c.min_tokens},
)
TOO_LONG = Check(
    reason="too_long",
    fails=lambda rows, limits: _any_view(rows["num_tokens"] > limits["max_tokens"]),
    limits=lambda _, c: {"max_tokens": math.inf if c.max_tokens is None else c.max_tokens},
)
INCOMPLETE = Check(reason="incomplete_scores", fails=_incomplete)
STEERED: Mapping[str, tuple[Check, ...]] = {
    "chain": (Check(reason="not_steered", fails=_not_chained),),
    "contrast": (Check(reason="not_steered", fails=_not_contrasted),),
    "off": (),
}
"""The checks of `filter.steered`."""
UNDER_MEAN = Check(reason="off_policy", fails=_under_mean, limits=_plain_means, row_local=False)
GAP_UNDER_MEAN = Check(reason="gap", fails=_gap_under_mean, limits=_gap_means, row_local=False)
NOT_BEST = Check(reason="not_best_of_prompt", fails=_not_best, row_local=False)
GAP_NOT_OVER_MEAN = Check(
    reason="gap", fails=_gap_not_over_mean, limits=_gap_means, row_local=False
)
