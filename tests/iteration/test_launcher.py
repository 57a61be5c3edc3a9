"""The launcher that `iterate` chooses: a process for each GPU, when the engines are gone."""

import os
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.iteration import IterateConfig
from sso_data.config.training import TrainConfig
from sso_data.engines import devices
from sso_data.engines.devices import Gpu
from sso_data.iteration import training as home
from sso_data.iteration.run import iterate
from sso_data.iteration.training import Training, launcher_of, train_in_a_process
from tests.iteration.conftest import tiny
from tests.iteration.test_processes import children_of, linux


def gpus(count: int) -> list[Gpu]:
    return [
        Gpu(index=i, uuid=f"GPU-{i}", name="G", free=1 << 40, total=1 << 40) for i in range(count)
    ]


def processes(config: IterateConfig, rows: int) -> int:
    launcher = launcher_of(config, TrainConfig.model_validate({"optim": {"batch_size": rows}}))
    return int(launcher[launcher.index("--nproc-per-node") + 1]) if launcher else 1


@pytest.mark.parametrize(
    ("visible", "count", "rows", "expected"),
    [
        (None, 0, 32, 1),
        (None, 1, 32, 1),
        (None, 8, 32, 8),
        (None, 8, 12, 6),
        (None, 3, 32, 2),
        ("0,GPU-3,5", 8, 6, 3),
        ("", 8, 32, 1),
    ],
)
def test_a_process_for_each_visible_gpu_that_a_step_divides_by(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, rows: int, expected: int
) -> None:
    monkeypatch.setattr(devices, "_gpus_of", lambda *_: gpus(count))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert processes(IterateConfig(), rows) == expected
    assert processes(IterateConfig(launcher=()), rows) == 1
    own = IterateConfig(launcher=("accelerate", "launch"))
    assert launcher_of(own, TrainConfig()) == ("accelerate", "launch")


@linux
@pytest.mark.long
def test_two_processes_train_when_the_engines_are_gone(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two engines, then two trainers on CPU; the model is that of one process, but for rounding."""
    from safetensors.numpy import load_file

    subprocess_: dict[str, Any] = {"isolation": "subprocess", "count": 2}
    config = tiny(prompts, rounds=1, generate={"engine": subprocess_})
    beside: list[list[str]] = []
    launched: list[tuple[str, ...]] = []

    def train(training: Training) -> None:
        running = children_of(os.getpid()).values()
        beside.append([line for line in running if "resource_tracker" not in line])
        launched.append(training.launcher)
        train_in_a_process(training)

    iterate(config, tmp_path / "one", train=train)
    monkeypatch.setattr(home, "usable_gpus", lambda *_: gpus(2))
    iterate(config, tmp_path / "two", train=train)
    assert beside == [[], []]
    assert [len(one) for one in launched] == [0, 9]
    weights = [
        load_file(tmp_path / name / "round-1/model/model.safetensors") for name in ("one", "two")
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, one in weights[0].items():
        assert one == pytest.approx(weights[1][name], abs=1e-5), name
