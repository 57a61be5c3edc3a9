"""What a run will take and give, from its first rows: time, tokens, disk, pairs, with intervals."""

from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np

from sso_data.config.run import FilterConfig
from sso_data.core.errors import RunError
from sso_data.core.progress import duration, size
from sso_data.core.statistics import Estimate, mean_of, wilson
from sso_data.filtering.filters import decide
from sso_data.runs.columns import FINISH_REASONS, SCORES, UNKNOWN, Rows

FEWEST = 30
"""Fewer rows than this foretell nothing."""
LESS_LATER = "scoring.when=needed asks less of later rows"

_PAIR_BYTES = 1.8
"""Bytes of a pair in JSONL and Parquet together, as a multiple of its journal line (the demo's)."""
_LEAST_ROW_BYTES = 1024 + SCORES.itemsize
"""No row is shorter."""
_WORTH_BYTES = 1 << 26
"""A run that takes less may find the disk full: little is lost."""


def check_room(out: Path, rows: int) -> None:
    """Raise RunError where `rows` more rows surely do not fit on the disk of `out`."""
    least, free = rows * _LEAST_ROW_BYTES, disk_usage(out).free
    if free < least and least > _WORTH_BYTES:
        raise RunError(
            f"{out}: {size(free)} of disk are free, and {rows} rows take {size(least)} at the "
            "least; free some space, use another --out, or make fewer with --limit"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Estimates for `total` rows, by the `rows` first ones; intervals are 95 %.

    `seconds`: of making all rows, without loading the model, at the speed of the first ones; its
    interval is that of the tokens of a row, and none of the speed. `kept`: the share of rows that
    become pairs. `truncated`: of rows with a response that was cut off.
    """

    rows: int
    total: int
    seconds: Estimate
    tokens: Estimate
    disk_bytes: float
    kept: Estimate
    truncated: float

    @property
    def pairs(self) -> Estimate:
        """The number of pairs."""
        return self.kept.times(self.total)

    def cost(self, price_per_hour: float, loading: float = 0.0) -> Estimate:
        """Return the cost of the time, `loading` seconds included, in the price's unit."""
        whole = Estimate(*(seconds + loading for seconds in astuple(self.seconds)))
        return whole.times(price_per_hour / 3600)

    def cost_text(self, price_per_hour: float | None, seconds: float | None = None) -> str:
        """Return the cost of making the rows as the end of a sentence, beside that of `seconds`."""
        if price_per_hour is None:
            return ""
        cost = self.cost(price_per_hour)
        actual = "" if seconds is None else f" and {price_per_hour * seconds / 3600:.2f}"
        return f"; cost {cost.value:.2f} [{cost.low:.2f}, {cost.high:.2f}] at that speed{actual}"

    def __str__(self) -> str:
        """One sentence."""
        low, high = self.kept.low, self.kept.high
        return (
            f"by the first {self.rows} rows: {self.total:,} rows take {self.time} "
            f"at their speed, {self.tokens.value:,.0f} sampled tokens and about "
            f"{size(self.disk_bytes)} on disk; "
            f"{self.kept.value:.0%} [{low:.0%}, {high:.0%}] are kept: {self.pairs.value:,.0f} "
            f"[{self.pairs.low:,.0f}, {self.pairs.high:,.0f}] pairs; {self.truncated:.0%} have a "
            "response that is cut off"
        )

    @property
    def time(self) -> str:
        """The time of making the rows, with its interval."""
        low, high = duration(self.seconds.low), duration(self.seconds.high)
        return f"{duration(self.seconds.value)} [{low}, {high}]"

    def compared(self, *, seconds: float, tokens: int, share: float) -> str:
        """Return the estimate beside what came, as one sentence."""
        low, high = self.kept.low, self.kept.high
        return (
            f"estimated by the first {self.rows} rows and actual: time {self.time} at "
            f"their speed and {duration(seconds)}, sampled tokens {self.tokens.value:,.0f} and "
            f"{tokens:,}, kept {self.kept.value:.0%} [{low:.0%}, {high:.0%}] and {share:.0%}"
        )

    def shortage(self, out: Path, done: int) -> str:
        """Return what to say where the rows after `done` may not fit on the disk of `out`."""
        left, free = self.disk_bytes * max(0, 1 - done / self.total), disk_usage(out).free
        if left <= max(free, _WORTH_BYTES):
            return ""
        return (
            f"{out}: {size(free)} of disk are free, and the rest of the run takes about "
            f"{size(left)}; free some space: what is finished is kept, and the run continues"
        )

    def to_json(self) -> dict[str, Any]:
        """Return its form for `--json`."""
        found = asdict(self)
        for name in ("seconds", "tokens", "kept", "pairs"):
            found[name] = getattr(self, name).to_json()
        return found


def forecast(
    records: bytes,
    config: FilterConfig,
    *,
    seconds: float,
    work: float,
    total: int,
    for_all: Callable[[int], bool] = lambda key: True,
) -> Forecast | None:
    """Return the forecast of `total` rows; None by fewer than FEWEST rows.

    `records`: SCORES of whole cohorts, so that short answers are not favoured. `seconds` were spent
    on the `work` of so many rows, those of unfinished ones as parts. `for_all` tells by its key
    which of the rows stands for all.
    """
    rows: Rows = np.frombuffer(records, SCORES)
    tokens = mean_of(rows["num_tokens"].sum(axis=1).astype(float).tolist())
    if len(rows) < FEWEST or tokens is None or work <= 0:
        return None
    share = len(decide(rows, config).kept) / len(rows)
    kept = Estimate(share, *wilson(share, len(rows)))
    line = float(rows["length"].mean())
    whole = rows[[for_all(key) for key in rows["key"].tolist()]]
    is_cut = ~np.isin(whole["finish"], (FINISH_REASONS.index("stop"), UNKNOWN))
    return Forecast(
        rows=len(rows),
        total=total,
        seconds=tokens.times(seconds / work * total / tokens.value),
        tokens=tokens.times(total),
        disk_bytes=total * (line * (1 + _PAIR_BYTES * share) + SCORES.itemsize),
        kept=kept,
        truncated=float(is_cut.any(axis=1).sum() / max(1, len(whole))),
    )
