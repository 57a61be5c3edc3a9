"""The policy on disk and in memory: its files, its weights for training, a LoRA adapter."""

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sso_data.config.run import EngineConfig
from sso_data.config.training import LoraConfig, TrainConfig
from sso_data.core.errors import ConfigError, described
from sso_data.core.progress import Progress
from sso_data.models.directory import (
    TOKENIZER_FILES,
    model_fingerprint,
    resolve_model,
    tokenizer_fingerprint,
)
from sso_data.models.facts import ModelFacts, read_model_facts
from sso_data.models.loading import load_adapter, load_causal_lm
from sso_data.runs.files import make_dir, write_atomic
from sso_data.templating.chat_template import load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFiles:
    """A model directory, and what it says of itself."""

    name: str
    directory: Path
    fingerprint: str
    tokenizer_fingerprint: str
    tokenizer: Any
    facts: ModelFacts
    dtype: torch.dtype


def find_policy(config: TrainConfig, progress: Progress | None = None) -> PolicyFiles:
    """Return the policy of `config`; ConfigError for none, ModelError if it cannot be used."""
    if not config.model:
        raise ConfigError("no model given: add --model DIRECTORY_OR_HUB_ID, or model: to --config")
    trusted = config.trust_remote_code
    directory = resolve_model(config.model, config.revision, trust_remote_code=trusted)
    return PolicyFiles(
        name=config.model,
        directory=directory,
        tokenizer=load_tokenizer(directory, trust_remote_code=trusted),
        fingerprint=model_fingerprint(directory, progress),
        tokenizer_fingerprint=tokenizer_fingerprint(directory),
        facts=read_model_facts(directory, EngineConfig(trust_remote_code=trusted)),
        dtype=_stored_dtype(directory),
    )


def _stored_dtype(directory: Path) -> torch.dtype:
    """The number format that config.json names; float32 where it names none."""
    content = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    nested = content.get("text_config") or {}
    names = (part.get(key) for part in (content, nested) for key in ("dtype", "torch_dtype"))
    found = getattr(torch, next((str(name) for name in names if name), "float32"), None)
    return found if isinstance(found, torch.dtype) else torch.float32


def compute_dtype(config: TrainConfig) -> torch.dtype:
    """The number format of forward and backward passes on this machine."""
    if config.optim.compute_dtype != "auto":
        chosen: torch.dtype = getattr(torch, config.optim.compute_dtype)
        return chosen
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if on_gpu else torch.float32


def load_model(policy: PolicyFiles, config: TrainConfig) -> Any:
    """Load the model to be trained, with a new LoRA adapter where one is asked for.

    Raises ModelError where it cannot be loaded, ConfigError for an adapter that cannot be made.
    """
    if config.lora.enabled:
        _require_peft()
    if config.optim.param_dtype != "auto":
        dtype = getattr(torch, config.optim.param_dtype)
    else:
        frozen_on_gpu = config.lora.enabled and torch.cuda.is_available()
        dtype = policy.dtype if frozen_on_gpu else torch.float32
    model = load_causal_lm(policy.directory, dtype, trust_remote_code=config.trust_remote_code)
    model.config.use_cache = False
    return with_adapter(model, policy, config) if config.lora.enabled else model


def _require_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError("--lora needs peft: pip install 'sso-data[lora]'") from error
    return peft


def with_adapter(
    model: Any, policy: PolicyFiles, config: TrainConfig, *, task: str = "CAUSAL_LM"
) -> Any:
    """Return the model with a new LoRA adapter, its own weights frozen; ConfigError for targets."""
    peft = _require_peft()
    lora: LoraConfig = config.lora
    torch.manual_seed(config.seed)  # the adapter's first matrices are random
    try:
        with warnings.catch_warnings():  # peft takes the model's own directory, and says so
            warnings.filterwarnings("ignore", "The PEFT config's `base_model_name_or_path`")
            return peft.get_peft_model(
                model,
                peft.LoraConfig(
                    task_type=task,
                    r=lora.r,
                    lora_alpha=lora.alpha,
                    target_modules=list(lora.targets) or "all-linear",
                    base_model_name_or_path=policy.name,
                ),
            )
    except ValueError as error:
        raise ConfigError(f"lora.targets: {described(error)}") from error


def like_adapted(model: Any, adapted: Any) -> Any:
    """Return the whole `model` with a new adapter of the same form as that of `adapted`."""
    return _require_peft().get_peft_model(model, adapted.peft_config[adapted.active_adapter])


def load_trained(directory: Path, policy: PolicyFiles, load: Callable[[Path], Any]) -> Any:
    """What a training wrote, by `load`: a model, or an adapter on the policy that it began with."""
    if not (directory / "adapter_config.json").is_file():
        return load(directory)
    return load_adapter(load(policy.directory), directory)


def saved_dtype(policy: PolicyFiles, config: TrainConfig) -> torch.dtype:
    """The number format in which a training saves its weights."""
    name = config.optim.save_dtype
    chosen: torch.dtype = policy.dtype if name == "auto" else getattr(torch, name)
    return chosen


def save_model(
    model: Any,
    state: dict[str, Any],
    policy: PolicyFiles,
    out: Path,
    dtype: torch.dtype,
    *,
    tokenizer: Any = None,
) -> None:
    """Write weights (safetensors, in the number format `dtype`), configuration, tokenizer.

    `state` is the whole state dict. The tokenizer's files are the policy's own, byte for byte,
    unless another `tokenizer` is given.
    """
    is_adapter = hasattr(model, "peft_config")
    made: dict[tuple[int, torch.Size], torch.Tensor] = {}  # tied weights stay one tensor
    converted = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in made:
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            made[key] = tensor.detach().to("cpu", kind)
        converted[name] = made[key]
    make_dir(out)
    model.save_pretrained(
        str(out),
        state_dict=converted,
        safe_serialization=True,
        **({"save_embedding_layers": False} if is_adapter else {}),
    )
    for pattern in TOKENIZER_FILES:
        for source in policy.directory.glob(pattern):
            shutil.copyfile(source, out / source.name)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(out))
    # Saving a model in another number format, without its cache, wrote what is not so.
    file = out / ("adapter_config.json" if is_adapter else "config.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    if is_adapter:
        content["base_model_name_or_path"] = policy.name
    else:
        original = json.loads((policy.directory / file.name).read_text(encoding="utf-8"))
        content["dtype"] = str(dtype).removeprefix("torch.")
        content["use_cache"] = original.get("use_cache", True)
    write_atomic(file, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
