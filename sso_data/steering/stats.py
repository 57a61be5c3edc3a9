"""`principles stats`: the share of pairs, the gaps and the closeness of each principle of a run."""

import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sso_data.core.errors import InputError, RunError
from sso_data.core.records import JsonRow
from sso_data.runs.columns import are_representative, closeness, gap, mean_logp, row_key
from sso_data.runs.journal import load_scores
from sso_data.runs.pairs import read_pairs
from sso_data.runs.run import require_run
from sso_data.runs.workdir import section
from sso_data.steering.principles import load_catalogue
from sso_data.steering.response_checks import ResponseCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipleStats:
    """One principle of a run, or one wording of it, over all rows that it steered.

    Means in nats/token over the rows with all scores: `gap_*` is how much likelier a response is
    under its own view than under the opposite one; `below_*` how far a response lies below the
    policy's own answer, both seen under the plain view. `wording` is "main", "paraphrase 2" or who
    wrote the text; None for all wordings together. `signal*`: how often y+ follows the check of the
    principle better than y-, over the rows that stand for all and over the kept ones, ties half;
    None without a check.
    """

    principle: str
    wording: str | None
    rows: int
    kept: int
    gap_good: float | None
    gap_bad: float | None
    below_chosen: float | None
    below_rejected: float | None
    signal: float | None
    signal_kept: float | None

    @property
    def kept_share(self) -> float:
        """Pairs as a share of rows."""
        return self.kept / self.rows if self.rows else 0.0


def principle_stats(run: Path, *, wordings: bool = False) -> list[PrincipleStats]:
    """Return the statistics of every principle, the most kept first; with `wordings`, of each too.

    Raises RunError when the run has no rows, or no pairs were decided on yet.
    """
    catalogue = section(require_run(run), "config").get("principles")
    checks: Mapping[str, ResponseCheck] = {}
    with suppress(InputError):  # the catalogue is not here any more
        checks = load_catalogue(Path(catalogue) if catalogue else None).checks
    kept = {row_key(str(row["id"])) for _, row in read_pairs(run)}
    scores = load_scores(run, dry=True)
    if not len(scores):
        raise RunError(f"{run}: holds no rows yet")
    mean = partial(mean_logp, scores.rows)
    numbers = np.stack(
        [gap(mean, "good"), gap(mean, "bad"), closeness(mean, "good"), closeness(mean, "bad")],
        axis=1,
    )
    for_all = are_representative(scores.rows)
    is_scored = np.isfinite(numbers).all(axis=1) & for_all
    is_kept = np.array([key in kept for key in scores.keys().tolist()])
    places: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    better: dict[tuple[str, int], float] = {}
    for place, line in enumerate(scores.lines(np.arange(len(scores)))):
        row = orjson.loads(line)
        for principle, wording in _wordings_of(row):
            if principle in checks and (for_all[place] or is_kept[place]):
                degree = checks[principle].degree
                chosen, rejected = (degree(row[s][0]["content"]) for s in ("chosen", "rejected"))
                better[principle, place] = 0.5 if chosen == rejected else float(chosen > rejected)
            places[principle, None].append(place)
            if wordings:
                places[principle, wording].append(place)
    found = []
    for (name, group), own in places.items():
        scored = numbers[own][is_scored[own]]
        means: list[Any] = [math.nan] * 4 if not len(scored) else scored.mean(axis=0).tolist()
        values = [value if math.isfinite(value) else None for value in means]
        told = [at for at in own if (name, at) in better]
        found.append(
            PrincipleStats(
                principle=name,
                wording=group,
                rows=len(own),
                kept=int(is_kept[own].sum()),
                gap_good=values[0],
                gap_bad=values[1],
                below_chosen=values[2],
                below_rejected=values[3],
                signal=_mean([better[name, at] for at in told if for_all[at]]),
                signal_kept=_mean([better[name, at] for at in told if is_kept[at]]),
            )
        )
    whole = {one.principle: one.kept_share for one in found if one.wording is None}
    return sorted(found, key=lambda one: (-whole[one.principle], one.principle, one.wording or ""))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _wordings_of(row: JsonRow) -> list[tuple[str, str]]:
    """Return the (principle, wording) of each principle of a row."""
    features = row["principles"]
    nothing = [0] * len(features)
    found = []
    for feature, writer, good, bad in zip(
        features,
        row.get("written_by") or [""] * len(features),
        row.get("paraphrase_good") or nothing,
        row.get("paraphrase_bad") or nothing,
        strict=True,
    ):
        same = good if good == bad else f"{good}/{bad}"
        text = f"paraphrase {same}" if good or bad else "main"
        found.append((feature, text if writer in ("", "catalogue") else f"by {writer}"))
    return found
