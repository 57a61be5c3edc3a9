"""Measure how well a policy of the tiny world is steered: `python -m tools.tiny_world.measure`."""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from sso_data.world import Score, policy_dir, queries, score
from sso_data.world import lexicon as lex
from sso_data.world.query import parse
from tools.tiny_world.dialogues import Message, system_message
from tools.tiny_world.guidelines import catalogue_pairs
from tools.tiny_world.sampling import Drawn, Policy, mean_logps, sample

View = Literal["plain", "good", "bad"]
VIEWS: tuple[View, ...] = ("plain", "good", "bad")


@dataclass(frozen=True, slots=True)
class Row:
    """One query, the features its guidelines name, and what was drawn and scored in each view."""

    query: str
    named: tuple[str, ...]
    drawn: dict[View, Drawn]
    scores: dict[View, Score]

    def total(self, view: View) -> float:
        """The oracle's total."""
        return self.scores[view].total

    def named_score(self, view: View) -> float:
        """The oracle's mean over the named features."""
        return self.scores[view].over(self.named)


def view_messages(query: str, named: tuple[str, ...], view: View) -> list[Message]:
    """The prompt's messages as this view sees them."""
    user = {"role": "user", "content": query}
    if view == "plain":
        return [user]
    mains = [catalogue_pairs(name)[0] for name in named]
    texts = tuple(pair.good if view == "good" else pair.bad for pair in mains)
    return [{"role": "system", "content": system_message(texts)}, user]


def draw_rows(policy: Policy, n: int, *, seed: int, held_out: bool = True) -> list[Row]:
    """`n` queries, each with two random features that apply, answered in the three views."""
    rng = random.Random(seed)
    texts = queries(n, seed=seed, held_out=held_out)
    named = [tuple(rng.sample(parse(text).features, 2)) for text in texts]
    cells = [(i, view) for i in range(n) for view in VIEWS]
    prompts = [view_messages(texts[i], named[i], view) for i, view in cells]
    drawn = dict(zip(cells, sample(policy, prompts, seed=seed), strict=True))
    return [
        Row(
            texts[i],
            named[i],
            {view: drawn[i, view] for view in VIEWS},
            {view: score(texts[i], drawn[i, view].text) for view in VIEWS},
        )
        for i in range(n)
    ]


def logp_table(policy: Policy, rows: list[Row]) -> list[dict[str, float]]:
    """For each row: mean log-prob (nats a token) under "seen.drawn" for drawn = good and bad."""
    cells = [(i, seen, drawn) for i in range(len(rows)) for seen in VIEWS for drawn in VIEWS[1:]]
    pairs = [(rows[i].drawn[seen].prompt, rows[i].drawn[drawn].ids) for i, seen, drawn in cells]
    table: list[dict[str, float]] = [{} for _ in rows]
    for (i, seen, drawn), mean in zip(cells, mean_logps(policy, pairs), strict=True):
        table[i][f"{seen}.{drawn}"] = mean
    return table


def estimate(values: Sequence[float]) -> dict[str, float]:
    """Mean, its standard error (normal approximation) and n; zeros for no values."""
    n = len(values)
    mean = fmean(values) if values else 0.0
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, n - 1))
    return {"mean": round(mean, 4), "se": round(spread / math.sqrt(max(1, n)), 4), "n": n}


def _beats(rows: list[Row], by: Callable[[Row, View], float]) -> dict[str, float]:
    """P(good view's response > bad view's); equal scores count as half."""
    gaps = [by(row, "good") - by(row, "bad") for row in rows]
    return estimate([0.5 if gap == 0 else float(gap > 0) for gap in gaps])


def summarize(rows: list[Row], table: list[dict[str, float]]) -> dict[str, object]:
    """Every number of `docs/tiny_policy.md`, each with standard error and n."""
    orders = {
        "good": lambda t: t["good.good"] > t["plain.good"] > t["bad.good"],
        "bad": lambda t: t["bad.bad"] > t["plain.bad"] > t["good.bad"],
    }
    steered = [orders["good"](t) and orders["bad"](t) for t in table]
    kept = [row for row, ok in zip(rows, steered, strict=True) if ok]
    steering = {}
    for name in lex.FEATURES:
        having = [row for row in rows if name in row.named]
        steering[name] = {
            view: estimate([row.scores[view].features[name] for row in having]) for view in VIEWS
        }
    return {
        "signal_accuracy_total": _beats(rows, Row.total),
        "signal_accuracy_named": _beats(rows, Row.named_score),
        "total": {view: estimate([row.total(view) for row in rows]) for view in VIEWS},
        "named": {
            view: estimate([row.scores[view].features[name] for row in rows for name in row.named])
            for view in VIEWS
        },
        "feature": steering,
        "plain_total_by_kind": {
            kind: estimate([row.total("plain") for row in rows if parse(row.query).kind == kind])
            for kind in lex.KINDS
        },
        "well_formed": {
            view: estimate([row.scores[view].well_formed for row in rows]) for view in VIEWS
        },
        "tokens": {view: estimate([len(row.drawn[view].ids) for row in rows]) for view in VIEWS},
        "ended": {view: estimate([row.drawn[view].ended for row in rows]) for view in VIEWS},
        "logp": {cell: estimate([t[cell] for t in table]) for cell in table[0]} if table else {},
        "ordered_good": estimate([orders["good"](t) for t in table]),
        "ordered_bad": estimate([orders["bad"](t) for t in table]),
        "steered_rows": estimate(steered),
        "steered_signal_accuracy_total": _beats(kept, Row.total),
        "steered_signal_accuracy_named": _beats(kept, Row.named_score),
        "distinct_responses": estimate(
            [len({drawn.text for drawn in row.drawn.values()}) / 3 for row in rows]
        ),
    }


def measure(folder: Path, n: int, *, seed: int, held_out: bool = True) -> dict[str, object]:
    """Load a checkpoint, answer `n` queries in the three views and summarize."""
    begun = time.monotonic()
    policy = Policy.load(folder)
    rows = draw_rows(policy, n, seed=seed, held_out=held_out)
    sampled = time.monotonic()
    summary = summarize(rows, logp_table(policy, rows))
    times = {"sample": sampled - begun, "score": time.monotonic() - sampled}
    return summary | {"seconds": {name: round(value, 1) for name, value in times.items()}}


def main(arguments: list[str] | None = None) -> int:
    """Print the summary as JSON and, with --out, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=policy_dir(), help="checkpoint folder")
    parser.add_argument("-n", type=int, default=400, help="queries")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="training split, not held-out queries")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args(arguments)
    show(measure(given.policy, given.n, seed=given.seed, held_out=not given.fresh), given.out)
    return 0


def show(summary: dict[str, object], out: Path | None) -> None:
    """Print a summary as JSON and write it to `out`, if that is given."""
    text = json.dumps(summary, indent=1) + "\n"
    sys.stdout.write(text)
    if out:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
