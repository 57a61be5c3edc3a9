"""Model weights into memory: from safetensors alone, on one device, in one number format."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import is_flash_attn_2_available

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineError, ModelError, described


def load_weights(
    kind: Any, directory: Path, dtype: torch.dtype, *, trust_remote_code: bool, **options: Any
) -> tuple[Any, list[str]]:
    """Load a model of a transformers Auto class from safetensors on this machine.

    Returns it and the sorted names of the weights that its files lack. `options` go to
    `from_pretrained`. Raises ModelError where it cannot be loaded.
    """
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what is missing is the caller's to judge
    try:
        model, loading = kind.from_pretrained(
            str(directory),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"{directory}: cannot be loaded: {described(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    if other := sorted(loading["mismatched_keys"], key=str):
        name, *sizes = other[0]
        there, wanted = (list(size) for size in sizes)
        raise ModelError(
            f"{directory}: {len(other)} weights have another size than config.json says (first: "
            f"{name}, {there} and not {wanted}); use the two files of one model"
        )
    if (directory / "generation_config.json").is_file() and hasattr(model, "generation_config"):
        # Not used here, and transformers refuses to save some; a saved model gets a copy of it.
        model.generation_config = transformers.GenerationConfig()
    return model, sorted(loading["missing_keys"])


def load_causal_lm(
    directory: Path, dtype: torch.dtype, *, trust_remote_code: bool, **options: Any
) -> Any:
    """Load a causal language model; ModelError where it, or one of its weights, is missing."""
    kind = transformers.AutoModelForCausalLM
    model, missing = load_weights(
        kind, directory, dtype, trust_remote_code=trust_remote_code, **options
    )
    if missing:
        raise ModelError(
            f"{directory}: {len(missing)} weights are missing from its safetensors files "
            f"(first: {missing[0]}); download the model again"
        )
    return model


def put_on(device: torch.device, model: Any, directory: Path) -> Any:
    """Move the model to the device, for inference alone; EngineError where it does not fit."""
    try:
        return model.to(device).eval().requires_grad_(False)
    except RuntimeError as error:
        raise EngineError(f"{directory}: does not fit on {device}: {described(error)}") from error


def load_adapter(model: Any, adapter: Path) -> Any:
    """Put the LoRA adapter's layers into the model, unmerged: as it was trained.

    Raises EngineError without peft, ModelError for an adapter that is not this model's.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise EngineError("engine.adapter needs peft: pip install 'sso-data[lora]'") from error
    try:
        return PeftModel.from_pretrained(model, str(adapter)).get_base_model()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{adapter}: not a usable LoRA adapter: {described(error)}") from error


def pick_attention(config: EngineConfig) -> dict[str, Any]:
    """What `engine.attention` adds to the options of `load_weights`; EngineError where it is not
    available."""
    if config.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise EngineError(
            "engine.attention: flash_attention_2 is not available here (it needs the package "
            "flash-attn and a GPU); use auto or sdpa"
        )
    return {} if config.attention == "auto" else {"attn_implementation": config.attention}


def pick_device(name: str) -> torch.device:
    """The device that `engine.device` means here; EngineError where it is not available."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, is_there in available.items() if is_there)
    if not available[name]:
        raise EngineError(f"engine.device: {name} is not available here; use auto or cpu")
    return torch.device(name)


def pick_dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    """The number format that `engine.dtype` means on a device."""
    if config.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype
