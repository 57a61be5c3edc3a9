"""`filter --sweep`: how many rows other steering tests and thresholds would keep."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sso_data.config.run import FilterConfig
from sso_data.filtering.filters import SLACK, STEERED, decide, distance, smaller_gap
from sso_data.runs.columns import Rows, representative
from sso_data.runs.journal import load_scores

SWEPT = ("preset", "steered", "closeness", "gap", "keep_best", "per_prompt")
"""Keys of the filter that a sweep varies, or counts before."""
_CLOSENESS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5)
_GAP = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Rows kept, `kept[test][closeness][gap]`; closeness None is any. Thresholds in nats/token.

    `rows`: the rows counted; where not everything was asked for of each of them, they are those of
    the run that are complete by design. `sound`: the rows whose texts and scores pass; `steered`:
    those of them that pass the test, and reach the thresholds; `unsound`: the others by reason. All
    is counted before the rankings, `per_prompt` and `keep_best`.
    """

    rows: int
    sound: int
    unsound: Mapping[str, int]
    steered: Mapping[str, int]
    closeness: Sequence[float | None]
    gap: Sequence[float]
    kept: Mapping[str, Sequence[Sequence[int]]]

    def to_json(self) -> dict[str, Any]:
        """Return its form for `--json`."""
        return asdict(self)


def sweep_run(run: Path, config: FilterConfig) -> Sweep:
    """Return the sweep over a run's rows, by its side file. Raises RunError."""
    return sweep(load_scores(run, dry=True).rows, config)


def sweep(rows: Rows, config: FilterConfig) -> Sweep:
    """Return the rows kept on a grid around the thresholds of `config`, which is in the grid."""
    rows = representative(rows)
    unranked = {"preset": "none", "keep_best": 1.0, "per_prompt": "all"}
    texts = config.model_copy(update=unranked)
    by_texts = decide(rows, texts)
    sound = rows[by_texts.kept]
    closeness = [*_with(_CLOSENESS, config.closeness), None]
    gap = _with(_GAP, config.gap)
    steered, kept = {}, {}
    for test, checks in STEERED.items():
        left = sound
        for check in checks:
            left = left[~check.fails(left, {})]
        far, narrow = distance(left, config.closeness_offset), smaller_gap(left)
        steered[test] = len(left)
        kept[test] = [
            [
                int(np.count_nonzero((far <= most + SLACK) & (narrow >= least - SLACK)))
                for least in gap
            ]
            for most in (np.inf if one is None else one for one in closeness)
        ]
    return Sweep(
        rows=len(rows),
        sound=len(sound),
        unsound={reason: count for reason, count in by_texts.dropped.items() if count},
        steered=steered,
        closeness=closeness,
        gap=gap,
        kept=kept,
    )


def _with(grid: Sequence[float], threshold: float | str) -> list[float]:
    """Return the grid with a threshold in its place; a quantile depends on the other tests."""
    return sorted({*grid, *([] if isinstance(threshold, str) else [float(threshold)])})
