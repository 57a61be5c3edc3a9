"""The commands, run in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.world import catalogue_dir, policy_dir, queries

Cli = Callable[..., Result]

INLINE = (
    "--engine=transformers",
    "--set=engine.isolation=inline",
    "--set=engine.dtype=float32",
    "--set=sampling.max_tokens=128",
    f"--principles={catalogue_dir()}",
    f"--model={policy_dir()}",
)
"""The tiny policy in this process."""


@pytest.fixture
def cli() -> Cli:
    runner = CliRunner()

    def invoke(*arguments: object) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Twelve queries of the tiny world."""
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": text, "id": f"q{n}"} for n, text in enumerate(queries(12, seed=5))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The journal's rows, as they stand in the file."""
    parts = sorted((run / "rows").glob("*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]
