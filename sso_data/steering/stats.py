"""`principles stats`: which principles of a run give pairs, and how far their two sides pull."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sso_data.core.errors import RunError
from sso_data.core.records import JsonRow
from sso_data.runs.columns import mean_logp, row_key
from sso_data.runs.decided import read_pairs
from sso_data.runs.run import require_run
from sso_data.runs.scores import Scores, load_scores

_NUMBERS = ("gap_good", "gap_bad", "below_chosen", "below_rejected")


@dataclass(slots=True)
class _Sums:
    """Rows of one group, pairs among them, and sums over those `scored`, which have all numbers."""

    rows: int = 0
    kept: int = 0
    scored: int = 0
    totals: Any = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipleStats:
    """One principle of a run, or one wording of it, over all rows that it steered.

    Means in nats/token over the rows with all scores: `gap_*` is how much likelier a response is
    under its own view than under the opposite one; `below_*` how far a response lies under the
    policy's own answer, seen under the plain view. `wording` is "main", "paraphrase 2" or who wrote
    the text; None for all wordings together.
    """

    principle: str
    wording: str | None
    rows: int
    kept: int
    gap_good: float | None
    gap_bad: float | None
    below_chosen: float | None
    below_rejected: float | None

    @property
    def kept_share(self) -> float:
        """Pairs as a share of rows."""
        return self.kept / self.rows if self.rows else 0.0


def principle_stats(run: Path, *, wordings: bool = False) -> list[PrincipleStats]:
    """The statistics of every principle, the most kept first; those of each wording on request.

    Raises RunError when the run has no rows, or no pairs were decided on yet.
    """
    require_run(run)
    kept = {row_key(str(row["id"])) for _, row in read_pairs(run)}
    scores = load_scores(run, dry=True)
    if not len(scores):
        raise RunError(f"{run}: holds no rows yet")
    numbers = _numbers(scores)
    groups: dict[tuple[str, str | None], _Sums] = defaultdict(_Sums)
    lines = scores.lines(np.arange(len(scores)))
    for line, values, key in zip(lines, numbers, scores.keys().tolist(), strict=True):
        row = orjson.loads(line)
        for group in _groups_of(row, wordings=wordings):
            _add(groups[group], values, is_kept=key in kept)
    found = [_stats(name, wording, sums) for (name, wording), sums in groups.items()]
    whole = {one.principle: one.kept_share for one in found if one.wording is None}
    return sorted(found, key=lambda one: (-whole[one.principle], one.principle, one.wording or ""))


def _numbers(scores: Scores) -> Any:
    """One row of _NUMBERS for each row of the run."""
    rows = scores.rows

    def mean(seen: Any, drawn: Any) -> Any:
        return mean_logp(rows, seen, drawn)

    return np.stack(
        [
            mean("good", "good") - mean("bad", "good"),
            mean("bad", "bad") - mean("good", "bad"),
            mean("plain", "plain") - mean("plain", "good"),
            mean("plain", "plain") - mean("plain", "bad"),
        ],
        axis=1,
    )


def _groups_of(row: JsonRow, *, wordings: bool) -> Iterator[tuple[str, str | None]]:
    """The principles of a row, and their wordings."""
    features = row["principles"]
    writers = row.get("written_by") or [""] * len(features)
    goods = row.get("paraphrase_good") or [0] * len(features)
    bads = row.get("paraphrase_bad") or [0] * len(features)
    for feature, writer, good, bad in zip(features, writers, goods, bads, strict=True):
        yield feature, None
        if wordings:
            same = good if good == bad else f"{good}/{bad}"
            text = f"paraphrase {same}" if good or bad else "main"
            yield feature, f"by {writer}" if writer not in ("", "catalogue") else text


def _add(sums: _Sums, values: Any, *, is_kept: bool) -> None:
    sums.rows += 1
    sums.kept += is_kept
    if np.isfinite(values).all():
        sums.scored += 1
        sums.totals = sums.totals + values


def _stats(name: str, wording: str | None, sums: _Sums) -> PrincipleStats:
    means = sums.totals / sums.scored if sums.scored else np.full(len(_NUMBERS), math.nan)
    values = {
        number: float(value) if math.isfinite(value) else None
        for number, value in zip(_NUMBERS, means, strict=True)
    }
    return PrincipleStats(principle=name, wording=wording, rows=sums.rows, kept=sums.kept, **values)
