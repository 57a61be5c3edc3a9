"""Ranking by margin: the best share of the rows that pass, and what it does to their lengths."""

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sso_data.core.records import SIDE_OF
from sso_data.core.statistics import spearman
from sso_data.runs.columns import Rows, gap, mean_logp, num_tokens

_STRATA = 5
_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What ranking by margin keeps of the rows that pass everything else, and how long they are.

    `tokens_all`, `tokens_kept`: mean tokens by side. `spearman`: of the margin with the tokens of
    y+. `matched`: the same for a ranking within each fifth of the rows by tokens of y+, where
    lengths are equal by design: the share of the kept rows that it keeps as well, and its tokens.
    """

    rows: int
    kept: int
    tokens_all: dict[str, float]
    tokens_kept: dict[str, float]
    spearman: float | None
    matched_share: float | None
    tokens_matched: dict[str, float]

    def __str__(self) -> str:
        """Two sentences: the lengths of kept and of all rows, and the ranking at equal lengths."""
        sides = ", ".join(
            f"{side} {self.tokens_kept[side]:.1f} of {self.tokens_all[side]:.1f}"
            for side in self.tokens_all
        )
        tied = "-" if self.spearman is None else f"{self.spearman:.2f}"
        same = "-" if self.matched_share is None else f"{self.matched_share:.0%}"
        return (
            f"ranked by margin: {self.kept} of {self.rows} rows, mean tokens of kept and all: "
            f"{sides}; Spearman of margin with tokens of chosen {tied}. Ranked within fifths of "
            f"equal length instead: {same} of the same rows, chosen "
            f"{self.tokens_matched['chosen']:.1f} tokens"
        )

    def to_json(self) -> dict[str, Any]:
        """Return its form in filter.json."""
        return asdict(self)


def margin(rows: Rows) -> NDArray[np.float64]:
    """Return the sum of the two gaps [row], nats/token."""
    mean = partial(mean_logp, rows)
    total: NDArray[np.float64] = gap(mean, "good") + gap(mean, "bad")
    return total


def best(rows: Rows, share: float) -> NDArray[np.bool_]:
    """Mark the `share` of the rows with the largest margins, one at least; ties go by row key."""
    mask = np.zeros(len(rows), np.bool_)
    order = np.lexsort((rows["key"], -margin(rows)))
    mask[order[: math.ceil(share * len(rows) - _SLACK)]] = True
    return mask


def ranking_of(rows: Rows, share: float) -> Ranking:
    """Return what `best` keeps of the rows that pass everything else."""
    kept, matched = best(rows, share), np.zeros(len(rows), np.bool_)
    by_length = np.lexsort((rows["key"], num_tokens(rows, "good")))
    for stratum in np.array_split(by_length, _STRATA):
        matched[stratum] = best(rows[stratum], share)
    return Ranking(
        rows=len(rows),
        kept=int(kept.sum()),
        tokens_all=_tokens(rows),
        tokens_kept=_tokens(rows[kept]),
        spearman=spearman(margin(rows), num_tokens(rows, "good")),
        matched_share=float(matched[kept].mean()) if kept.any() else None,
        tokens_matched=_tokens(rows[matched]),
    )


def _tokens(rows: Rows) -> dict[str, float]:
    """Return the mean tokens by side, 0 of no rows."""
    return {
        side: float(np.mean(num_tokens(rows, view))) if len(rows) else 0.0
        for view, side in SIDE_OF.items()
    }
