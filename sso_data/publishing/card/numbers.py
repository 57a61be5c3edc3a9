"""The numbers of a card: a stream of pairs counted into bins, so that memory does not grow."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sso_data.core.records import SIDE_OF, VIEWS, JsonRow, View
from sso_data.runs.decided import not_a_row, read_pairs

NATS_BIN = 0.001
"""Nats/token in a bin: quantiles of log-probs are exact to half of it."""

_MOST_BINS = 50_000


@dataclass(slots=True, kw_only=True)
class Distribution:
    """Values counted in bins of equal `width`; the mean is exact, a quantile that of its bin."""

    width: float
    bins: Counter[int] = field(default_factory=Counter)
    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        """Count one finite value; far outliers share the last bins."""
        place = round(value / self.width)
        self.bins[max(-_MOST_BINS, min(place, _MOST_BINS))] += 1
        self.count += 1
        self.total += value

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    def quantile(self, share: float) -> float:
        """The middle of the bin that holds the value with `share` of the values at or under it."""
        rank = max(math.ceil(share * self.count), 1)
        for place, found in sorted(self.bins.items()):
            rank -= found
            if rank <= 0:
                return place * self.width
        return math.nan


def _by_view(width: float) -> dict[View, Distribution]:
    return {view: Distribution(width=width) for view in VIEWS}


def _gaps() -> dict[View, Distribution]:
    return {view: Distribution(width=NATS_BIN) for view in ("good", "bad")}


@dataclass(slots=True, kw_only=True)
class PairNumbers:
    """What the pairs of a run hold.

    `features` counts the rows of each principle, `chosen_by` how principles were chosen,
    `written_by` who wrote their texts. `tokens` and `logp` are by the view drawn under, log-probs
    being means under the plain view, nats/token; `gap` is m.good.good - m.bad.good and
    m.bad.bad - m.good.bad, by the view drawn under.
    """

    rows: int = 0
    features: Counter[str] = field(default_factory=Counter)
    chosen_by: Counter[str] = field(default_factory=Counter)
    written_by: Counter[str] = field(default_factory=Counter)
    own_system: int = 0
    several_turns: int = 0
    cut_off: Counter[View] = field(default_factory=Counter)
    tokens: dict[View, Distribution] = field(default_factory=lambda: _by_view(1))
    logp: dict[View, Distribution] = field(default_factory=lambda: _by_view(NATS_BIN))
    gap: dict[View, Distribution] = field(default_factory=_gaps)

    def add(self, row: JsonRow) -> None:
        """Count one outside row."""
        self.rows += 1
        self.features.update(row["principles"])
        self.chosen_by[row["chosen_by"]] += 1
        self.written_by.update(row.get("written_by") or ())
        roles = [turn["role"] for turn in row["prompt"]]
        self.own_system += roles[:1] == ["system"]
        self.several_turns += len(roles) - roles.count("system") > 1
        for view, side in SIDE_OF.items():
            self.tokens[view].add(row[f"{side}_num_tokens"])
            self.cut_off[view] += row[f"{side}_finish_reason"] != "stop"
            _add(self.logp[view], _mean(row, "plain", view))
        _add(self.gap["good"], _gap(row, "good", "bad"))
        _add(self.gap["bad"], _gap(row, "bad", "good"))


def count_pairs(run: Path) -> PairNumbers:
    """The numbers of a run's pairs; RunError names a line that is no row of ours."""
    numbers = PairNumbers()
    for where, row in read_pairs(run):
        try:
            numbers.add(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise not_a_row(where, error) from error
    return numbers


def _mean(row: JsonRow, seen: View, drawn: View) -> float | None:
    """`logp.<seen>.<drawn>.mean` in nats/token, where the row has it."""
    total = row.get(f"logp_{seen}_{drawn}")
    tokens = row[f"{SIDE_OF[drawn]}_num_tokens"]
    return total / tokens if total is not None and tokens else None


def _gap(row: JsonRow, view: View, other: View) -> float | None:
    own, others = _mean(row, view, view), _mean(row, other, view)
    return own - others if own is not None and others is not None else None


def _add(distribution: Distribution, value: float | None) -> None:
    if value is not None and math.isfinite(value):
        distribution.add(value)


def bin_edges(distributions: Sequence[Distribution], most: int) -> list[float]:
    """Edges of at most `most` equal bins that hold all but 1 % of the values at either end.

    The distributions have bins of one width; an edge lies between two of those.
    """
    filled = [one for one in distributions if one.count]
    if not filled:
        return [0.0, 1.0]
    width = filled[0].width
    first = min(round(one.quantile(0.01) / width) for one in filled)
    last = max(round(one.quantile(0.99) / width) for one in filled)
    step = max(1, math.ceil((last - first + 1) / most))
    count = math.ceil((last - first + 1) / step)
    return [(first + step * place - 0.5) * width for place in range(count + 1)]
