"""The result of an iteration, and its files: rounds.jsonl, rounds.png, report.html."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sso_data.core.jinja import render
from sso_data.iteration.rounds import MODEL, Work
from sso_data.iteration.state import LINES, PAGE, PLOT, PolicyAt
from sso_data.iteration.stopping import Line, Stop
from sso_data.iteration.table import remarks, shown, totals
from sso_data.runs.files import remove_tree, write_atomic
from sso_data.runs.jsonl import to_line

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Iterated:
    """Result of an iteration: a line a round, the last good policy, and the stop, if there was one.

    `new_rounds` were finished by this call. `reward_model`: where one was trained.
    """

    out: Path
    lines: Sequence[Line]
    policy: PolicyAt
    stop: Stop | None
    new_rounds: int
    seconds: float
    reward_model: str | None = None

    @property
    def verdict(self) -> list[str]:
        """The outcome, and what one could change, in a few lines."""
        finished = sum(line.get("train_steps") is not None for line in self.lines)
        made = f"{finished} of {len(self.lines)} rounds finished"
        if self.stop is None:
            policy = f"the policy: {self.policy.path}"
            trained = f"the reward model: {self.reward_model}" if self.reward_model else policy
            return [f"{made}; {trained}", *remarks(self.lines)]
        advice = [f"advice: {text}" for text in self.stop.advice]
        stopped = f"stopped after {made}: {self.stop.reason}"
        return [stopped, *advice, f"the last good policy: {self.policy.path}", *remarks(self.lines)]

    @property
    def account(self) -> str:
        """The accounting over all rounds, one line."""
        found = totals(self.lines)
        dropped = [
            f" + {count} {name.removeprefix('dropped.')}"
            for name, count in found.items()
            if name.startswith("dropped.")
        ]
        samples = found["samples"]
        times = f" with {samples} samples" if samples != found["prompts"] else ""
        return (
            f"{len(self.lines)} rounds: prompts {found['prompts']}{times} = rows {found['rows']} + "
            f"failed {found['failed']}; rows {found['rows']} = kept {found['kept']}"
            f"{''.join(dropped)}"
        )

    def to_json(self) -> dict[str, Any]:
        """The output of `iterate --json`."""
        return {
            "out": str(self.out),
            "rounds": [dict(line) for line in self.lines],
            "policy": self.policy.to_json(),
            "reward_model": self.reward_model,
            "stopped": self.stop.to_json() if self.stop else None,
            "totals": dict(totals(self.lines)),
            "verdict": self.verdict,
            "new_rounds": self.new_rounds,
            "seconds": round(self.seconds, 2),
        }


def write_report(work: Work, done: Iterated) -> bool:
    """Write the three files; False where the picture could not be drawn (it takes matplotlib).

    Raises RunError where a file cannot be written.
    """
    out = work.folder.path
    write_atomic(out / LINES, b"".join(to_line(dict(line)) for line in done.lines))
    picture = draw(done.lines)
    if picture:
        write_atomic(out / PLOT, picture)
    else:
        remove_tree(out / PLOT)
    folder = work.folder
    judged = folder.round(1).step("judged")
    numbers = [one["round"] for one in folder.finished]
    plots = [(number, folder.round(number).path / MODEL / "loss.png") for number in numbers]
    losses = [(number, _embedded(file.read_bytes())) for number, file in plots if file.is_file()]
    text = render(
        "iterate_report.html.j2",
        title=work.config.title or "Iteration",
        reproduces=list(work.config.reproduces),
        verdict=done.verdict,
        stopped=done.stop is not None,
        rounds=[line["round"] for line in done.lines],
        table=shown(done.lines),
        totals=done.account,
        lineage=[
            {
                "round": one["round"],
                "policy": one["policy"]["fingerprint"],
                "source": one["source"],
                "data": one["data"],
                "model": one["model"]["fingerprint"],
            }
            for one in folder.finished
        ],
        judge=str(judged["name"]) if judged else "none",
        picture=_embedded(picture) if picture else "",
        losses=losses,
        settings=[(key, str(value)) for key, value in sorted(folder.manifest["identity"].items())],
    )
    write_atomic(out / PAGE, f"{text}\n".encode())
    return picture is not None


def report_files(out: Path) -> list[Path]:
    """The files of the report that are there."""
    return [file for name in (PAGE, LINES, PLOT) if (file := out / name).is_file()]


def _embedded(picture: bytes) -> str:
    """A picture as a data URL, so that the page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def draw(lines: Sequence[Line]) -> bytes | None:
    """The table over the rounds as curves, a PNG; None without rounds or without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    panels = []
    for title, curves in _PANELS:
        points = {
            label: [(line["round"], line[key]) for line in lines if line.get(key) is not None]
            for key, label in curves
        }
        if any(points.values()):
            panels.append((title, points))
    if not panels:
        return None
    rows, columns = -(-len(panels) // _COLUMNS), min(len(panels), _COLUMNS)
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, points) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for label, found in points.items():
            if found:
                axes.plot(*zip(*found, strict=True), label=label, marker="o", markersize=4)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("round")
        axes.set_xticks([int(line["round"]) for line in lines])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()
