"""The page of the study: paired differences with intervals, a verdict a claim, tables, plots."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.claims_grid import ROUNDS, STUDIES, Claim, declared

Line = Mapping[str, Any]
START, END = "<!-- measured: made by benchmarks/claims.py -->", "<!-- end of measured -->"
SHOWN = ("signal_accuracy", "on_policy", "tokens_plain", "unprompted", "well_formed")
PANELS = (
    ("signal_accuracy", "signal accuracy"),
    ("on_policy", "log-prob of the pairs, plain view (nats/token)"),
    ("unprompted", "unprompted score"),
    ("tokens_plain", "tokens of a plain answer"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over `n` values with the half-width of its 95 % interval (Student's t)."""

    mean: float
    half: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and its interval; of fewer than two values the interval is infinite."""
    from scipy.stats import t

    if len(values) < 2:
        mean = values[0] if values else math.nan
        return Estimate(mean=mean, half=math.inf, n=len(values))
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean=fmean(values), half=half, n=len(values))


def differences(claim: Claim, lines: Iterable[Line]) -> list[float]:
    """`arm` minus `against`, for every checkpoint and seed that has both."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for line in lines:
        if _belongs(line, claim) and (side := _side(line, claim)):
            place = line["checkpoint"], line["seed"]
            found.setdefault(place, {})[side] = _value(line, claim.metric)
    return [
        sides[claim.arm] - sides[claim.against]
        for sides in found.values()
        if {claim.arm, claim.against} <= sides.keys()
    ]


def _side(line: Line, claim: Claim) -> str | None:
    """Which side of the claim a line speaks for, if any: of the last point, or of the first."""
    on, last = ("round", ROUNDS - 1) if claim.at == "data" else ("held-out", ROUNDS)
    if line["on"] != on or line["arm"] not in (claim.arm, claim.against):
        return None
    if line["trained"] == last or claim.study == "reward":
        return str(line["arm"])
    is_start = not line["trained"] and claim.against == "start" and line["arm"] == claim.arm
    return "start" if is_start else None


def _belongs(line: Line, claim: Claim) -> bool:
    """Whether a line is of the claim's study; the secondary one is paired with primary chains."""
    checkpoints, seeds, _ = STUDIES[claim.study]
    studies = {claim.study, "primary"} if claim.study == "secondary" else {claim.study}
    return line["study"] in studies and line["checkpoint"] in checkpoints and line["seed"] in seeds


def _value(line: Line, metric: str) -> float:
    if metric == "tokens_growth":
        return math.log(line["tokens_plain"])
    return float(line[metric])


def verdict(claim: Claim, found: Estimate) -> str:
    """`holds`, `reversed`, `no difference` (the whole interval is smaller than the margin), or
    `not shown`."""
    if claim.wants == "kept":
        if found.low > -claim.margin:
            return "holds"
        return "reversed" if found.high < -claim.margin else "not shown"
    sign = 1 if claim.wants == "more" else -1
    low, high = sorted((sign * found.low, sign * found.high))
    if low > 0 and sign * found.mean >= claim.margin:
        return "holds"
    if high < 0 and -sign * found.mean >= claim.margin:
        return "reversed"
    return "no difference" if -claim.margin < low and high < claim.margin else "not shown"


def write_page(lines: Sequence[Line], page: Path) -> None:
    """Put tables and verdicts into the page's measured part; plots and results stand beside it."""
    plots = {
        "claims.png": ("primary", "both checkpoints, 95 % intervals over seeds"),
        "claims_length.png": ("length", "the rambling checkpoint"),
    }
    drawn = [name for name, (study, _) in plots.items() if draw(lines, study, page.parent / name)]
    here = Path(__file__).parent
    templates = Environment(
        loader=FileSystemLoader(here), undefined=StrictUndefined, trim_blocks=True
    )
    part = templates.get_template("claims_page.md.j2").render(
        rounds=ROUNDS,
        verdicts={study: _verdicts(study, lines) for study in STUDIES},
        tables={study: _table(study, lines) for study in STUDIES if study != "reward"},
        plots=[(name, plots[name][1]) for name in drawn],
        shown=SHOWN,
    )
    page.with_suffix(".jsonl").write_text(
        "".join(json.dumps(_short(line)) + "\n" for line in lines)
    )
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n{part.strip()}\n{END}{after}", encoding="utf-8")


def _short(line: Line) -> dict[str, Any]:
    """A line with five digits after the point."""
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}


def _verdicts(study: str, lines: Sequence[Line]) -> list[tuple[Claim, Estimate, str]]:
    found = []
    for claim in declared():
        if claim.study == study:
            numbers = estimate(differences(claim, lines))
            found.append((claim, numbers, verdict(claim, numbers)))
    return found


def _table(study: str, lines: Sequence[Line]) -> list[tuple[str, str, list[Estimate]]]:
    """(checkpoint, arm, the shown metrics at the end) for every arm; `start` first."""
    groups: dict[tuple[str, str], list[Line]] = {}
    starts: dict[tuple[str, int], Line] = {}
    for line in lines:
        if line["study"] != study or line["on"] != "held-out":
            continue
        if line["trained"]:
            groups.setdefault((line["checkpoint"], line["arm"]), []).append(line)
        elif "T=1" not in line["arm"]:
            starts[line["checkpoint"], line["seed"]] = line
    for (checkpoint, _), line in starts.items():
        groups.setdefault((checkpoint, "start"), []).append(line)
    order = ["start", *(arm.name for arm in STUDIES[study][2])]
    keys = sorted(groups, key=lambda key: (key[0], order.index(key[1])))
    return [
        (*key, [estimate([line[name] for line in groups[key]]) for name in SHOWN]) for key in keys
    ]


def draw(lines: Sequence[Line], study: str, file: Path) -> bool:
    """Each metric over the trainings, a line an arm; False where the study has no results."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = _curves(lines, study)
    if not curves:
        return False
    figure = Figure(figsize=(4.2 * len(PANELS), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (metric, title) in enumerate(PANELS, start=1):
        axes = figure.add_subplot(1, len(PANELS), place)
        for shift, (arm, points) in enumerate(curves.items()):
            found = [estimate([line[metric] for line in at]) for at in points]
            axes.errorbar(
                [number + 0.04 * (shift - 2) for number in range(len(found))],
                [one.mean for one in found],
                yerr=[one.half if math.isfinite(one.half) else 0.0 for one in found],
                label=arm,
                marker="o",
                markersize=3,
                capsize=2,
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("trainings")
        axes.set_xticks(range(ROUNDS + 1))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(file, format="png", dpi=110)
    return True


def _curves(lines: Sequence[Line], study: str) -> dict[str, list[list[Line]]]:
    """Arm -> for 0, 1, ... trainings, the measurements: on fresh prompts, at the end held-out."""
    arms = [arm.name for arm in STUDIES[study][2]]
    curves: dict[str, list[list[Line]]] = {}
    for line in lines:
        at_end = line["on"] == "held-out" and line["trained"] == ROUNDS
        if line["study"] == study and (line["on"] == "round" or at_end):
            points = curves.setdefault(line["arm"], [[] for _ in range(ROUNDS + 1)])
            points[line["trained"]].append(line)
    return {arm: curves[arm] for arm in arms if arm in curves}
