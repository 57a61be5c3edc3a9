"""The Hugging Face Hub: where a model given by id lies on this machine, and who it is."""

import hashlib
from pathlib import Path

from sso_data.errors import ModelError

_MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_SAMPLED_BLOCKS, _BLOCK_BYTES = 64, 1 << 16


def resolve_model(model: str, revision: str | None = None) -> Path:
    """The local directory of a model: `model` itself, or the Hub snapshot of that id, downloaded.

    Raises ModelError when it is neither.
    """
    local = Path(model).expanduser()
    if local.is_dir():
        return local.resolve()
    if local.exists():
        raise ModelError(f"{model}: is a file; --model takes a model directory or a Hub id")
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ModelError(f"{model}: no such model directory, and not a Hub id (namespace/name)")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(model, revision=revision, allow_patterns=list(_MODEL_FILES))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{model}: no such directory, and the Hub did not give it: {reason}"
        ) from error
    return Path(folder)


def model_fingerprint(directory: Path, *, config_name: str = "config.json") -> str:
    """16 hexadecimal digits over config.json and the weights.

    Of each safetensors file: its name, size, first megabyte (the header) and 64 blocks of 64 KiB
    spread over it. Training moves every weight, so this tells any two checkpoints apart without
    reading hundreds of gigabytes.
    """
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{directory}: no *.safetensors here; only safetensors weights are loaded")
    digest = hashlib.sha256((directory / config_name).read_bytes())
    for file in weights:
        _check_whole(file)
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            for index in range(_SAMPLED_BLOCKS):
                stream.seek(size * index // _SAMPLED_BLOCKS)
                digest.update(stream.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def _check_whole(file: Path) -> None:
    """Raise ModelError when a safetensors file is cut or is something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file}: not a whole safetensors file ({error}); download the model again"
        ) from error


def tokenizer_fingerprint(directory: Path) -> str:
    """16 hexadecimal digits over the tokenizer's files."""
    digest = hashlib.sha256()
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json"):
        file = directory / name
        if file.is_file():
            digest.update(name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]
