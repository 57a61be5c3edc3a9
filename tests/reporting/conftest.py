"""Runs of made-up rows: steered, not steered, hostile texts, and answers that checks find."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sso_data.config.migration import FORMAT
from sso_data.config.run import RunConfig
from sso_data.core.records import Cell, Failure, Message, Row
from tests.factories import make_row, strict, write_part

Make = Callable[..., Path]

HOSTILE = (
    "</script><script>document.title='taken'</script>\u202e\x1b[31m<img src=x onerror=alert(1)>"
)


def asked(index: int, text: str, **changes: object) -> Row:
    """Row number `index` with another question."""
    row = make_row(index, **changes)  # type: ignore[arg-type]
    return replace(row, messages=(Message(role="user", content=text),))


def rows_of_all_kinds() -> list[Row]:
    """Twelve rows that are kept but for two, of which four answers are found by a check."""
    backwards: dict[Cell, float | None] = {("good", "good"): -2.5}
    rows = [make_row(index, tokens={"good": 12}) for index in range(8)]
    rows.append(make_row(8, means=backwards))
    rows.append(make_row(9, finish={"good": "length"}))
    rows.append(asked(10, HOSTILE, texts={"good": HOSTILE}))
    rows.append(make_row(11, texts={"good": "I am sorry, but I can't help with that."}))
    return rows


@pytest.fixture
def make_run(tmp_path: Path) -> Make:
    def made(rows: Sequence[Row], name: str = "run") -> Path:
        run = tmp_path / name
        write_part(run, list(rows))
        lost = Failure(id="lost-0", stage="source", reason="malformed", detail="not JSON")
        (run / "failed.jsonl").write_text(json.dumps(lost.to_json()) + "\n")
        manifest = {
            "schema_version": FORMAT,
            "sso_data": "0.2.0",
            "identity": {"seed": 0},
            "config": RunConfig(model="org/policy", filter=strict()).model_dump(mode="json"),
            "date": "2026-01-02",
            "prompts": len(rows) + 1,
            "sources": ["in.jsonl"],
            "template": {},
        }
        (run / "run.json").write_text(json.dumps(manifest))
        return run

    return made


@pytest.fixture
def run(make_run: Make) -> Path:
    return make_run(rows_of_all_kinds())
