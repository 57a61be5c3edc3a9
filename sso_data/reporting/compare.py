"""`report A B`: runs side by side, and the same prompts' answers; the rounds of an iteration too.

A difference is of the last run against the first. Where both hold the same rows it is paired.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sso_data.core.errors import ConfigError
from sso_data.core.paths import real_path
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import Row
from sso_data.core.statistics import Estimate, difference, mean_of, wilson
from sso_data.filtering.filters import comparisons
from sso_data.filtering.ranking import margin
from sso_data.filtering.refilter import in_words
from sso_data.reporting.checks import fewest_alike
from sso_data.reporting.data import (
    BLOCK,
    Edges,
    Floats,
    Read,
    blocks,
    details,
    edges_of,
    head_of,
    index,
    read,
    rounded,
    rows_at,
    tokens_of,
)
from sso_data.reporting.made import Texts, differing, differing_texts, facts, note_texts
from sso_data.reporting.page import Add, Reported, write_report
from sso_data.runs.columns import measures, representative

_TITLES = {
    "tokens": "length of {} (tokens)",
    "closeness": "closeness of {} (nats/token)",
    "logp": "log-prob of {}, plain view (nats/token)",
    "gap": "gap of the {} view (nats/token)",
}
Runs = Mapping[str, Read]
"""Runs by the names of their columns, in order."""
Table = dict[str, Any]
_MOST_UNFOLDED = 12
_APART = 5
"""Runs whose values lie in less than one n-th of all runs' range have axes of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What stands around the runs: a title, lines above, and tables, curves, pictures.

    `curves`: [{title, curves: [[label, [[x, y], ...]]]}]; `pictures`: [title, data URL].
    """

    name: str
    verdict: Sequence[str] = ()
    is_warning: bool = False
    curves: Sequence[dict[str, Any]] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[str, str]] = ()
    last_tables: Sequence[Table] = ()


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Rows that all of some runs hold: their `positions` [run, row]; there are `of` of them."""

    runs: Runs
    positions: NDArray[np.intp]
    of: int

    def __len__(self) -> int:
        return int(self.positions.shape[1])

    def hand_over(self, add: Add) -> dict[str, Any]:
        """Hand over blocks of rows, one of each run; returns columns [run][row] and ids, heads."""
        found: dict[str, list[Any]] = defaultdict(list)
        for start in range(0, len(self), BLOCK):
            sides = []
            for one, places in zip(self.runs.values(), self.positions, strict=True):
                at = places[start : start + BLOCK]
                rows = rows_at(one, at)
                sides.append(details(one, at.tolist(), rows))
                if len(sides) == 1:
                    found["id"] += [row.id for row in rows]
                    found["head"] += [head_of(row) for row in rows]
            add(list(zip(*sides, strict=True)))
        for one, places in zip(self.runs.values(), self.positions, strict=True):
            rows_np = one.scores.rows[places]
            gaps = comparisons(rows_np)[:, :, 2]
            found["reason"].append(one.decision.reason_code[places].tolist())
            found["margin"].append(rounded(margin(rows_np)))
            found["tokens_good"].append(rounded(tokens_of(rows_np, "good")))
            found["gap_good"].append(rounded(gaps[:, 0]))
            found["gap_bad"].append(rounded(gaps[:, 1]))
        return found


def joined(runs: Runs, most: int | None = None) -> Joined:
    """Return the rows that all of two or more runs hold, at most `most`, chosen by their ids."""
    if len(runs) < 2:
        return Joined(runs=runs, positions=np.empty((len(runs), 0), np.intp), of=0)
    keys = [one.scores.keys() for one in runs.values()]
    common = reduce(np.intersect1d, keys)  # ascending: in the order of hashes
    orders = [np.argsort(those) for those in keys]
    places = np.stack(
        [
            order[np.searchsorted(those, common[:most], sorter=order)]
            for those, order in zip(keys, orders, strict=True)
        ]
    )
    return Joined(runs=runs, positions=places[:, np.argsort(places[0])], of=len(common))


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
    parts = [real_path(run).parts for run in runs]
    if len(set(parts)) < len(parts):
        raise ConfigError("the same run is named twice; name different ones")
    depth = next(n for n in range(1, 1000) if len({part[-n:] for part in parts}) == len(parts))
    names = ["/".join(part[-depth:]) for part in parts]  # the shortest ends that tell them apart
    found = {name: read(run) for name, run in zip(names, runs, strict=True)}
    same = joined(found)
    name = f"{names[-1]}-against-{names[0]}".replace("/", "-")
    return write_report(
        out or real_path(runs[-1]).with_name(name),
        partial(contents, found, same, Frame(name=" and ".join(names)), progress=progress),
        rows=len(same) * len(names),
        single=single,
        overwrite=overwrite,
    )


def contents(
    runs: Runs, same: Joined, frame: Frame, add: Add, progress: Progress | None = None
) -> dict[str, Any]:
    """Return what the page knows before a row is opened; `add` takes the blocks of `same` rows."""
    told = progress or NullProgress()
    told.phase("reading rows")
    known: list[dict[str, Any]] = []
    texts: list[Texts] = [{} for _ in runs]
    for one, edges, found in zip(runs.values(), _axes(runs.values()), texts, strict=True):
        known.append(index(one, _noting(one, found), edges))
        told.count(len(known), len(runs), "runs")
    return {
        **asdict(frame),
        "compared": list(same.runs),
        "notes": list(_notes(runs, same)),
        "tables": [*frame.tables, *(_tables(runs, known, texts) if runs else ())],
        "histograms": [list(same) for same in zip(*(s["histograms"] for s in known), strict=True)],
        "runs": list(runs),
        "columns": same.hand_over(add),
        "reasons": known[0]["reasons"] if known else [],
        "rows": len(same),
        "block": BLOCK,
    }


def _noting(of: Read, texts: Texts) -> Iterator[Row]:
    """Yield every row of a run; `texts` takes those of their principles."""
    for block in blocks(of):
        for row in block:
            note_texts(row, texts)
            yield row


def _axes(runs: Collection[Read]) -> list[Edges]:
    """Return the edges of each run's histograms: the same, unless one would fill a few bins of all.

    Then each run has its own.
    """
    own, shared = [edges_of([one]) for one in runs], edges_of(runs)
    apart = {
        key
        for side in own
        for key, edges in side.items()
        if _APART * np.ptp(edges) < np.ptp(shared[key])
    }
    return [{**shared, **{key: side[key] for key in apart & side.keys()}} for side in own]


def _notes(runs: Runs, same: Joined) -> Iterator[str]:
    """Yield what a reader must know before the numbers."""
    if len({one.config.model_dump_json() for one in runs.values()}) > 1:
        yield "The runs are decided by different filters: their kept rows passed different tests."
    for name, one in runs.items():
        if missing := one.expected - one.account.done:
            yield f"{name} is not finished: {missing} {one.account.unit} are not done yet."
    if len(same.runs) > 1 and not same.of:
        yield "They have no prompt in common: no answers stand side by side."
    elif len(same) < same.of:
        yield f"Answers to {len(same)} of the {same.of} prompts in common, chosen by their ids."


def _tables(runs: Runs, known: Sequence[dict[str, Any]], texts: Sequence[Texts]) -> Iterator[Table]:
    """Yield the tables: overview, settings, shares, principles, funnel, checks, judges."""
    heads = ["", *runs]
    change = [f"{heads[-1]} against {heads[1]}"] if len(runs) > 1 else []
    rows = [[name, *(side[name.split()[0]] for side in known)] for name in ("model", "account")]
    rows.append(["filter", *(in_words(one.config) for one in runs.values())])
    rows.append(["the texts", *(side["verdict"] for side in known)])
    yield {"title": "Runs", "heads": heads, "rows": rows}
    if len(runs) > 1:
        yield from _settings(runs, texts)
    how, rows = _numbers(runs)
    yield {
        "title": "Shares and means",
        "note": f"95 % intervals; all rows, but for those that were decided early. {how}",
        "heads": [*heads, *change],
        "rows": rows,
    }
    found = [
        {one["name"]: (one["kept"], one["rows"], one["gaps"]) for one in side["principles"]}
        for side in known
    ]
    yield {
        "title": "By principle",
        "note": "Rows kept of those that a principle steered, in percent, and the mean gaps of the "
        "good and the bad view (nats/token). Of twenty principles, chance shows a difference of "
        "one. Rows are taken as independent.",
        "heads": [*heads, *change],
        "rows": list(_counted(found)),
    }
    stages = [{one["reason"]: one for one in side["funnel"]} for side in known]
    yield {
        "title": "Funnel",
        "note": "Rows left after each test, and how many it dropped.",
        "heads": ["test", *runs],
        "rows": [
            [
                name,
                *(
                    f"{s[name]['left']} ({s[name]['dropped']})" if name in s else "-"
                    for s in stages
                ),
            ]
            for name in dict.fromkeys(name for side in stages for name in side)
            if any(name in side["stages"] for side in known)
        ],
    }
    if any(side["kept"] for side in known):
        yield _checks(known, [*heads, *change])
    judged = [{f"{j['judge']}: {j['question']}": j for j in side["judges"]} for side in known]
    if any(judged):
        yield {
            "title": "Judges",
            "note": "Percent in which the first named is better (ties half), of all and of kept "
            "rows, or the mean score.",
            "heads": heads,
            "rows": [
                [name, *(_judged(side[name]) if name in side else "-" for side in judged)]
                for name in dict.fromkeys(name for side in judged for name in side)
            ],
        }


def _settings(runs: Runs, texts: Sequence[Texts]) -> Iterator[Table]:
    """Yield the table of what was set to other values, and that of principles with other texts."""
    rows = list(differing([facts(one.manifest, one.whole) for one in runs.values()]))
    note = "Configuration keys, fingerprints of contents, versions and sources."
    same = "None: configuration, contents, versions and sources are the same."
    yield {
        "title": "Settings that differ",
        "note": note if rows else same,
        "heads": ["", *runs],
        "rows": rows,
    }
    if rows := list(differing_texts(texts)):
        yield {
            "title": "Principle texts that differ",
            "note": "Of those that the rows of several runs hold.",
            "heads": ["", *runs],
            "rows": rows,
            "folded": len(rows) > _MOST_UNFOLDED,
        }


def _checks(known: Sequence[dict[str, Any]], heads: Sequence[str]) -> Table:
    """Return the table of what checks find in any run; of an opening that is not told, the most."""
    found = [
        {c["title"]: (len(c["rows"]), c["of"], None) for c in side["checks"]} for side in known
    ]
    none = [name for name in found[0] if not any(side.get(name, (0,))[0] for side in found)]
    seen = [{name: of for name, of in side.items() if name not in none} for side in found]
    rows = list(_counted(seen))
    for row in rows:
        for place, side in enumerate(known, start=1):
            if row[place] == "-" and " opens with " in row[0] and side["kept"]:
                row[place] = f"under {fewest_alike(side['kept'])} of {side['kept']}"
    return {
        "title": "Checks of the pairs",
        "note": "Kept rows that a check finds, in percent."
        + f" Found in none: {'; '.join(none)}." * bool(none),
        "heads": heads,
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
        return _percent(int(finite.sum()), len(finite)) if self.is_share else mean_of(finite)

    def less(self, before: "_Values", *, is_paired: bool) -> str:
        """Return this mean less an earlier one in words, paired over the rows in common or not."""
        phi, after = 0.0, self
        if is_paired:
            _, here, there = np.intersect1d(self.keys, before.keys, return_indices=True)
            a, b = self.values[here], before.values[there]
            both = np.isfinite(a) & np.isfinite(b)
            a, b = a[both], b[both]
            if not self.is_share:
                change = mean_of(a - b)
                return change.in_words if change else "-"
            phi = float(np.corrcoef(a, b)[0, 1]) if len(a) and np.ptp(a) and np.ptp(b) else 0.0
            after, before = (replace(self, values=some) for some in (a, b))
        return _change(after.estimate, before.estimate, phi)


def _numbers(runs: Runs) -> tuple[str, list[list[str]]]:
    """Return how the last run is compared with the first, and the rows of the table."""
    sides = [_quantities(one) for one in runs.values()]
    first, last = (sides[at]["kept (%)"].keys for at in (0, -1))
    common = len(np.intersect1d(first, last))
    is_paired = common > 1 and 2 * common >= min(len(first), len(last))
    how = f"the {common} rows in common, paired" if is_paired else "rows taken as independent"
    rows = []
    for name, values in sides[-1].items():
        rows.append([name, *(_interval(side[name].estimate) for side in sides)])
        if len(runs) > 1:
            rows[-1].append(values.less(sides[0][name], is_paired=is_paired))
    return f"Last column: {how}." if len(runs) > 1 else "", rows


def _quantities(of: Read) -> dict[str, _Values]:
    """Return what is compared of a run, by name."""
    kept = (of.decision.reason_code == 0).astype(np.float64)
    found = {"kept (%)": _Values(keys=of.scores.keys(), values=kept, is_share=True)}
    rows = representative(of.scores.rows)
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


def _counted(sides: Sequence[Mapping[str, tuple[int, int, Any]]]) -> Iterator[list[str]]:
    """Yield rows of a table of counts: a side holds (found, of, two gaps or None) by name."""
    for name in dict.fromkeys(name for side in sides for name in side):
        cells, shares = [], []
        for side in sides:
            found, of, gaps = side.get(name, (0, 0, None))
            shares.append(_percent(found, of))
            behind = "; gaps {} / {}".format(*map(_short, gaps)) if gaps else ""
            cells.append(f"{found} of {of}: {_interval(shares[-1])}{behind}" if of else "-")
        change = [_change(shares[-1], shares[0])] if len(sides) > 1 else []
        yield [name, *cells, *change]


def _percent(found: int, of: int) -> Estimate | None:
    """A share with Wilson's interval; None of nothing."""
    return Estimate(found / of, *wilson(found / of, of)).times(100) if of else None


def _change(after: Estimate | None, before: Estimate | None, phi: float = 0.0) -> str:
    return difference(after, before, phi).in_words if after and before else "-"


def _interval(one: Estimate | None) -> str:
    return f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}]" if one else "-"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _judged(one: dict[str, Any]) -> str:
    """Return the cell of a judge: rates over all and over kept rows, or a mean."""
    rates = [
        f"{which}of {n}: {_interval(Estimate(*rate).times(100))}"
        for which, (*rate, n) in zip(("", "kept, "), one["rates"], strict=False)
        if n
    ]
    return "; ".join(rates) or f"mean {_short(one['mean'])} of {one['rows']}"
