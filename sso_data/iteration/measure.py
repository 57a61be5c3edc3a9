"""The numbers of a round, from the rows that it made: no model is asked but the judge.

Means are nats/token; rows are taken in the order of their ids, so that the same rows give the same
numbers whatever order they were finished in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.config.run import FilterConfig
from sso_data.core.records import SIDE_OF, JsonRow, Row
from sso_data.filtering.filters import INCOMPLETE, NOT_STEERED, decide
from sso_data.runs.columns import Rows, mean_logp, num_tokens
from sso_data.runs.scores import Scores, load_scores
from sso_data.templating.chat_template import load_tokenizer
from sso_data.templating.external_rows import preference_of

Floats = NDArray[np.float64]
Numbers = dict[str, float | None]
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRows:
    """The rows of a run as the filter sees them; `kept` are ascending positions in `scores`."""

    scores: Scores
    kept: NDArray[np.intp]

    @property
    def is_kept(self) -> NDArray[np.bool_]:
        """Row by row."""
        found = np.zeros(len(self.scores), np.bool_)
        found[self.kept] = True
        return found


def load_run(run: Path, config: FilterConfig) -> RunRows:
    """The rows of a finished run, and which of them the filter keeps."""
    scores = load_scores(run, dry=False)
    return RunRows(scores=scores, kept=decide(scores.rows, config).kept)


def numbers_of(run: RunRows) -> dict[str, Any]:
    """How many rows were steered, and means over all rows and over the kept ones."""
    rows = run.scores.rows
    complete = ~INCOMPLETE.fails(rows, {})
    steered = complete & ~NOT_STEERED.fails(rows, {})
    return {
        "steered": ratio(int(steered.sum()), int(complete.sum())),
        "all": means(rows),
        "kept": means(rows[run.kept]),
    }


def means_of_pairs(rows: Iterable[JsonRow], model: Path) -> dict[str, Any]:
    """The same of labelled pairs: lengths in tokens of the model in the directory `model`."""
    tokenizer = load_tokenizer(model, trust_remote_code=False)
    tokens: dict[str, list[float]] = {"tokens_chosen": [], "tokens_rejected": []}
    for number, row in enumerate(rows, start=1):
        _, chosen, rejected = preference_of(row, f"row {number}")
        for said, found in zip((chosen, rejected), tokens.values(), strict=True):
            found.append(len(tokenizer(said[-1].content, add_special_tokens=False)["input_ids"]))
    means_of = {name: mean(values) for name, values in tokens.items()}
    return {"steered": None, "all": means_of, "kept": means_of}


def means(rows: Rows) -> Numbers:
    """Lengths (tokens), closeness to the policy's own answer, gaps, plain-view log-probs.

    `closeness_*` = m.plain.plain - m.plain.<drawn>, `gap_good` = m.good.good - m.bad.good,
    `gap_bad` = m.bad.bad - m.good.bad, `logp_*` = m.plain.<drawn>, nats/token.
    """
    rows = rows[np.argsort(rows["key"], kind="stable")]
    own = mean_logp(rows, "plain", "plain")
    found: dict[str, Floats] = {
        f"tokens_{side}": num_tokens(rows, view).astype(np.float64)
        for view, side in SIDE_OF.items()
    }
    for view in ("good", "bad"):
        logp = mean_logp(rows, "plain", view)
        found[f"closeness_{SIDE_OF[view]}"] = own - logp
        found[f"logp_{SIDE_OF[view]}"] = logp
    found["gap_good"] = mean_logp(rows, "good", "good") - mean_logp(rows, "bad", "good")
    found["gap_bad"] = mean_logp(rows, "bad", "bad") - mean_logp(rows, "good", "bad")
    return {name: mean(values) for name, values in found.items()}


def mean(values: Floats | Sequence[float]) -> float | None:
    """The mean of the finite values; None where there are none."""
    array = np.asarray(values, np.float64)
    finite = array[np.isfinite(array)]
    return round(float(finite.mean()), _DIGITS) if len(finite) else None


def ratio(part: int, whole: int) -> float | None:
    """A share; None of nothing."""
    return round(part / whole, _DIGITS) if whole else None


def sample(run: RunRows, most: int | None) -> Iterable[tuple[Row, bool]]:
    """At most so many rows of a run, chosen by their ids, each with whether it is kept.

    The same rows are chosen whatever order they were written in.
    """
    order = np.argsort(run.scores.rows["key"], kind="stable")[:most]
    chosen = np.sort(order)
    is_kept = run.is_kept[chosen]
    pairs = [
        (Row.from_json(orjson.loads(line)), bool(kept))
        for line, kept in zip(run.scores.lines(chosen), is_kept, strict=True)
    ]
    return sorted(pairs, key=lambda pair: pair[0].id)
