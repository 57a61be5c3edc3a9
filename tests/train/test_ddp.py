"""Two processes: the same weights, losses and metrics as one, and one reduction a step."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.ddp_worker import main

ROOT = Path(__file__).parents[2]


def in_two_processes(out: Path, backward: str, size: int) -> Any:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tests.train.ddp_worker", str(out), backward, str(size)],
        cwd=ROOT,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return torch.load(out, weights_only=False)


@pytest.mark.parametrize(
    ("backward", "syncs"),
    [
        ("one_pair", [False, False, False, False, False, True]),
        ("joint", [False, True]),
    ],
)
def test_two_processes_equal_one(tmp_path: Path, backward: str, syncs: list[bool]) -> None:
    main(tmp_path / "one.pt", backward, 4)
    alone, history, metrics, _ = torch.load(tmp_path / "one.pt", weights_only=False)
    weights, other, other_metrics, found = in_two_processes(tmp_path / "two.pt", backward, 2)
    for name, weight in alone.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-11, atol=1e-12)
    assert found == syncs * 4
    assert len(history) == len(other) == 4
    for one, two in zip(history, other, strict=True):
        shared = {key for key in one if key not in {"epoch", "grad_norm"}}
        assert {k: one[k] for k in shared} == pytest.approx(
            {k: two[k] for k in shared}, rel=1e-4, abs=1e-5
        )
    for key in ("eval_loss", "eval_margin_bad", "eval_weight", "eval_tokens_chosen"):
        assert other_metrics[key] == pytest.approx(metrics[key], rel=1e-5)
