"""`report A B`: runs side by side, and the same prompts' answers; the rounds of an iteration too.

A difference is of the last run against the first. Where both hold the same rows it is paired.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sso_data.core.errors import ConfigError
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.statistics import Estimate, difference, mean_of, wilson
from sso_data.filtering.filters import comparisons
from sso_data.filtering.ranking import margin
from sso_data.filtering.refilter import in_words
from sso_data.reporting.data import (
    BLOCK,
    Floats,
    Read,
    blocks,
    detail,
    edges_of,
    head_of,
    index,
    read,
    rounded,
    rows_at,
    tokens_of,
)
from sso_data.reporting.page import Reported, Rows, write_report
from sso_data.runs.columns import measures, representative
from sso_data.runs.files import write_atomic

MOST_EMBEDDED = 1000
"""Answers that the page of an iteration holds; `report` shows all."""

_TITLES = {
    "tokens": "length of {} (tokens)",
    "closeness": "{} below the own answer (nats/token)",
    "logp": "log-prob of {}, plain view (nats/token)",
    "gap": "gap of the {} view (nats/token)",
}
Table = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A run under the name that its column has."""

    name: str
    read: Read


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What stands around the runs: a title, lines above, and tables, curves, pictures below.

    `curves`: [{title, curves: [[label, [[x, y], ...]]]}]; `pictures`: [title, data URL].
    """

    title: str
    verdict: Sequence[str] = ()
    is_warning: bool = False
    tables: Sequence[Table] = ()
    last_tables: Sequence[Table] = ()
    curves: Sequence[dict[str, Any]] = ()
    pictures: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Rows that all of some runs hold: their `positions` [run, row]; `of` of them there are."""

    runs: Sequence[Named]
    positions: NDArray[np.intp]
    of: int

    def __len__(self) -> int:
        return int(self.positions.shape[1])

    def blocks(self) -> Iterator[tuple[list[str], list[str], list[Any]]]:
        """Yield (ids, heads, what the page shows of each run's row) of every block."""
        for start in range(0, len(self), BLOCK):
            places = self.positions[:, start : start + BLOCK]
            sides = [rows_at(one.read, at) for one, at in zip(self.runs, places, strict=True)]
            details = [
                [detail(row, one.read, int(place)) for row, place in zip(side, at, strict=True)]
                for one, side, at in zip(self.runs, sides, places, strict=True)
            ]
            ids, heads = [row.id for row in sides[0]], [head_of(row) for row in sides[0]]
            yield ids, heads, [list(one) for one in zip(*details, strict=True)]

    def columns(self) -> dict[str, Any]:
        """Return [run][row] what the page sorts and selects by."""
        found: dict[str, list[Any]] = defaultdict(list)
        for one, places in zip(self.runs, self.positions, strict=True):
            rows = one.read.scores.rows[places]
            found["reason"].append(one.read.decision.reason_code[places].tolist())
            found["margin"].append(rounded(margin(rows)))
            found["tokens_good"].append(rounded(tokens_of(rows, "good")))
            gaps = comparisons(rows)[:, :, 2]
            for side, name in enumerate(("gap_good", "gap_bad")):
                found[name].append(rounded(gaps[:, side]))
        return found


def joined(runs: Sequence[Named], most: int | None = None) -> Joined:
    """Return the rows that all of two or more runs hold, at most `most`, chosen by their ids."""
    if len(runs) < 2:
        return Joined(runs=runs, positions=np.empty((len(runs), 0), np.intp), of=0)
    keys = [one.read.scores.keys() for one in runs]
    common = reduce(np.intersect1d, keys)  # ascending: in the order of hashes
    places = []
    for those in keys:
        order = np.argsort(those)
        places.append(order[np.searchsorted(those, common[:most], sorter=order)])
    found = np.stack(places)
    return Joined(runs=runs, positions=found[:, np.argsort(found[0])], of=len(common))


def compare(
    runs: Sequence[Path],
    out: Path | None = None,
    *,
    single: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Reported:
    """Write the page of two or more runs into a new directory `out` (default: LAST-against-FIRST).

    Raises as `page.report`, and ConfigError where the same run is named twice.
    """
    if len({run.resolve() for run in runs}) < len(runs):
        raise ConfigError("the same run is named twice; name different ones")
    named = [Named(name=name, read=read(run)) for name, run in zip(_names(runs), runs, strict=True)]
    names = [one.name for one in named]
    first, last = (runs[at].resolve() for at in (0, -1))
    out = out or last.with_name(f"{last.name}-against-{first.name}")
    frame = Frame(title=f"{', '.join(names[:-1])} and {names[-1]}")
    return write_compared(
        named, joined(named), frame, out, single=single, overwrite=overwrite, progress=progress
    )


def write_compared(
    runs: Sequence[Named],
    same: Joined,
    frame: Frame,
    out: Path,
    *,
    single: bool,
    overwrite: bool,
    progress: Progress | None = None,
) -> Reported:
    """Write the page of runs and of the answers to the `same` prompts into a directory."""

    def content(add: Callable[[list[Any]], None]) -> dict[str, Any]:
        return _content(runs, same, frame, add, progress or NullProgress())

    return write_report(
        out, content, rows=len(same) * len(same.runs), single=single, overwrite=overwrite
    )


def write_page(runs: Sequence[Named], same: Joined, frame: Frame, file: Path) -> None:
    """Write the same as one file, which replaces another. Raises RunError."""
    rows = Rows(None)
    found = _content(runs, same, frame, rows.add, NullProgress())
    write_atomic(file, rows.page(found).encode())


def _content(
    runs: Sequence[Named],
    same: Joined,
    frame: Frame,
    add: Callable[[list[Any]], None],
    progress: Progress,
) -> dict[str, Any]:
    """Return what the page knows before a row is opened; `add` takes the blocks of rows."""
    progress.phase("reading rows")
    edges = edges_of(one.read for one in runs)
    known = []
    for one in runs:
        rows = (row for block in blocks(one.read) for row in block)
        known.append(index(one.read, rows, edges))
        progress.count(len(known), len(runs), "runs")
    ids, heads = [], []
    for some, starts, details in same.blocks():
        ids += some
        heads += starts
        add(details)
    return {
        "compared": [one.name for one in same.runs],
        "name": frame.title,
        "account": "",
        "verdict": list(frame.verdict),
        "is_warning": frame.is_warning,
        "notes": list(_notes(runs, same)),
        "tables": [*frame.tables, *_tables(runs, known), *frame.last_tables],
        "histograms": [_side_by_side(key, runs, known) for key in edges],
        "curves": list(frame.curves),
        "pictures": list(frame.pictures),
        "columns": {"id": ids, "head": heads, **same.columns()},
        "reasons": known[0]["reasons"] if known else [],
        "rows": len(same),
        "block": BLOCK,
    }


def _notes(runs: Sequence[Named], same: Joined) -> Iterator[str]:
    """Yield what a reader must know before the numbers."""
    if len({one.read.config.model_dump_json() for one in runs}) > 1:
        yield "The runs are decided by different filters: their kept rows passed different tests."
    for one in runs:
        missing = one.read.expected - one.read.account.done
        if missing:
            yield f"{one.name} is not finished: {missing} {one.read.account.unit} are not done yet."
    if len(same.runs) > 1 and not same.of:
        yield "They have no prompt in common: no answers stand side by side."
    elif len(same) < same.of:
        yield f"Answers to {len(same)} of the {same.of} prompts in common, chosen by their ids."


def _tables(runs: Sequence[Named], known: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """Yield the tables over the runs: overview, shares, principles, funnel, checks, judges."""
    if not runs:
        return
    names = [one.name for one in runs]
    yield {
        "title": "Runs",
        "heads": ["", *names],
        "rows": [
            ["policy", *(one["model"] for one in known)],
            ["accounting", *(one["account"] for one in known)],
            ["kept", *(f"{one['kept']} of {one['rows']}" for one in known)],
            ["filter", *(in_words(one.read.config) for one in runs)],
            ["the texts", *(one["verdict"] for one in known)],
        ],
    }
    yield _numbers(runs)
    yield _by_name(
        "By principle",
        "Rows kept of those that a principle steered; beside it the mean gaps of the good and the "
        "bad view (nats/token). Of twenty principles without a difference one shows one by chance.",
        names,
        [
            {
                one["name"]: (
                    one["kept"],
                    one["rows"],
                    " gap {} / {}".format(*map(_short, one["gaps"])),
                )
                for one in side["principles"]
            }
            for side in known
        ],
    )
    stages = [{one["reason"]: one for one in side["funnel"]} for side in known]
    yield {
        "title": "Funnel",
        "note": "Rows left after each test, and how many it dropped.",
        "heads": ["test", *names],
        "rows": [
            [reason, *(_stage(side.get(reason)) for side in stages)]
            for reason in dict.fromkeys(reason for side in stages for reason in side)
        ],
    }
    yield _by_name(
        "Checks of the pairs",
        "Kept rows that a check finds.",
        names,
        [
            {one["title"]: (len(one["rows"]), one["of"], "") for one in side["checks"]}
            for side in known
        ],
    )
    judged = [
        {f"{one['judge']}: {one['question']}": _judged(one) for one in side["judges"]}
        for side in known
    ]
    if any(judged):
        asked = dict.fromkeys(name for side in judged for name in side)
        yield {
            "title": "Judges",
            "note": "Share in which the first named is better (ties half), or the mean score.",
            "heads": ["", *names],
            "rows": [[name, *(side.get(name, "-") for side in judged)] for name in asked],
        }


def _numbers(runs: Sequence[Named]) -> Table:
    """Return shares and means with their intervals, and the last less the first."""
    sides = [_quantities(one.read) for one in runs]
    first, last = sides[0], sides[-1]
    common = np.intersect1d(first["kept (%)"].keys, last["kept (%)"].keys)
    least = min(len(first["kept (%)"].keys), len(last["kept (%)"].keys))
    is_paired = len(runs) > 1 and len(common) > 1 and 2 * len(common) >= least
    how = (
        f"over the {len(common)} rows in common, paired"
        if is_paired
        else "rows of the two taken as independent"
    )
    change = [f"{runs[-1].name} against {runs[0].name}"] if len(runs) > 1 else []
    rows = []
    for name, values in last.items():
        cells = [_interval(side[name].estimate) for side in sides]
        found = values.less(first[name], is_paired=is_paired) if change else None
        rows.append([name, *cells, *([found.in_words if found else "-"] * len(change))])
    return {
        "title": "Shares and means",
        "note": "With 95 % intervals, over all rows but for those that were decided early"
        + (f". The last column: {how}." if change else "."),
        "heads": ["", *(one.name for one in runs), *change],
        "rows": rows,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """One value a row, with the keys of the rows; a share (of zeros and ones) counts in percent."""

    keys: NDArray[np.uint64]
    values: Floats
    is_share: bool = False

    @property
    def estimate(self) -> Estimate | None:
        """The mean; of a share with Wilson's interval."""
        finite = self.values[np.isfinite(self.values)]
        if not self.is_share:
            return mean_of(finite.tolist())
        return _share(finite)

    def less(self, before: "_Values", *, is_paired: bool) -> Estimate | None:
        """Return this mean less an earlier one, paired over the rows in common or not."""
        phi, after = 0.0, self
        if is_paired:
            _, here, there = np.intersect1d(self.keys, before.keys, return_indices=True)
            a, b = self.values[here], before.values[there]
            both = np.isfinite(a) & np.isfinite(b)
            a, b = a[both], b[both]
            if not self.is_share:
                return mean_of((a - b).tolist())
            phi = float(np.corrcoef(a, b)[0, 1]) if len(a) and np.ptp(a) and np.ptp(b) else 0.0
            after, before = (replace(self, values=some) for some in (a, b))
        found, old = after.estimate, before.estimate
        return difference(found, old, phi) if found and old else None


def _quantities(of: Read) -> dict[str, _Values]:
    """Return what is compared of a run, by name."""
    scores, kept = of.scores, of.decision.reason_code == 0
    found = {"kept (%)": _Values(keys=scores.keys(), values=kept.astype(np.float64), is_share=True)}
    rows = representative(scores.rows)
    rows = rows[np.argsort(rows["key"], kind="stable")]
    differences = comparisons(rows)
    known = np.isfinite(differences)

    over, every = differences > 0, known.all(axis=(1, 2))
    shares: dict[str, tuple[Any, Any]] = {
        "steered: contrast": (over[:, :, 2].all(axis=1), every),
        "steered: chain": (over.all(axis=(1, 2)), every),
    }
    for side, response in enumerate(("y+", "y-")):
        for place, pair in enumerate(("own > plain", "plain > opposite", "own > opposite")):
            shares[f"{response}: {pair}"] = over[:, side, place], known[:, side, place]
    for name, (holds, is_known) in shares.items():
        values = np.where(is_known, holds, np.nan)
        found[f"{name} (%)"] = _Values(keys=rows["key"], values=values, is_share=True)
    for key, values in measures(rows).items():
        what, _, side_of = key.partition("_")
        found[_TITLES[what].format(side_of)] = _Values(keys=rows["key"], values=values)
    return found


def _by_name(
    title: str, note: str, names: Sequence[str], sides: Sequence[dict[str, tuple[int, int, str]]]
) -> Table:
    """Return a table of counts: a side holds (found, of, what stands behind) by name."""
    rows = []
    for name in dict.fromkeys(name for side in sides for name in side):
        counts = [side.get(name) for side in sides]
        shares = [_part(one[0], one[1]) if one else None for one in counts]
        cells = [
            f"{one[0]} of {one[1]}: {_interval(share)} %{one[2]}" if one and share else "-"
            for one, share in zip(counts, shares, strict=True)
        ]
        change = difference(shares[-1], shares[0]) if shares[-1] and shares[0] else None
        rows.append([name, *cells, *([change.in_words if change else "-"] * (len(names) > 1))])
    change_head = [f"{names[-1]} against {names[0]} (%)"] if len(names) > 1 else []
    return {"title": title, "note": note, "heads": ["", *names, *change_head], "rows": rows}


def _side_by_side(
    key: str, runs: Sequence[Named], known: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return a histogram of every run, in the same bins."""
    found = [next(one for one in side["histograms"] if one["key"] == key) for side in known]
    return {
        "title": found[0]["title"],
        "runs": [one | {"title": run.name} for one, run in zip(found, runs, strict=True)],
    }


def _part(found: int, of: int) -> Estimate | None:
    """A share in percent with Wilson's interval; None of nothing."""
    return Estimate(found / of, *wilson(found / of, of)).times(100) if of else None


def _share(values: Floats) -> Estimate | None:
    return _part(int(values.sum()), len(values))


def _interval(one: Estimate | None) -> str:
    return f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}]" if one else "-"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _stage(stage: dict[str, Any] | None) -> str:
    return f"{stage['left']} ({stage['dropped']} dropped)" if stage else "-"


def _judged(one: dict[str, Any]) -> str:
    """Return the cell of a judge: rates over all and over kept rows, or a mean."""
    parts = [
        f"{100 * value:.3g} [{100 * low:.3g}, {100 * high:.3g}] % of {n}{which}"
        for (value, low, high, n), which in zip(one["rates"], ("", " kept"), strict=False)
        if n
    ]
    return ", ".join(parts) or f"mean {one['mean']:.3g} of {one['rows']}"


def _names(runs: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart."""
    parts = [run.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names
