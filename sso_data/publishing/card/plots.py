"""The pictures of a card: lengths, and log-probs, of chosen, rejected and original responses."""

import io
import math
from collections.abc import Mapping

from sso_data.core.records import SIDE_OF, View
from sso_data.publishing.card.numbers import Distribution, PairNumbers, bin_edges

_FEWEST_BINS, _MOST_BINS = 10, 50
_COLORS: Mapping[View, str] = {"good": "tab:green", "bad": "tab:red", "plain": "tab:blue"}


def draw_plots(numbers: PairNumbers) -> dict[str, bytes]:
    """Path in the repository -> PNG; none without rows, or where matplotlib is not installed."""
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
    most = min(max(_FEWEST_BINS, 2 * math.isqrt(values)), _MOST_BINS)
    edges = bin_edges(list(by_view.values()), most)
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
