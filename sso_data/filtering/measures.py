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
    SLACK,
    Limits,
    checks,
    comparisons,
    distances,
    gaps,
)
from sso_data.filtering.ranking import margin
from sso_data.runs.columns import (
    FINISH_REASONS,
    SCORES,
    Flag,
    Rows,
    encode,
    lacking,
    mean_logp,
    num_tokens,
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
    one: Rows = np.frombuffer(encode(row, b"", 0), SCORES) if isinstance(row, Row) else row
    limits = {name: math.nan if v is None else v for name, v in thresholds.items()}
    found = []
    for check in checks(config):
        own = {**limits, **(check.limits(one, config) if check.row_local else {})}
        by_others = check.reason in _BY_OTHER_ROWS
        is_known = not check.row_local or all(map(math.isfinite, own.values()))
        measures = tuple(_measured(check.reason, one, config, own))
        fails = bool(check.fails(one, own)[0])
        if not fails and lacking(one)[0] and any(math.isnan(each.value) for each in measures):
            is_known = False  # what it looks at was not asked for
        found.append(
            Outcome(
                reason=check.reason,
                fails=None if by_others or not is_known else fails,
                measures=measures,
                sides=tuple(_sides(check.reason, one)),
            )
        )
    return tuple(found)


def _measured(reason: str, row: Rows, config: FilterConfig, limits: Limits) -> Iterator[Measure]:
    """Yield the numbers that a check compares with its limits."""
    if reason == "low_margin":
        yield Measure(
            what="margin",
            side="",
            value=float(margin(row)[0]),
            relation=">=",
            limit=limits.get("margin", math.nan),
        )
    for what, values, relation, names in _NUMBERS.get(reason, lambda *_: ())(row, config):
        for side, value, name in zip(SIDE_OF.values(), values, names, strict=False):
            yield Measure(
                what=what,
                side=side,
                value=float(value),
                relation=relation,
                limit=limits.get(name, math.nan) if name else 0.0,
            )


Numbers = Iterator[tuple[str, Any, Relation, tuple[str, ...]]]
"""What is measured, the values of chosen, rejected, original, and the names of their limits."""


def _steered(row: Rows, config: FilterConfig) -> Numbers:
    found = comparisons(row)[0]
    names = ("own - plain", "plain - opposite", "own - opposite")
    wanted = {"chain": (0, 1, 2), "contrast": (2,), "off": ()}[config.steering_test]
    for place in wanted:
        yield names[place], found[:, place], ">", ("", "")


def _close(row: Rows, config: FilterConfig) -> Numbers:
    if config.preset == "reference":
        means = (mean_logp(row, "plain", "good")[0], mean_logp(row, "plain", "bad")[0])
        limits = ("mean_logp_plain_chosen", "mean_logp_plain_rejected")
        yield "log-prob under plain", means, ">=", limits
    else:
        far = [side[0] for side in distances(row, config.closeness_offset)]
        yield "closeness", far, "<=", ("closeness", "closeness")


def _gap(row: Rows, config: FilterConfig) -> Numbers:
    values = [side[0] for side in gaps(row)]
    if config.preset == "reference":
        relation: Relation = ">" if config.strict_paper else ">="
        yield "gap", values, relation, ("mean_gap_good", "mean_gap_bad")
    else:
        yield "gap", values, ">=", ("gap", "gap")


def _tokens(limit: str, relation: Relation) -> Callable[[Rows, FilterConfig], Numbers]:
    def numbers(row: Rows, config: FilterConfig) -> Numbers:
        counts = [
            num_tokens(row, view)[0] if _is_there(row, view) else math.nan for view in SIDE_OF
        ]
        yield "tokens", counts, relation, (limit,) * 3

    return numbers


_NUMBERS: Mapping[str, Callable[[Rows, FilterConfig], Numbers]] = {
    "not_steered": _steered,
    "off_policy": _close,
    "gap": _gap,
    "too_short": _tokens("min_tokens", ">="),
    "too_long": _tokens("max_tokens", "<="),
}

_FLAGS: Mapping[str, Mapping[Flag, str]] = {
    "empty": {Flag[f"BLANK_{view.upper()}"]: side for view, side in SIDE_OF.items()},
    "leak": {Flag.LEAK_GOOD: "chosen", Flag.LEAK_BAD: "rejected"},
    "echo": {Flag.ECHO_GOOD: "chosen", Flag.ECHO_BAD: "rejected"},
}


def _sides(reason: str, row: Rows) -> Iterator[str]:
    """Yield the sides that fail a check of texts."""
    for flag, side in _FLAGS.get(reason, {}).items():
        view = next(view for view, name in SIDE_OF.items() if name == side)
        is_empty = _is_there(row, view) and int(num_tokens(row, view)[0]) == 0
        if int(row["flags"][0]) & flag or (reason == "empty" and is_empty):
            yield side
    if reason == "truncated":
        for view, side in SIDE_OF.items():
            finish = _finish(row, view)
            if finish < len(FINISH_REASONS) and FINISH_REASONS[finish] != "stop":
                yield f"{side} ({FINISH_REASONS[finish]})"


def _is_there(row: Rows, view: View) -> bool:
    """Return True for a response that was drawn."""
    return _finish(row, view) < len(FINISH_REASONS)


def _finish(row: Rows, view: View) -> int:
    return int(row["finish"][0][VIEWS.index(view)])
