"""Two processes: the same weights, losses and metrics as one, and one reduction a step."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.ddp_worker import main
from tests.waiting import CHILD_SECONDS

ROOT = Path(__file__).parents[2]


def in_two_processes(out: Path, kind: str, size: int) -> Any:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tests.training.ddp_worker", str(out), kind, str(size)],
        cwd=ROOT,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return torch.load(out, weights_only=False)


EVALUATED = ("eval_loss", "eval_margin_bad", "eval_weight", "eval_tokens_chosen")
EVALUATED_REWARD = ("eval_loss", "eval_accuracy", "eval_margin", "eval_reward_rejected")


@pytest.mark.parametrize(
    ("kind", "syncs", "evaluated"),
    [
        ("one_pair", [False, False, False, False, False, True], EVALUATED),
        ("joint", [False, True], EVALUATED),
        ("reward", [False, True], EVALUATED_REWARD),
    ],
)
def test_two_processes_equal_one(
    tmp_path: Path, kind: str, syncs: list[bool], evaluated: tuple[str, ...]
) -> None:
    main(tmp_path / "one.pt", kind, 4)
    alone, history, metrics, _ = torch.load(tmp_path / "one.pt", weights_only=False)
    weights, other, other_metrics, found = in_two_processes(tmp_path / "two.pt", kind, 2)
    for name, weight in alone.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-11, atol=1e-12)
    assert found == syncs * 4
    assert len(history) == len(other) == 4
    for one, two in zip(history, other, strict=True):
        shared = {key for key in one if key not in {"epoch", "grad_norm"}}
        assert {k: one[k] for k in shared} == pytest.approx(
            {k: two[k] for k in shared}, rel=1e-4, abs=1e-5
        )
    for key in evaluated:
        assert other_metrics[key] == pytest.approx(metrics[key], rel=1e-5)
