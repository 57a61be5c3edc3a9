"""Numbers and pictures of a card: pairs streamed into bins, so that memory does not grow."""

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sso_data.core.records import SIDE_OF, VIEWS, JsonRow, View
from sso_data.runs.columns import gap
from sso_data.runs.pairs import not_a_row, read_pairs

NATS_BIN = 0.001
"""Nats/token in a bin: quantiles of log-probs are exact to half of it."""

_MOST_BINS = 50_000
_DRAWN_BINS = (10, 50)
_COLORS: Mapping[View, str] = {"good": "tab:green", "bad": "tab:red", "plain": "tab:blue"}


@dataclass(slots=True, kw_only=True)
class Distribution:
    """Values counted in bins of equal `width`; the mean is exact, a quantile that of its bin."""

    width: float
    bins: Counter[int] = field(default_factory=Counter)
    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        """Count one value, unless it is not finite; far outliers share the last bins."""
        if not math.isfinite(value):
            return
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


def _by_view(width: float, views: Sequence[View] = VIEWS) -> dict[View, Distribution]:
    return {view: Distribution(width=width) for view in views}


@dataclass(slots=True, kw_only=True)
class PairNumbers:
    """Counts and distributions of a run's pairs.

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
    gap: dict[View, Distribution] = field(
        default_factory=lambda: _by_view(NATS_BIN, ("good", "bad"))
    )

    def add(self, row: JsonRow) -> None:
        """Count one outside row."""

        def mean(seen: View, drawn: View) -> float:
            total, tokens = row.get(f"logp_{seen}_{drawn}"), row[f"{SIDE_OF[drawn]}_num_tokens"]
            return float(total / tokens) if total is not None and tokens else math.nan

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
            self.logp[view].add(mean("plain", view))
        self.gap["good"].add(gap(mean, "good"))
        self.gap["bad"].add(gap(mean, "bad"))


def count_pairs(run: Path) -> PairNumbers:
    """The numbers of a run's pairs; RunError names a line that is not such a row."""
    numbers = PairNumbers()
    for where, row in read_pairs(run):
        try:
            numbers.add(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise not_a_row(where, error) from error
    return numbers


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


def draw_plots(numbers: PairNumbers) -> dict[str, bytes]:
    """Path in the repository -> PNG: lengths and log-probs of chosen, rejected and original.

    Empty without rows, or where matplotlib is not installed.
    """
    if not numbers.rows:
        return {}
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return {}
    return {
        "plots/lengths.png": _histograms(numbers.tokens, "length (tokens)"),
        "plots/logprobs.png": _histograms(
            numbers.logp, "mean log-prob under the plain view (nats/token)"
        ),
    }


def _histograms(by_view: Mapping[View, Distribution], label: str) -> bytes:
    """One outline per response, over the range that holds nearly all values."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values = max(one.count for one in by_view.values())
    fewest, most = _DRAWN_BINS
    edges = bin_edges(list(by_view.values()), min(max(fewest, 2 * math.isqrt(values)), most))
    for view, side in SIDE_OF.items():
        bins = by_view[view].bins
        axes.hist(
            [place * by_view[view].width for place in bins],
            bins=edges,
            weights=list(bins.values()),
            histtype="step",
            linewidth=1.5,
            color=_COLORS[view],
            label=side,
        )
    axes.set_xlabel(label)
    axes.set_ylabel("pairs")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    return stream.getvalue()
