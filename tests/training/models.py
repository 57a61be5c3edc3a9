"""Small models and rows for training tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    TrainingArguments,
)

from sso_data.core.records import View
from sso_data.training.encode import EncodedRow, Ids
from sso_data.training.loss import PREFERENCE_TERMS


def arrays(*ids: int) -> Ids:
    return np.asarray(ids, np.int32)


def gpt2(*, vocab_size: int = 40, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """A random GPT-2, which keeps to its own number format everywhere (no fp32 inside)."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=128,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config).to(dtype).eval()


def random_rows(count: int, *, vocab_size: int = 40, seed: int = 0) -> list[EncodedRow]:
    """Rows of 1 to 12 tokens a part, with made-up references."""
    rng = np.random.default_rng(seed)

    def ids() -> Ids:
        return rng.integers(3, vocab_size, rng.integers(1, 13)).astype(np.int32)

    views: tuple[View, ...] = ("plain", "good", "bad")
    found = []
    for index in range(count):
        completions: Mapping[View, Ids] = {view: ids() for view in views}
        found.append(
            EncodedRow(
                id=f"row-{index}",
                prompts={view: ids() for view in views},
                completions=completions,
                ref_CS=-rng.uniform(1, 30, (len(PREFERENCE_TERMS), 2)),
            )
        )
    return found


def classifier(*, seed: int = 0, vocab_size: int = 40) -> Any:
    """A random GPT-2 with a head of one number, in float64; padded with 0."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=128,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        num_labels=1,
    )
    return GPT2ForSequenceClassification(config).to(torch.float64).eval()


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "disable_tqdm": True,
        "seed": 3,
    }
    return TrainingArguments(**(settings | options))
