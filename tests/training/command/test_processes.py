"""Two processes through the command end to end, and the shipped launch configurations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from sso_data.world import policy_dir
from tests.training.command.conftest import QUICK, Train, lines_of, plain_set, weights, write_rows
from tests.waiting import CHILD_SECONDS

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "examples" / "accelerate").glob("*.yaml"))


def launched(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`sso-data train` under torchrun."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    given = [str(argument) for argument in arguments]
    return subprocess.run(
        [sys.executable, *launch, "-m", "sso_data", "train", *given],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("source", ["recorded", pytest.param("scored", marks=pytest.mark.long)])
def test_two_processes_equal_one(
    train: Train, run: Path, pairs: list[dict[str, object]], tmp_path: Path, source: str
) -> None:
    """The same weights within 1e-5; only the first process writes and speaks."""
    data = run if source == "recorded" else write_rows(tmp_path / "set.jsonl", plain_set(pairs))
    objective = "sso" if source == "recorded" else "pairs"
    kept = ("--set=checkpoints.keep_finished=true", "--set=checkpoints.every=3")
    options = ("--objective", objective, *kept)
    alone = train(data, tmp_path / "one", *options)
    assert alone.exit_code == 0, alone.output
    model = ("--model", policy_dir(), *QUICK)
    both = launched(2, data, "--out", tmp_path / "two", *model, *options)
    assert both.returncode == 0, both.stderr[-3000:]
    one, two = (
        weights(tmp_path / name / "checkpoints" / "checkpoint-3") for name in ("one", "two")
    )
    for name, tensor in one.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(two[name], tensor, rtol=0.0, atol=1e-5)
    for first, second in zip(lines_of(tmp_path / "one"), lines_of(tmp_path / "two"), strict=True):
        for key in ("step", "loss", "margin_base", "logp_chosen", "tokens_rejected"):
            assert first[key] == pytest.approx(second[key], rel=1e-4, abs=1e-5)
    assert both.stderr.count("references ") == alone.stderr.count("references ")
    assert both.stdout.count("steps 3 of 3") == 1


def test_a_mistake_is_told_once(tmp_path: Path, run: Path) -> None:
    done = launched(2, run, "--out", tmp_path / "out", "--model", "/nowhere/at/all")
    assert done.returncode != 0
    assert done.stderr.count("error: /nowhere/at/all: no such model directory") == 1


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_launch_configurations_load(file: Path) -> None:
    loaded = load_config_from_file(str(file))
    assert loaded.num_processes == 8
    assert str(loaded.distributed_type).rpartition(".")[2] in {"MULTI_GPU", "FSDP", "DEEPSPEED"}


def test_all_of_them_are_there() -> None:
    assert [file.stem for file in SHIPPED] == ["ddp", "deepspeed_zero2", "fsdp"]
