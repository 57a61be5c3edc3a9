"""One row beside the limits of every check: what the filter looked at, and by how much it missed.

Whether a check fails is the filter's own answer; the measures say why.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from sso_data.config.run import FilterConfig
from sso_data.core.records import SIDE_OF, VIEWS, Row, View
from sso_data.filtering.filters import (
    INCOMPLETE,
    SLACK,
    Check,
    Limits,
    checks,
    comparisons,
    distances,
    gaps,
)
from sso_data.filtering.ranking import margin
from sso_data.runs.columns import (
    FINISH_REASONS,
    UNKNOWN,
    Flag,
    Rows,
    lacking,
    mean_logp,
    record_of,
)

Relation = Literal[">", ">=", "<="]
_LIMIT_DIGITS, _MOST_DIGITS = 6, 13
"""Digits of a limit, and below which all are that tell it from a value."""
_BY_OTHER_ROWS = ("not_best_of_prompt", "low_margin")
"""Checks whose answer about a row is in the comparison with other rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number of one side of a row (or "": of the pair) and what it must be."""

    what: str
    side: str
    value: float
    relation: Relation
    limit: float

    @property
    def short(self) -> float:
        """How much is missing to the limit, 0 where it is met; NaN of a missing number.

        As in the filter, a limit of > 0 is met by nothing less, the others up to rounding.
        """
        if math.isnan(self.value) or math.isnan(self.limit):
            return math.nan
        over = self.limit - self.value if self.relation != "<=" else self.value - self.limit
        if self.relation == ">":
            slack = SLACK if self.limit else 0.0
            return max(over, SLACK) if over + slack >= 0 else 0.0
        return over if over > SLACK else 0.0

    @property
    def misses(self) -> bool | None:
        """True where the number misses its limit; None where one of them is not known."""
        return None if math.isnan(self.short) else self.short > 0

    def __str__(self) -> str:
        return f"{self.shown} {self.relation} {self.shown_limit}"

    @property
    def shown(self) -> str:
        """The value, in so many digits that it differs from the limit as it does."""
        return self._text(self.value, 3)

    @property
    def shown_limit(self) -> str:
        """The limit as it is configured."""
        return self._text(self.limit, _LIMIT_DIGITS)

    def _text(self, number: float, digits: int) -> str:
        if math.isnan(number):
            return "-"
        finest = abs(self.value - self.limit) / 10
        texts = (f"{number:.{more}g}" for more in range(digits, _MOST_DIGITS))
        fine = (text for text in texts if not abs(float(text) - number) > finest)
        return next(fine, f"{number:.{_LIMIT_DIGITS}g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A check of the filter on one row: `fails` is the filter's answer.

    None if it depends on other rows, or on what was not asked for.

    `sides`: those whose text or finish fails it, for a check without numbers.
    """

    reason: str
    fails: bool | None
    measures: tuple[Measure, ...] = ()
    sides: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """What it lacks, as one phrase."""
        parts = [
            f"{one.what}{f' of {one.side}' if one.side else ''} is {one.shown}, must be "
            f"{one.relation} {one.shown_limit}"
            + (f": {one.short:.3g} {'too much' if one.relation == '<=' else 'short'}")
            for one in self.measures
            if one.misses
        ]
        return "; ".join(parts) or ", ".join(self.sides)

    def to_json(self) -> dict[str, Any]:
        """Return its form for `--json`; a missing number is null."""
        found = [asdict(one) | {"short": one.short} for one in self.measures]
        finite = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in m.items()}
            for m in found
        ]
        return {
            "reason": self.reason,
            "fails": self.fails,
            "measures": finite,
            "sides": list(self.sides),
        }


def verdict_on(reason: str | None, outcomes: Sequence[Outcome]) -> str:
    """Return in one line that a row is kept (`reason` None), or what dropped it and by how much."""
    if reason is None:
        return "kept"
    why = next((outcome.why for outcome in outcomes if outcome.reason == reason), "")
    return f"dropped by {reason}{f': {why}' if why else ''}"


def outcomes_of(
    row: Row | Rows, config: FilterConfig, thresholds: Mapping[str, float | None]
) -> tuple[Outcome, ...]:
    """Return every check of `config` on one row (or a SCORES array of it), in order.

    `thresholds`: the resolved ones of a decision, where they depend on other rows.
    """
    one = record_of(row) if isinstance(row, Row) else row
    return outcomes(one, config, thresholds)[0]


def outcomes(
    rows: Rows, config: FilterConfig, thresholds: Mapping[str, float | None]
) -> list[tuple[Outcome, ...]]:
    """Return every check of `config` on each of some rows; `thresholds` as `outcomes_of`."""
    limits = {name: math.nan if v is None else v for name, v in thresholds.items()}
    found = [_outcomes(check, rows, config, limits) for check in checks(config)]
    return list(zip(*found, strict=True))


def _outcomes(check: Check, rows: Rows, config: FilterConfig, limits: Limits) -> Iterator[Outcome]:
    """Yield what a check says of each row."""
    own = {**limits, **(check.limits(rows, config) if check.row_local else {})}
    is_known = not check.row_local or all(map(math.isfinite, own.values()))
    is_known = is_known and check.reason not in _BY_OTHER_ROWS
    columns = [
        (what, side, np.asarray(side_values, np.float64).tolist(), relation, name)
        for what, values, relation, names in _NUMBERS.get(check.reason, lambda *_: ())(rows, config)
        for side, side_values, name in zip(SIDE_OF.values(), values, names, strict=False)
    ]
    parts = (check.fails(rows, own), lacking(rows), rows["flags"], rows["finish"])
    texts = zip(*(part.tolist() for part in (*parts, rows["num_tokens"])), strict=True)
    for place, (fails, lacks, *of_texts) in enumerate(texts):
        measures = tuple(
            Measure(
                what=what,
                side=side if what != "margin" else "",
                value=values[place],
                relation=relation,
                limit=own.get(name, math.nan) if name else 0.0,
            )
            for what, side, values, relation, name in columns
        )
        # what it looks at may not have been asked for
        is_hidden = any(math.isnan(each.value) for each in measures) or (
            not measures and _is_text_unknown(check.reason, of_texts[1])
        )
        is_open = not fails and lacks and is_hidden
        yield Outcome(
            reason=check.reason,
            fails=fails if is_known and not is_open else None,
            measures=measures,
            sides=tuple(_sides(check.reason, *of_texts)),
        )


Numbers = Iterator[tuple[str, Any, Relation, tuple[str, ...]]]
"""What is measured, the values [row] of chosen, rejected, original, and the names of their
limits."""


def _steered(rows: Rows, config: FilterConfig) -> Numbers:
    found = comparisons(rows)
    names = ("own - plain", "plain - opposite", "own - opposite")
    wanted = {"chain": (0, 1, 2), "contrast": (2,), "off": ()}[config.steering_test]
    for place in wanted:
        yield names[place], found[:, :, place].T, ">", ("", "")


def _close(rows: Rows, config: FilterConfig) -> Numbers:
    if config.preset == "reference":
        means = (mean_logp(rows, "plain", "good"), mean_logp(rows, "plain", "bad"))
        limits = ("mean_logp_plain_chosen", "mean_logp_plain_rejected")
        yield "log-prob under plain", means, ">=", limits
    else:
        far = distances(rows, config.closeness_offset)
        yield "closeness", far, "<=", ("closeness", "closeness")


def _gap(rows: Rows, config: FilterConfig) -> Numbers:
    if config.preset == "reference":
        relation: Relation = ">" if config.strict_paper else ">="
        yield "gap", gaps(rows), relation, ("mean_gap_good", "mean_gap_bad")
    else:
        yield "gap", gaps(rows), ">=", ("gap", "gap")


def _margin(rows: Rows, _config: FilterConfig) -> Numbers:
    yield "margin", (margin(rows),), ">=", ("margin",)


def _tokens(limit: str, relation: Relation) -> Callable[[Rows, FilterConfig], Numbers]:
    def numbers(rows: Rows, config: FilterConfig) -> Numbers:
        known = np.where(rows["finish"] != UNKNOWN, rows["num_tokens"], np.nan)
        yield "tokens", [known[:, VIEWS.index(view)] for view in SIDE_OF], relation, (limit,) * 3

    return numbers


_NUMBERS: Mapping[str, Callable[[Rows, FilterConfig], Numbers]] = {
    "not_steered": _steered,
    "off_policy": _close,
    "gap": _gap,
    "too_short": _tokens("min_tokens", ">="),
    "too_long": _tokens("max_tokens", "<="),
    "low_margin": _margin,
}

_FLAGS: Mapping[str, Mapping[Flag, str]] = {
    "empty": {Flag[f"BLANK_{view.upper()}"]: side for view, side in SIDE_OF.items()},
    "leak": {Flag.LEAK_GOOD: "chosen", Flag.LEAK_BAD: "rejected"},
    "echo": {Flag.ECHO_GOOD: "chosen", Flag.ECHO_BAD: "rejected"},
}


_LOOKED_AT: Mapping[str, tuple[View, ...]] = {
    "leak": ("good", "bad"),
    "echo": ("good", "bad"),
    "identical_chosen_rejected": ("good", "bad"),
    "identical_chosen_original": ("good", "plain"),
    "identical_rejected_original": ("bad", "plain"),
}
"""The responses that a check of texts looks at, where it is not all."""


def _is_text_unknown(reason: str, finish: Sequence[int]) -> bool:
    """Return True where a check without numbers waits for what was not asked for."""
    looked_at = _LOOKED_AT.get(reason, VIEWS)
    return reason == INCOMPLETE.reason or any(
        finish[VIEWS.index(view)] == UNKNOWN for view in looked_at
    )


def _sides(reason: str, flags: int, finish: Sequence[int], tokens: Sequence[int]) -> Iterator[str]:
    """Yield the sides that fail a check of texts."""
    of_flag = {side: flag for flag, side in _FLAGS.get(reason, {}).items()}
    for view, side in SIDE_OF.items():
        place = VIEWS.index(view)
        end = FINISH_REASONS[finish[place]] if finish[place] < len(FINISH_REASONS) else ""
        if reason == "truncated" and end not in ("stop", ""):
            yield f"{side} ({end})"
        elif flags & of_flag.get(side, 0) or (reason == "empty" and end and not tokens[place]):
            yield side
