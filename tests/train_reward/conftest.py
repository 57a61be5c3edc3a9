"""Rows of the tiny policy (made once, as for tests/train) and small classifiers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, TrainingArguments

from sso_data.config.loss import SequenceConfig
from sso_data.config.run import ViewsConfig
from sso_data.training.data import PairReader
from tests.train.conftest import journal, one_thread, run, tokenizer

__all__ = ["journal", "one_thread", "run", "tokenizer"]


@pytest.fixture
def reader(tokenizer: Any) -> PairReader:
    return PairReader(
        tokenizer=tokenizer,
        sequences=SequenceConfig(),
        views=ViewsConfig(),
        eos_ids=frozenset({2}),
        vocab_size=945,
    )


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
