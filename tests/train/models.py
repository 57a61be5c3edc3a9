"""Small models and rows for training tests."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

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
