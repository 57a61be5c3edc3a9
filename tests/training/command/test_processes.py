"""Two processes through the command end to end, and the shipped launch configurations."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from sso_data.world import policy_dir
from tests.training.command.conftest import QUICK, Train, lines_of, plain_set, weights, write_rows
from tests.training.command.sharded import SETTINGS
from tests.waiting import CHILD_SECONDS

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "examples" / "accelerate").glob("*.yaml"))


def launched(
    processes: int, *arguments: object, module: str = "sso_data", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`sso-data train` under torchrun."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    given = [str(argument) for argument in arguments]
    return subprocess.run(
        [sys.executable, *launch, "-m", module, "train", *given],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"} | environment,
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
    assert_same_weights(tmp_path, "checkpoints/checkpoint-3")
    for first, second in zip(lines_of(tmp_path / "one"), lines_of(tmp_path / "two"), strict=True):
        for key in ("step", "loss", "margin_base", "logp_chosen", "tokens_rejected"):
            assert first[key] == pytest.approx(second[key], rel=1e-4, abs=1e-5)
    assert both.stderr.count("references ") == alone.stderr.count("references ")
    assert both.stdout.count("steps 3 of 3") == 1


def sharded(out: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Two processes that hold half of each weight."""
    model = ("--out", out, "--model", policy_dir(), *QUICK)
    module = "tests.training.command.sharded"
    return launched(2, *arguments, *model, module=module, **SETTINGS, **environment)


def test_sharded_weights_are_trained_as_whole_ones(train: Train, run: Path, tmp_path: Path) -> None:
    """FSDP 2: the same weights within 1e-5, and D of the weights in memory beside the files'."""
    kept = ("--set=checkpoints.keep_finished=true", "--set=checkpoints.every=3")
    alone = train(run, tmp_path / "one", *kept)
    assert alone.exit_code == 0, alone.output
    both = sharded(tmp_path / "two", run, *kept)
    assert both.returncode == 0, both.stderr[-3000:]
    assert_same_weights(tmp_path, "checkpoints/checkpoint-3")
    one, two = (comparison(tmp_path / name) for name in ("one", "two"))
    assert one["memory"][0] > 0.01
    for key in ("memory", "saved"):
        assert two[key] == pytest.approx(one[key], abs=1e-3)


@pytest.mark.long
def test_a_sharded_adapter_is_merged(train: Train, run: Path, tmp_path: Path) -> None:
    """Killed after the second step, and continued."""
    keys = ("lora.merge=true", "checkpoints.every=1", "optim.save_dtype=float32")
    options = ("--lora", *(f"--set={key}" for key in keys))
    alone = train(run, tmp_path / "one", *options)
    assert alone.exit_code == 0, alone.output
    killed = sharded(tmp_path / "two", run, *options, KILLED_AFTER="2")
    assert killed.returncode != 0
    both = sharded(tmp_path / "two", run, *options)
    assert both.returncode == 0, both.stderr[-3000:]
    assert "continuing after step 2" in both.stderr
    assert_same_weights(tmp_path)


def comparison(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "train.json").read_text())["comparison"]
    return found


def assert_same_weights(directory: Path, inside: str = "") -> None:
    """Those of `one`, within 1e-5, in float32; `two` may hold tied weights twice."""
    one, two = (weights(directory / name / inside) for name in ("one", "two"))
    for name, tensor in one.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(two[name], tensor, rtol=0.0, atol=1e-5)


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
