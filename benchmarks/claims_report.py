"""The page of the study, made from its measurements (docs/claims.jsonl) and the dated list of its
changes (docs/claims_changes.yaml), from which every figure and every comparison on it follows."""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks import claims_grid as grid
from benchmarks.claims_grid import ROUNDS, STUDIES
from benchmarks.claims_statistics import ERROR, Estimate, Judged, Line, estimate, judged
from sso_data.config.iteration import StopRules

ROWS_OF = f"rows of round {ROUNDS}"
SHOWN = {
    "signal accuracy, end": ("end", "signal_accuracy"),
    f"signal accuracy, {ROWS_OF}": ("data", "signal_accuracy"),
    "on-policy, end": ("end", "on_policy"),
    f"on-policy, {ROWS_OF}": ("data", "on_policy"),
    f"kept, {ROWS_OF}": ("data", "kept_share"),
    "tokens, end": ("end", "tokens_plain"),
    "unprompted, end": ("end", "unprompted"),
    "well-formed, end": ("end", "well_formed"),
}
"""Column of the tables of arms -> where, and what."""
PANELS = (
    ("signal_accuracy", "signal accuracy"),
    ("on_policy", "log-prob of the pairs, plain view (nats/token)"),
    ("unprompted", "unprompted score"),
    ("tokens_plain", "tokens of a plain answer"),
)
PLOTS = {"primary": "claims.png", "length": "claims_length.png"}
HIGH = 0.9
"""The signal accuracy at which an earlier page divided the trainings; chosen with the results."""


def write_report(lines: Sequence[Line], page: Path) -> None:
    """Write the measurements beside the page, draw its plots, and make it from what was written."""
    page.with_suffix(".jsonl").write_text(
        "".join(json.dumps(_short(line)) + "\n" for line in lines), encoding="utf-8"
    )
    for study, name in PLOTS.items():
        draw(lines, study, page.with_name(name))
    write_page(page)


def write_page(page: Path) -> None:
    """Make the page from the two files beside it."""
    stored = page.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    changes = yaml.safe_load(page.with_name("claims_changes.yaml").read_text(encoding="utf-8"))
    page.write_text(page_text([json.loads(line) for line in stored], changes), encoding="utf-8")


def _short(line: Line) -> dict[str, Any]:
    """A line with five digits after the point."""
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}


def page_text(lines: Sequence[Line], changes: Sequence[Mapping[str, Any]]) -> str:
    """The page. Raises ValueError where a sentence of the template no longer follows."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True
    )
    chains, found = by_chain(lines), judged(lines)
    trained, primary = trainings(chains), [one for one in found if one.claim.study == "primary"]
    text = templates.get_template("claims_page.md.j2").render(
        grid=grid,
        changes=changes,
        level=f"{1 - ERROR:.0%}".replace("%", " %"),
        error=f"{ERROR:.0%}".replace("%", " %"),
        sure=sure,
        judged=found,
        that={(one.claim.text, one.at): one for one in primary},
        by_study={name: _pairs(found, name) for name in STUDIES},
        seeds={name: len(seeds) for name, (_, seeds, _) in STUDIES.items()},
        tables={name: arms_table(chains, name) for name in STUDIES if name != "reward"},
        columns=tuple(SHOWN),
        plots=PLOTS,
        chains=chains,
        effect=partial(effect, trained),
        high=HIGH,
        stops=stops(trained, StopRules()),
        lengths=lengths(chains),
        lengthened=sum(_lengthens(one) for one in trained),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def sure(condition: bool, sentence: str) -> str:
    """The sentence, whose condition must hold.

    Raises ValueError where it does not.
    """
    if not condition:
        raise ValueError(f"claims_page.md.j2: does not follow from the results: {sentence}")
    return sentence


def _pairs(found: Sequence[Judged], study: str) -> list[tuple[Judged, Judged | None]]:
    """(by the declared measure, by the changed one) of every claim of the study."""
    other = {one.claim: one for one in found if one.at == "data"}
    mine = [one for one in found if one.claim.study == study and one.at == "end"]
    return [(one, other.get(one.claim)) for one in mine]


# Tables that describe; nothing in them is tested


Chains = Mapping[str, Mapping[tuple[str, int], Line]]
"""Chain -> (on, trained) -> its measurement."""


def by_chain(lines: Sequence[Line]) -> Chains:
    """The chains of rounds; reward models are none."""
    found: dict[str, dict[tuple[str, int], Line]] = {}
    for line in lines:
        if line["study"] != "reward":
            found.setdefault(line["chain"], {})[line["on"], line["trained"]] = line
    return found


def arms_table(chains: Chains, study: str) -> list[tuple[str, str, list[Estimate]]]:
    """(checkpoint, arm, the shown metrics) for every arm; `start` before the first training."""
    points = {"end": ("held-out", ROUNDS), "data": ("round", ROUNDS - 1)}
    starts = {"end": ("held-out", 0), "data": ("round", 0)}
    groups: dict[tuple[str, str], dict[int, dict[str, Line]]] = {}
    for chain in chains.values():
        line = chain["held-out", ROUNDS]
        if line["study"] != study:
            continue
        place, seed = line["checkpoint"], line["seed"]
        ends = {name: chain[at] for name, at in points.items()}
        groups.setdefault((place, line["arm"]), {})[seed] = ends
        if "T=1" not in line["arm"]:
            first = {name: chain[at] for name, at in starts.items()}
            groups.setdefault((place, "start"), {})[seed] = first
    order = ["start", *(arm.name for arm in STUDIES[study][2])]
    keys = sorted(groups, key=lambda key: (key[0], order.index(key[1])))
    return [
        (
            *key,
            [
                estimate([_metric(at[where], name) for at in groups[key].values()])
                for where, name in SHOWN.values()
            ],
        )
        for key in keys
    ]


def _metric(line: Line, name: str) -> float:
    return float(line["kept"] / line["rows"] if name == "kept_share" else line[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training of a chain: its number from 1, the measurements of the chain's first rows, of
    the rows that it saw, and of what came after it, on other prompts."""

    number: int
    first: Line
    rows: Line
    after: Line

    @property
    def change(self) -> float:
        """Of the unprompted score."""
        return float(self.after["unprompted"] - self.rows["unprompted"])


def trainings(chains: Chains) -> list[Training]:
    """All of them, chain by chain."""
    found = []
    for chain in chains.values():
        points = [*(chain["round", number] for number in range(ROUNDS)), chain["held-out", ROUNDS]]
        found += [
            Training(number=number, first=points[0], rows=before, after=after)
            for number, (before, after) in enumerate(pairwise(points), start=1)
        ]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a number of trainings did to the unprompted score."""

    n: int
    better: int
    worse: int
    mean: float
    signal: tuple[float, float]
    """The lowest and the highest signal accuracy of their rows."""


def effect(
    trained: Sequence[Training],
    checkpoints: Collection[str],
    number: int | None = None,
    signal: tuple[float, float] = (0.0, 1.1),
) -> Effect:
    """Of the trainings from these checkpoints: those of this number, on rows whose signal accuracy
    lies in [low, high)."""
    found = [
        one
        for one in trained
        if one.rows["checkpoint"] in checkpoints
        and number in (None, one.number)
        and signal[0] <= one.rows["signal_accuracy"] < signal[1]
    ]
    changes = [one.change for one in found]
    signals = [one.rows["signal_accuracy"] for one in found]
    return Effect(
        n=len(found),
        better=sum(change > 0 for change in changes),
        worse=sum(change < 0 for change in changes),
        mean=fmean(changes) if changes else math.nan,
        signal=(min(signals, default=math.nan), max(signals, default=math.nan)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """What one limit of `stop`, at its default, would have done: of `asked` trainings that it can
    judge it prevents `prevented`, of which `rightly` made the policy worse; `missed` made it worse
    and were not prevented."""

    limit: float
    asked: int
    prevented: int
    rightly: int
    missed: int


def stops(trained: Sequence[Training], limits: StopRules) -> dict[str, Stopped]:
    """Limit of an iteration -> what it does, applied to the rows of the study."""
    rules: dict[str, Callable[[Training], bool]] = {
        "signal_accuracy": lambda one: one.rows["kept_accuracy"] < limits.signal_accuracy,
        "steered": lambda one: _metric(one.rows, "kept_share") < limits.steered,
        "gap": lambda one: min(one.rows["gap_good"], one.rows["gap_bad"]) < limits.gap,
        "length_growth": lambda one: (
            one.rows["tokens_plain"] / one.first["tokens_plain"] > limits.length_growth
        ),
    }
    found = {}
    for rule, passed in rules.items():
        asked = [one for one in trained if rule != "steered" or one.rows["arm"] != "T=1 all"]
        prevented = [one for one in asked if passed(one)]
        rightly = sum(one.change < 0 for one in prevented)
        found[rule] = Stopped(
            limit=getattr(limits, rule),
            asked=len(asked),
            prevented=len(prevented),
            rightly=rightly,
            missed=sum(one.change < 0 for one in asked) - rightly,
        )
    return found


def _lengthens(one: Training) -> bool:
    """Whether a training is the first of a rambling chain, and lengthens the plain answers."""
    is_first = one.number == 1 and one.rows["checkpoint"] == "rambling"
    return bool(is_first and one.after["tokens_plain"] > one.rows["tokens_plain"])


def lengths(chains: Chains) -> list[tuple[str, list[tuple[float, float]]]]:
    """(arm, mean tokens and mean share cut off after each number of trainings), rambling only."""
    lines = [line for chain in chains.values() for line in chain.values()]
    return [
        (
            arm,
            [
                (fmean(x["tokens_plain"] for x in at), fmean(x["cut_off"] for x in at))
                for at in points
            ],
        )
        for arm, points in _curves(lines, "length").items()
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
