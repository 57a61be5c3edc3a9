"""The data of a report: the accounting, the filter's numbers and what each row holds, as JSON.

Reasons, thresholds and numbers are those of the filter's own functions; the page only shows them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.config.run import FilterConfig, RunConfig
from sso_data.core.paths import public_name
from sso_data.core.records import ALL_CELLS, SIDE_OF, STEERED_VIEWS, VIEWS, JsonRow, Row, View
from sso_data.core.statistics import wilson
from sso_data.filtering.explain import Explanation, Features, effect_of, explain_run, features_of
from sso_data.filtering.filters import Decision, comparisons, distance, smaller_gap
from sso_data.filtering.measures import Outcome, outcomes, verdict_on
from sso_data.filtering.ranking import margin
from sso_data.filtering.refilter import decide_run, own_filter, standing_config
from sso_data.reporting.checks import Checks
from sso_data.reporting.made import made
from sso_data.reporting.verdicts import SIGNAL, Judged, judged, of_row
from sso_data.runs.columns import (
    UNKNOWN,
    Rows,
    are_representative,
    lacking,
    mean_logp,
    num_tokens,
    representative,
)
from sso_data.runs.journal import Scores, load_scores
from sso_data.runs.run import Account, expected_rows, require_run, run_account
from sso_data.runs.tokens import Answers

BLOCK = 64
"""Rows that the page loads at once."""

_HEAD = 140
_BINS = 40
_BESIDE = 5
"""Empty bins on each side of that of a single number of tokens."""
_DIGITS = 5
Floats = NDArray[np.float64]
Edges = Mapping[str, Floats]


@dataclass(frozen=True, kw_only=True)
class Read:
    """A run as it is read for a report, with the decision that stands; `expected` rows in all.

    `whole`: the run's configuration, its filter that of the decision.
    """

    run: Path
    manifest: JsonRow
    scores: Scores
    whole: RunConfig
    decision: Decision
    account: Account
    expected: int
    explanation: Explanation
    judged: list[Judged]

    @property
    def config(self) -> FilterConfig:
        """The filter that decided."""
        return self.whole.filter


def read(run: Path) -> Read:
    """Read a run, finished or growing, and decide about its rows as `filter` last did.

    Raises RunError where it is not a run, cannot be read, or lacks scores that the filter needs.
    """
    manifest = require_run(run)
    whole = standing_config(run, None, model=None)
    scores = load_scores(run, dry=True)
    decision = decide_run(run, scores, whole.filter)
    account = run_account(run, scores)
    return Read(
        run=run,
        manifest=dict(manifest),
        scores=scores,
        whole=whole,
        decision=decision,
        account=account,
        expected=expected_rows(manifest, account),
        explanation=explain_run(scores, whole.filter, decision, own_filter(manifest)),
        judged=judged(run, scores),
    )


def blocks(of: Read, number: int | None = None) -> Iterator[list[Row]]:
    """Yield the rows of every block, or of one, in journal order. Raises RunError."""
    count = len(of.scores)
    starts = range(0, count, BLOCK) if number is None else (number * BLOCK,)
    for start in starts:
        positions = np.arange(start, min(start + BLOCK, count))
        yield list(of.scores.read(positions))


def rows_at(of: Read, positions: NDArray[np.intp]) -> list[Row]:
    """Return the rows at positions, in their order. Raises RunError."""
    order = np.argsort(positions)
    found = dict(zip(order.tolist(), of.scores.read(positions[order]), strict=True))
    return [found[place] for place in range(len(positions))]


def details(of: Read, places: Sequence[int], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what the page shows of the rows at `places`."""
    found = outcomes(of.scores.rows[np.array(places, np.intp)], of.config, of.decision.thresholds)
    return [detail(*one, of) for one in zip(rows, places, found, strict=True)]


def index(of: Read, rows: Iterable[Row], edges: Edges | None = None) -> dict[str, Any]:
    """Return what the page knows before a row is opened; reads every row once.

    `columns` hold one value a row, in journal order; numbers in nats/token, or tokens. `edges`:
    those of the histograms, where runs share them.
    """
    rows_np, decision = of.scores.rows, of.decision
    names: dict[str, int] = {}
    ids, heads, features = [], [], list[list[int]]()
    checks = Checks(decision, lambda position: rows_at(of, np.array([position]))[0])
    for position, row in enumerate(rows):
        checks.add(position, row)
        ids.append(row.id)
        heads.append(head_of(row))
        features.append([names.setdefault(name, len(names)) for name in row.steering.features])
    gaps = comparisons(rows_np)[:, :, 2]
    numbers = {
        "gap_good": gaps[:, 0],
        "gap_bad": gaps[:, 1],
        "margin": margin(rows_np),
        "smaller_gap": smaller_gap(rows_np),
        "closeness": distance(rows_np, of.config.closeness_offset),
    }
    columns: dict[str, Any] = {key: rounded(values) for key, values in numbers.items()}
    columns |= {f"tokens_{view}": rounded(tokens_of(rows_np, view)) for view in VIEWS}
    columns |= {"id": ids, "head": heads, "features": features}
    columns["reason"] = decision.reason_code.tolist()
    unlike = [one.unlike(decision) for one in of.judged if one.question == SIGNAL]
    named = list(names)
    principles = features_of([named[number] for number in one] for one in features)
    return {
        **_head(of),
        "features": named,
        "principles": list(_principles(of, principles)),
        "histograms": list(_histograms(of, edges or edges_of([of]))),
        "judges": [one.summary(decision) for one in of.judged],
        "checks": [asdict(one) | {"interval": one.interval} for one in (*checks.found(), *unlike)],
        "columns": columns,
        "block": BLOCK,
    }


def _head(of: Read) -> dict[str, Any]:
    """Return the accounting and the verdict: everything that needs no row."""
    decision, found, account = of.decision, of.explanation, of.account
    return {
        "name": public_name(str(of.run)),
        "model": public_name(str(of.manifest["config"]["model"])),
        "made": made(of.manifest, of.whole),
        "account": account.balance,
        "not_asked": int(lacking(of.scores.rows).sum()),
        "rows": len(of.scores),
        "unfinished": of.expected - account.done,
        "kept": len(decision.kept),
        "dropped": decision.dropped,
        "reasons": list(decision.reasons),
        "done": [account.unit, account.done, account.failed],
        "funnel": [asdict(stage) for stage in decision.funnel],
        "stages": [stage.reason for stage in decision.shown_stages],
        "thresholds": dict(decision.thresholds),
        "preset": of.config.preset,
        "steered": of.config.steering_test,
        "offset": of.config.closeness_offset,
        "verdict": str(found.effect),
        "kept_interval": list(found.interval),
        "shares": [[_finite(x) for x in side] for side in found.shares],
        "differences": [[_finite(x) for x in side] for side in found.differences],
    }


def head_of(row: Row) -> str:
    """Return the start of the last turn of a prompt, in one line."""
    return " ".join(row.messages[-1].content[: 4 * _HEAD].split())[:_HEAD]


def detail(row: Row, place: int, tests: Sequence[Outcome], of: Read) -> dict[str, Any]:
    """Return everything that the page shows of one opened row; log-probs as means, nats/token.

    Answers that were not asked for are left out.
    """
    return {
        "verdict": verdict_on(of.decision.reason(place), tests),
        "prompt": [message.to_json() for message in row.messages],
        "system": dict(row.system),
        "user": dict(row.user),
        "principles": list(row.steering.features),
        "texts": {"good": list(row.steering.good), "bad": list(row.steering.bad)},
        "answers": {view: one.text for view, one in row.responses.items()},
        "finish": {view: one.finish_reason for view, one in row.responses.items()},
        "tokens": {view: one.num_tokens for view, one in row.responses.items()},
        "tests": [
            [
                *(outcome.reason, one.misses, one.what, one.side),
                *(_finite(one.value), one.relation, _finite(one.limit)),
            ]
            for outcome in tests
            for one in outcome.measures
        ],
        "means": {
            f"{seen}.{drawn}": _finite(row.mean(seen, drawn))
            for seen, drawn in ALL_CELLS
            if (seen, drawn) in row.logp and row.responses[drawn].num_tokens
        },
        "verdicts": list(of_row(of.judged, place)),
        "source": row.source_id,
        "metadata": row.metadata,
    }


def tinted(answers: Answers) -> dict[str, Any]:
    """Return the pieces of a row's answers with their log-probs (nats) by view; {} without any."""
    pieces = {
        view: {
            "texts": one.texts,
            "nats": {seen: [round(nats, 2) for nats in one.by_piece(seen)] for seen in one.nats},
        }
        for view, one in answers.items()
    }
    return {"pieces": pieces} if pieces else {}


def _principles(of: Read, features: Features) -> Iterator[dict[str, Any]]:
    """Yield each principle with its kept share, its gaps (means over rows) and its effect."""
    kept = of.decision.reason_code == 0
    for name, places in sorted(features.items()):
        rows: Rows = of.scores.rows[places]
        share = float(kept[places].mean())
        gaps = comparisons(representative(rows))[:, :, 2]
        gaps = gaps[np.isfinite(gaps).all(axis=1)]
        yield {
            "name": name,
            "rows": len(places),
            "kept": int(kept[places].sum()),
            "interval": list(wilson(share, len(places))),
            "gaps": [_finite(x) for x in gaps.mean(axis=0)] if len(gaps) else [None, None],
            "verdict": effect_of(rows).verdict,
        }


def edges_of(runs: Iterable[Read]) -> Edges:
    """Return edges of equal bins by histogram, over the middle 98 % of the values of all runs.

    A bin of tokens holds whole numbers of them: its edges are whole numbers, too. A single value
    is in the middle.
    """
    pooled: dict[str, list[Floats]] = {}
    for one in runs:
        for key, _, values, _ in _measured(one):
            pooled.setdefault(key, []).append(values[np.isfinite(values)])
    found = {}
    for key, some in pooled.items():
        if len(values := np.concatenate(some)):
            low, high = np.quantile(values, [0.01, 0.99])
            if key.startswith("tokens"):
                low, above = np.floor(low), np.floor(high) + 1
                if above - low == 1:
                    beside = np.clip(low, 1, _BESIDE)
                    found[key] = np.arange(low - beside, low + beside + 2) - 0.5
                    continue
                width = np.ceil((above - low) / _BINS)
                found[key] = low + width * np.arange(np.ceil((above - low) / width) + 1)
            else:
                ends = (low, high) if high > low else (low - 0.5, low + 0.5)
                found[key] = np.linspace(*ends, _BINS + 1 + (high == low))
    return found


def _measured(of: Read) -> Iterator[tuple[str, str, Floats, float | None]]:
    """Yield (key, title, values [row], threshold) of each histogram; NaN: does not count.

    Where rows were decided early, those alone count that are complete by design.
    """
    rows, limits = of.scores.rows, of.decision.thresholds
    counts = are_representative(rows)
    gap, far = smaller_gap(rows), distance(rows, of.config.closeness_offset)
    shown: list[tuple[str, str, Floats, float | None]] = [
        ("gap", "gap (nats/token)", gap, limits.get("gap")),
        ("closeness", "closeness (nats/token)", far, limits.get("closeness")),
    ]
    for view in ("good", "bad", "plain"):
        title = f"length of {SIDE_OF[view]} (tokens)"
        shown.append((f"tokens_{view}", title, tokens_of(rows, view), None))
    for view in STEERED_VIEWS:
        title = f"log-prob of {SIDE_OF[view]}, plain view (nats/token)"
        shown.append((f"logp_{view}", title, mean_logp(rows, "plain", view), None))
    for key, title, values, limit in shown:
        yield key, title, np.where(counts, values, np.nan), limit


def _histograms(of: Read, edges: Edges) -> Iterator[dict[str, Any]]:
    """Yield counts of all and of kept rows in equal bins; values beyond the 1 % ends join them."""
    kept = of.decision.reason_code == 0
    for key, title, values, limit in _measured(of):
        if key not in edges:
            continue
        bins, finite = edges[key], np.isfinite(values)
        clipped = [np.clip(values[those], bins[0], bins[-1]) for those in (finite, finite & kept)]
        counts = [np.histogram(one, bins)[0].tolist() for one in clipped]
        yield {
            "key": key,
            "title": title,
            "edges": [round(float(edge), _DIGITS) for edge in bins],
            "all": counts[0],
            "kept": counts[1],
            "limit": limit,
            "only": _finite(some[0]) if len(some := np.unique(values[finite])) == 1 else None,
        }


def tokens_of(rows: Rows, view: View) -> Floats:
    """Return the tokens [row] of the responses drawn under `view`; NaN where none was asked for."""
    known = rows["finish"][:, VIEWS.index(view)] != UNKNOWN
    return np.where(known, num_tokens(rows, view).astype(np.float64), np.nan)


def rounded(values: Floats) -> list[float | None]:
    """Return the numbers with five decimals, None where there is none."""
    return [_finite(value) for value in values.tolist()]


def _finite(value: float) -> float | None:
    """Return the number with five decimals, None where there is none."""
    return round(float(value), _DIGITS) if np.isfinite(value) else None


def packed(found: dict[str, Any] | Sequence[Any]) -> bytes:
    """Return data as JSON, with sorted keys: the same data are the same bytes."""
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS)
