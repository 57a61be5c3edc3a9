"""Rows of a run to look at: by id, reason or principle, sorted, with the filter's decision."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.config.run import FilterConfig
from sso_data.core.errors import ConfigError, InputError, RunError, nearest
from sso_data.core.records import Row
from sso_data.filtering.filters import REASONS, Decision, distance, smaller_gap
from sso_data.filtering.measures import Outcome, outcomes_of
from sso_data.filtering.ranking import margin
from sso_data.filtering.refilter import decide_run, standing_config
from sso_data.runs.columns import Rows, num_tokens
from sso_data.runs.journal import Scores, load_scores
from sso_data.runs.run import read_failures, require_run

SORTS: Mapping[str, Callable[[Rows, FilterConfig], NDArray[Any]]] = {
    "margin": lambda rows, _: margin(rows),
    "gap": lambda rows, _: smaller_gap(rows),
    "closeness": lambda rows, config: distance(rows, config.closeness_offset),
    "length": lambda rows, _: num_tokens(rows, "good").astype(np.float64),
}
"""What rows are sorted by, the largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One row, why it was dropped (None: kept), and every check on it."""

    row: Row
    reason: str | None
    outcomes: tuple[Outcome, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the row as in the journal, with the decision about it."""
        outcomes = [outcome.to_json() for outcome in self.outcomes]
        return self.row.to_json() | {"reason": self.reason, "checks": outcomes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows chosen, of `matching` that were asked for among the `rows` of the run.

    `decided`: how many of the run's rows are kept, and dropped by each reason, as a phrase.
    """

    chosen: tuple[Chosen, ...]
    matching: int
    rows: int
    decided: str


def select(
    run: Path,
    ids: Sequence[str] = (),
    *,
    reason: str | None = None,
    principle: str | None = None,
    sort: str | None = None,
    number: int = 3,
) -> Selection:
    """Return rows of a run: those of `ids`, or the first `number` that match, in `sort`'s order.

    The decision is that which stands. `ids` may be starts of ids, or the user's own. Raises
    RunError where the run is empty or cannot be read or decided, ConfigError for an unknown reason,
    principle or sort, InputError for an id that no row has.
    """
    require_run(run)
    if reason is not None and reason not in REASONS:
        raise ConfigError(f"--reason {reason}: must be one of {', '.join(REASONS)}")
    if sort is not None and sort not in SORTS:
        raise ConfigError(f"--sort {sort}: must be one of {', '.join(SORTS)}")
    scores = load_scores(run, dry=True)
    if not len(scores):
        raise RunError(f"{run}: holds no rows yet")
    config = standing_config(run, None, model=None).filter
    decision = decide_run(run, scores, config)
    places: NDArray[np.intp] = np.arange(len(scores))
    if ids:
        places = np.array(_places_of(run, scores, ids), np.intp)
    if reason is not None:
        places = places[decision.reason_code[places] == REASONS.index(reason)]
    if principle is not None:
        lines = zip(places.tolist(), _parsed(scores, np.sort(places)), strict=True)
        places = np.array([at for at, line in lines if _has(line, principle)], np.intp)
        if not len(places):
            _refuse_unknown(principle, scores)
    matching = len(places)
    if sort is not None:
        values = SORTS[sort](scores.rows[places], config)
        places = places[np.argsort(-values, kind="stable")]  # NaN comes last
    if not ids:
        places = places[:number]
    chosen = tuple(_chosen(scores, places, config, decision))
    counts = {"kept": len(decision.kept), **decision.dropped}
    return Selection(
        chosen=chosen,
        matching=matching,
        rows=len(scores),
        decided=", ".join(f"{count} {reason}" for reason, count in counts.items() if count),
    )


def _chosen(
    scores: Scores, places: NDArray[np.intp], config: FilterConfig, decision: Decision
) -> Iterator[Chosen]:
    """Yield the rows at `places`, in that order."""
    ascending = np.sort(places)
    lines = dict(zip(ascending.tolist(), _parsed(scores, ascending), strict=True))
    for place in places.tolist():
        try:
            row = Row.from_json(lines[place])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"row {lines[place].get('id')}: not readable: {error}") from error
        outcomes = outcomes_of(scores.rows[place : place + 1], config, decision.thresholds)
        yield Chosen(row=row, reason=decision.reason(place), outcomes=outcomes)


def _parsed(scores: Scores, places: NDArray[np.intp]) -> Iterator[dict[str, Any]]:
    """Yield the journal's lines at ascending `places`."""
    return (orjson.loads(line) for line in scores.lines(places))


def _has(line: Mapping[str, Any], principle: str) -> bool:
    names = line.get("principles")
    return isinstance(names, list) and principle.lower() in (str(name).lower() for name in names)


def _refuse_unknown(principle: str, scores: Scores) -> None:
    """Raise ConfigError for a principle that steered no row at all."""
    lines = _parsed(scores, np.arange(len(scores)))
    names = sorted({str(name) for line in lines for name in line.get("principles") or ()})
    if principle.lower() not in map(str.lower, names):
        there = f"rows were steered by {', '.join(names)}" if names else "no row was steered"
        raise ConfigError(
            f"--principle {principle}: steered no row{nearest(principle, names)}; {there}"
        )


def _places_of(run: Path, scores: Scores, ids: Sequence[str]) -> list[int]:
    """Return the positions of the rows that `ids` name, ascending; a start names all it fits."""
    found: set[int] = set()
    missing = set(ids)
    for place, line in enumerate(_parsed(scores, np.arange(len(scores)))):
        own = {str(line.get("source_id"))} if line.get("source_id") is not None else set()
        for wanted in ids:
            if str(line.get("id")).startswith(wanted) or wanted in own:
                found.add(place)
                missing.discard(wanted)
    for wanted in sorted(missing):
        for failure in read_failures(run).values():
            if failure.id.startswith(wanted) or failure.source_id == wanted:
                raise InputError(
                    f"{wanted}: is no row, its prompt failed: {failure.stage}, {failure.reason}: "
                    f"{failure.detail}"
                )
        raise InputError(f"{wanted}: no row of {run} has an id that starts so, or this source_id")
    return sorted(found)
