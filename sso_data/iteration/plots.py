"""rounds.png: the table over the rounds as curves."""

import io
from collections.abc import Sequence

from sso_data.iteration.stopping import Line

_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "shares",
        (
            ("accuracy_kept", "signal accuracy, kept"),
            ("accuracy_all", "signal accuracy, all"),
            ("steered", "steered"),
            ("kept_share", "kept"),
        ),
    ),
    (
        "length (tokens)",
        (
            ("tokens_chosen", "y+"),
            ("tokens_rejected", "y-"),
            ("tokens_original", "y0"),
        ),
    ),
    (
        "below the own answer (nats/token)",
        (("closeness_chosen", "y+"), ("closeness_rejected", "y-")),
    ),
    ("gap (nats/token)", (("gap_good", "good"), ("gap_bad", "bad"))),
    (
        "margin at the end of training",
        (
            ("train_margin_base", "base"),
            ("train_margin_good", "good"),
            ("train_margin_bad", "bad"),
            ("train_margin", "reward"),
        ),
    ),
    (
        "the policy itself",
        (
            ("unprompted", "score of y0"),
            ("unprompted_win_rate", "win rate against the first"),
            ("win_rate", "held-out win rate after the round"),
        ),
    ),
)
_COLUMNS = 3


def draw(lines: Sequence[Line]) -> bytes | None:
    """A PNG; None without rounds, or where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    panels = [(title, found) for title, curves in _PANELS if (found := _found(lines, curves))]
    if not panels:
        return None
    rows, columns = -(-len(panels) // _COLUMNS), min(len(panels), _COLUMNS)
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, curves) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for label, points in curves:
            axes.plot(*zip(*points, strict=True), label=label, marker="o", markersize=4)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("round")
        axes.set_xticks([int(line["round"]) for line in lines])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def _found(
    lines: Sequence[Line], curves: Sequence[tuple[str, str]]
) -> list[tuple[str, list[tuple[int, float]]]]:
    """(label, points) of each curve that has any."""
    found = [
        (label, [(line["round"], line[key]) for line in lines if line.get(key) is not None])
        for key, label in curves
    ]
    return [(label, points) for label, points in found if points]
