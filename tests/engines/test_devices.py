"""Which engines fit the visible GPUs, and which of them each child sees."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sso_data.config.run import EngineConfig
from sso_data.core.errors import ConfigError, EngineError
from sso_data.engines import devices
from sso_data.engines.devices import Gpu, parsed, plan_engines

GIB = 1 << 30
UUIDS = ["GPU-f", "GPU-abc", "GPU-b", "GPU-c", "GPU-d", "GPU-e", "GPU-g", "GPU-h"]


def box(free: Sequence[float] = (79,) * 8, names: Sequence[str] = ("H100",) * 8) -> list[Gpu]:
    return [
        Gpu(index=i, uuid=UUIDS[i], name=names[i], free=int(free[i] * GIB), total=80 * GIB)
        for i in range(len(free))
    ]


def seen(
    environ: dict[str, str] | None = None, gpus: list[Gpu] | None = None, **settings: Any
) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each child."""
    config = EngineConfig.model_validate(settings)
    found = plan_engines(config, "vllm", gpus=gpus or box(), environ=environ or {})
    return [environment.get("CUDA_VISIBLE_DEVICES", "") for environment in found.environments]


def test_visible_devices_are_split_in_their_order() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "GPU-a,3,5,7"}
    assert seen(environ, tensor_parallel_size=2) == ["GPU-a,3", "5,7"]
    assert seen(environ) == ["GPU-a", "3", "5", "7"]
    assert seen(environ, tensor_parallel_size=3) == ["GPU-a,3,5"]
    assert seen(environ, vllm={"pipeline_parallel_size": 2}, tensor_parallel_size=2) == [
        "GPU-a,3,5,7"
    ]
    assert seen(environ, count=3) == ["GPU-a", "3", "5"]
    assert seen({"CUDA_VISIBLE_DEVICES": "MIG-1, MIG-2"}) == ["MIG-1", "MIG-2"]
    assert seen() == list("01234567")
    assert seen({"CUDA_VISIBLE_DEVICES": "2,9,3"}) == ["2"], "as CUDA: what follows is invisible"


def test_the_order_of_indices_is_fixed_where_the_user_chose_none() -> None:
    plan = plan_engines(EngineConfig(), "vllm", gpus=box(), environ={})
    assert plan.environments[1]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert plan.text.startswith("8 engines on 8 GPUs: engine 1 (GPU 0); engine 2 (GPU 1)")


def test_gpus_without_room_are_skipped() -> None:
    gpus = box((79, 3, 79, 79))
    plan = plan_engines(EngineConfig(), "vllm", gpus=gpus, environ={})
    assert [one["CUDA_VISIBLE_DEVICES"] for one in plan.environments] == ["0", "2", "3"]
    assert plan.skipped == ("GPU 1 (3.0 of 80.0 GiB free, 72.0 needed)",)
    with pytest.raises(ConfigError, match="4 engines need 4 GPUs; of 4 visible ones 3 have enough"):
        plan_engines(EngineConfig(count=4), "vllm", gpus=gpus, environ={})
    with pytest.raises(EngineError, match=r"no engine fits.* of 1 visible ones 0 have it; GPU 0"):
        plan_engines(EngineConfig(), "vllm", gpus=box((3,)), environ={})
    # CUDA's order of unlike GPUs is another than the driver's: what an index has free is not known
    mixed = box((3, 79), names=("T4", "H100"))
    assert seen({"CUDA_VISIBLE_DEVICES": "0,1"}, mixed) == ["0", "1"]
    assert seen({"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, mixed) == ["1"]


@pytest.mark.parametrize("visible", ["", "-1", "none"])
def test_no_visible_gpu_is_one_engine_on_cpu(visible: str) -> None:
    assert seen({"CUDA_VISIBLE_DEVICES": visible}) == [""]
    with pytest.raises(ConfigError, match=r"an engine of 2 GPUs, but no GPU is visible here"):
        seen({"CUDA_VISIBLE_DEVICES": visible}, tensor_parallel_size=2)


def test_an_engine_larger_than_the_box_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"an engine of 16 GPUs, but 8 are visible here"):
        seen(tensor_parallel_size=16)


def test_engines_on_cpu_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    config = EngineConfig(count=4)
    plan = plan_engines(config, "transformers", gpus=[], environ={})
    assert plan.environments == ({"OMP_NUM_THREADS": "2"},) * 4
    assert plan.text == "4 engines on CPU"
    own = plan_engines(config, "transformers", gpus=[], environ={"OMP_NUM_THREADS": "1"})
    assert own.environments == ({},) * 4
    with pytest.raises(ConfigError, match="9 engines, but no GPU is visible here, and 8 CPU cores"):
        plan_engines(EngineConfig(count=9), "vllm", gpus=[], environ={})


def test_the_output_of_nvidia_smi() -> None:
    text = "0, GPU-1f, NVIDIA H100 80GB HBM3, 80994, 81559\n1, GPU-2, NVIDIA GB10, [N/A], [N/A]\n"
    first, second = parsed(text)
    assert (first.index, first.uuid, first.free) == (0, "GPU-1f", 80994 << 20)
    assert (second.name, second.total) == ("NVIDIA GB10", 0)


def test_an_engine_that_has_just_ended_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([box((3,)), box((3,)), box((79,))])
    monkeypatch.setattr(devices, "_gpus_of", lambda *_: next(looks))
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.plan_with_patience(EngineConfig(), "vllm", Path()).gpus == 1


def test_what_cannot_work_is_refused_with_the_configuration() -> None:
    for settings, line in (
        ({"vllm": {"data_parallel_size": 2}}, "hangs offline: set engine.count"),
        ({"count": 2, "isolation": "inline"}, "isolation is inline, which is one engine"),
        ({"count": 0}, "greater than or equal to 1"),
    ):
        with pytest.raises(ValidationError, match=line):
            EngineConfig.model_validate(settings)


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from sso_data.config.run import EngineConfig\n"
        "from sso_data.engines.devices import plan_engines\n"
        "plan_engines(EngineConfig(), 'transformers')\n"
        "print(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert run.stdout.strip() == "[]", run.stderr
