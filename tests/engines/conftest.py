"""A tiny random Llama and the engines under test, each loaded once per session."""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.run import EngineConfig
from sso_data.engines import start_engine
from sso_data.engines.interface import Engine

for name, value in {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}.items():
    os.environ.setdefault(name, value)  # before anything imports torch or vLLM

VOCAB = 300
CONTEXT = 256
EOS_IDS = (2, 3, *range(10, 25))

needs_vllm = (
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
)


def tiny_config(**settings: Any) -> EngineConfig:
    defaults = {"isolation": "inline", "device": "cpu", "threads": 1, "max_num_seqs": 32}
    settings = {**defaults, **settings}
    if settings.get("name") == "vllm":
        settings.setdefault("vllm", {"kv_cache_memory_bytes": 64 << 20})
    return EngineConfig.model_validate(settings)


def make_tiny_model(directory: Path, **changes: Any) -> Path:
    """Random weights spread enough that sampling is far from uniform; saved as bf16 safetensors."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings | changes)).to(torch.bfloat16)
    model.save_pretrained(directory)
    generation = {"eos_token_id": list(EOS_IDS), "top_k": 1, "repetition_penalty": 3.0}
    (directory / "generation_config.json").write_text(json.dumps(generation))
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def adapter(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that changes the tiny model noticeably."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("adapter")
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    torch.manual_seed(4)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def plain_model(model_path: Path) -> Any:
    """The same weights as a bare transformers model in fp32, for what tests compute by hand."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def transformers_engine(model_path: Path) -> Iterator[Engine]:
    engine = start_engine(model_path, tiny_config(name="transformers"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def vllm_engine(model_path: Path) -> Iterator[Engine]:
    engine = start_engine(model_path, tiny_config(name="vllm"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def child_engine(model_path: Path) -> Iterator[Engine]:
    engine = start_engine(model_path, tiny_config(name="transformers", isolation="subprocess"))
    yield engine
    engine.close()


@pytest.fixture(
    params=[pytest.param("vllm_engine", marks=needs_vllm), "transformers_engine", "child_engine"]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn: the contract holds for all of them."""
    found: Engine = request.getfixturevalue(request.param)
    return found
