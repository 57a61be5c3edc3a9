"""The model card of a trained model, and loss.png, its metrics over the steps."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sso_data.core.jinja import render
from sso_data.core.paths import is_local, public_name
from sso_data.runs.files import write_atomic


def write_card(
    manifest: Mapping[str, Any], history: Sequence[Mapping[str, float]], file: Path
) -> None:
    """Write the card from train.json's content and the logged metrics."""
    logs = [line for line in history if "loss" in line]
    names = [name for name in logs[0] if name in logs[-1]] if logs else []
    shown = [name for name in names if name not in {"step", "epoch"}]
    model, config = manifest["model"]["name"], manifest["config"]
    mixed = config["reward"]["mix"] if config["kind"] == "reward" else []
    data = [manifest["data"]["source"], *(part["data"] for part in mixed)]
    on_the_hub = [name.partition(":")[0] for name in data if not is_local(name)]
    text = render(
        "model_card.j2",
        manifest=manifest,
        comparison=manifest.get("comparison"),
        base_model=None if is_local(model) else json.dumps(model),  # no path of this machine
        model=public_name(model),
        source=public_name(manifest["data"]["source"]),
        datasets=[json.dumps(name) for name in dict.fromkeys(on_the_hub)],
        made_by=[
            {**origin, "model": public_name(origin["model"])}
            for origin in manifest["data"]["made_by"]
        ],
        objective=", ".join(_objective(config)),
        tags=["sso-data", *(part.replace(" ", "-") for part in _objective(config))],
        recipe=recipe(config),
        measured=[(name, f"{logs[0][name]:.4g}", f"{logs[-1][name]:.4g}") for name in shown],
    )
    write_atomic(file, (text + "\n").encode())


def recipe(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings that decide the result, as (key, value)."""
    what = "reward" if config["kind"] == "reward" else "loss"
    sections = (what, "sequence", "optim", "data") + ("lora",) * config["lora"]["enabled"]
    found = [("seed", str(config["seed"]))]
    for section in sections:
        found += [(f"{section}.{key}", _shown(value)) for key, value in config[section].items()]
    return found


def _shown(value: Any) -> str:
    """A setting as a card may print it; those of `reward.mix` name data."""
    if isinstance(value, list):
        value = [
            {**part, "data": public_name(part["data"])}
            if isinstance(part, dict) and "data" in part
            else part
            for part in value
        ]
    return str(value)


def _objective(config: Mapping[str, Any]) -> list[str]:
    loss = config["loss"]
    return ["reward model"] if config["kind"] == "reward" else [loss["objective"], loss["type"]]


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
