"""A short checkable principle on a real model, every other setting by default: pairs come out."""

from pathlib import Path

import pytest

from sso_data.config.run import load_config
from sso_data.core.paths import examples_dir
from sso_data.core.records import VIEWS
from sso_data.generation.generate import generate
from sso_data.runs.journal import read_rows

pytestmark = [pytest.mark.real, pytest.mark.long]

ROWS, ENDED = 32, 24


def test_half_of_the_rows_are_kept(smollm2: Path, tmp_path: Path) -> None:
    """About ten minutes on two cores. Two sides that fit: most answers end by themselves."""
    config = load_config(
        model=str(smollm2),
        principles="checkable",
        source={"limit": ROWS},
        steering={"choose": "fixed", "features": ("One sentence",)},
    )
    summary = generate(str(examples_dir() / "demo" / "questions.txt"), tmp_path / "run", config)
    assert (summary.account.rows, summary.account.failed) == (ROWS, 0)
    rows = list(read_rows(tmp_path / "run"))
    ended = sum(all(row.responses[view].finish_reason == "stop" for view in VIEWS) for row in rows)
    assert ended >= ENDED
    assert len(summary.decision.kept) >= ROWS / 2
    assert summary.explanation.effect.verdict == "moves"
