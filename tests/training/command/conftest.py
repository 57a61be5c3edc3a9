"""Rows of the tiny policy, made once, and the `train` command with settings of a few seconds."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.world import policy_dir
from tests.once import once
from tests.tiny_runs import tiny_run

Train = Callable[..., Result]
ROWS = 24

QUICK = (
    "--set=optim.batch_size=8",
    "--set=optim.micro_batch_rows=4",
    "--set=optim.max_steps=3",
    "--set=optim.lr=5e-4",
    "--set=optim.warmup_steps=0",
    "--set=log.plot=false",
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of the tiny policy whose filter kept every row."""
    made = once(tmp_path_factory, "data", lambda at: tiny_run(at, ROWS, seed=22, keep=True))
    return made / "run"


@pytest.fixture
def pairs(run: Path) -> list[dict[str, Any]]:
    """The run's pairs, to be changed at will."""
    return [json.loads(line) for line in (run / "pairs/train.jsonl").read_text().splitlines()]


@pytest.fixture
def train() -> Train:
    """`sso-data train` in this process, on the tiny policy unless --model says otherwise."""
    runner = CliRunner()

    def invoke(data: object, out: object, *options: object) -> Result:
        given = [str(option) for option in options]
        model = () if "--model" in given else ("--model", str(policy_dir()))
        return runner.invoke(app, ["train", str(data), "--out", str(out), *model, *QUICK, *given])

    return invoke


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved model."""
    found: dict[str, torch.Tensor] = load_file(out / "model.safetensors")
    return found


def lines_of(out: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl holds."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def plain_set(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as a TRL-style preference set: prompt, chosen and rejected, nothing else."""
    return [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
