"""Rows for tests: `make_row()` is perfect under every preset, and overrides spoil it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sso_data.config.run import FilterConfig
from sso_data.core.records import (
    VIEWS,
    Cell,
    FinishReason,
    Message,
    Response,
    Row,
    Steering,
    View,
    content_hash,
    hash_ids,
    row_id,
)
from sso_data.runs.columns import SCORES, Rows, encode

MEANS: Mapping[Cell, float] = {
    ("plain", "good"): -1.0,
    ("good", "good"): -0.5,
    ("bad", "good"): -2.0,
    ("plain", "bad"): -1.125,
    ("good", "bad"): -2.0,
    ("bad", "bad"): -0.5,
    ("plain", "plain"): -0.875,
    ("bad", "plain"): -1.5,
}
"""nats/token by (seen, drawn): steered, at most 0.25 from the policy's own answer, gaps of 1.5."""

STRICT = {"steered": "chain", "closeness": 0.3, "closeness_offset": 0.0, "gap": 0.05}
"""A filter by which each test of log-probs can be the one that drops a row of `MEANS`."""


def strict(**changes: Any) -> FilterConfig:
    """Return the strict filter with changes."""
    return FilterConfig.model_validate(STRICT | changes)


def make_row(
    index: int = 0,
    *,
    means: Mapping[Cell, float | None] = {},
    texts: Mapping[View, str] = {},
    tokens: Mapping[View, int] = {},
    finish: Mapping[View, FinishReason] = {},
    **overrides: Any,
) -> Row:
    """Row number `index`; with 8 tokens a response, totals are 8 times the means.

    `means` (nats/token by (seen, drawn); None: missing), `texts`, `tokens` and `finish` (by view)
    change single numbers; `overrides` are whole fields of Row.
    """
    messages = (Message(role="user", content=f"Question {index}: what is a kite?"),)
    responses = {
        view: Response(
            token_ids=tuple(range(100 + index, 100 + index + tokens.get(view, 8))),
            text=texts.get(view, f"A {view} answer to question {index}."),
            finish_reason=finish.get(view, "stop"),
        )
        for view in VIEWS
    }
    row = Row(
        id=row_id(content_hash(messages), 0),
        source_id=f"source-{index}",
        messages=messages,
        steering=Steering(
            features=("Helpfulness", "Accuracy"),
            good=("Be helpful.", "Be accurate."),
            bad=("Be unhelpful.", "Be inaccurate."),
            chosen_by="random",
            written_by=("catalogue", "catalogue"),
            paraphrase_good=(0, 2),
            paraphrase_bad=(0, 2),
            system_template="system.j2",
        ),
        system={"good": "Be helpful. Be accurate.", "bad": "Be unhelpful. Be inaccurate."},
        responses=responses,
        logp={
            (seen, drawn): mean * responses[drawn].num_tokens
            for (seen, drawn), mean in {**MEANS, **means}.items()
            if mean is not None
        },
        seed={view: 1000 * index + number for number, view in enumerate(VIEWS)},
        prompt_hash={view: hash_ids([index, number]) for number, view in enumerate(VIEWS)},
        model="test/model",
        model_fingerprint="0123456789abcdef",
        template_fingerprint="fedcba9876543210",
        template_kwargs='{"enable_thinking": false}',
        metadata='{"topic": "kites"}',
    )
    return replace(row, **overrides)


def to_line(row: Row) -> bytes:
    """The journal line of a row, newline included."""
    return orjson.dumps(row.to_json()) + b"\n"


def write_part(run: Path, rows: list[Row], number: int = 0) -> Path:
    """A journal part without a side file."""
    part = run / "rows" / f"{number:05}.jsonl"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"".join(map(to_line, rows)))
    return part


def encode_rows(rows: list[Row]) -> Rows:
    """The SCORES records of rows, as if they stood in one journal part."""
    data, offset = b"", 0
    for row in rows:
        line = to_line(row)
        data += encode(row, line, offset)
        offset += len(line)
    records: Rows = np.frombuffer(data, SCORES)
    return records
