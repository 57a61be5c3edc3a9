"""The environment that heavy libraries find when they are imported: quiet, no telemetry."""

import json
import os
import shutil
import sys
from pathlib import Path

from sso_data.config.run import EngineConfig

QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}
COMPILE_FROM_VOCAB = 16384
"""On CPU, compiling vLLM's log-prob kernels pays from about this vocabulary on."""


def prepare_environment(config: EngineConfig) -> None:
    """Set what torch and vLLM read when they are imported; the user's own values stay."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if config.threads is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(config.threads)


def prepare_vllm(model_path: Path, config: EngineConfig) -> None:
    """Also keep vLLM's engine in this process, and without the compiler where it does not pay."""
    prepare_environment(config)
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    import torch

    if torch.cuda.is_available():
        return
    compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    content = json.loads((model_path / "config.json").read_text(encoding="utf-8"))
    nested = content.get("text_config") or {}
    vocab_size = int(content.get("vocab_size") or nested.get("vocab_size") or 0)
    if not compiler or vocab_size < COMPILE_FROM_VOCAB:
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
