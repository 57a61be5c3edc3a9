"""loss.png: loss, margins and plain-view log-probs over the steps of a training."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from sso_data.runs.files import write_atomic

_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "eval_loss")),
    ("margin D", ("margin_base", "margin_good", "margin_bad")),
    ("log-prob, plain view (nats/token)", ("logp_chosen", "logp_rejected")),
)


def draw(history: Sequence[Mapping[str, float]], file: Path) -> bool:
    """Draw what a training logged; False where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    panels = [
        (title, found)
        for title, names in _PANELS
        if (found := [name for name in names if any(name in line for line in history)])
    ]
    figure = Figure(figsize=(5 * max(len(panels), 1), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, names) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for name in names:
            points = [(line["step"], line[name]) for line in history if name in line]
            axes.plot(*zip(*points, strict=True), label=name, marker="." * (len(points) < 30))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    write_atomic(file, stream.getvalue())
    return True
