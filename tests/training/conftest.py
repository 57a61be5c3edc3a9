"""Rows of the tiny policy, made once by `generate` with the transformers engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from transformers import AutoModelForCausalLM

from sso_data.config.run import ViewsConfig
from sso_data.config.training import SequenceConfig
from sso_data.core.records import JsonRow
from sso_data.templating.chat_template import load_tokenizer
from sso_data.training.data import PairReader
from sso_data.training.encode import EncodedRow, Encoder, template_for
from sso_data.training.loss import PREFERENCE_TERMS
from sso_data.world import policy_dir
from tests.once import once
from tests.tiny_runs import tiny_run

PROMPTS = 72


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of the tiny policy."""
    return once(tmp_path_factory, "train", lambda at: tiny_run(at, PROMPTS, seed=11)) / "run"


@pytest.fixture(scope="session")
def journal(run: Path) -> list[JsonRow]:
    """Every row, kept or not."""
    lines = (run / "rows" / "00000.jsonl").read_bytes().splitlines()
    return [orjson.loads(line) for line in lines]


@pytest.fixture(scope="session")
def pairs(run: Path) -> list[JsonRow]:
    """The rows that the filter kept, as the outside world gets them."""
    lines = (run / "pairs" / "train.jsonl").read_bytes().splitlines()
    return [orjson.loads(line) for line in lines]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return load_tokenizer(policy_dir())


@pytest.fixture
def policy() -> Iterator[Any]:
    """The tiny policy in fp32, fresh."""
    yield AutoModelForCausalLM.from_pretrained(policy_dir(), dtype=torch.float32)


@pytest.fixture
def encoder(tokenizer: Any, journal: list[JsonRow]) -> Encoder:
    return Encoder(
        template=template_for(tokenizer, journal[0], ViewsConfig()),
        config=SequenceConfig(),
        terms=PREFERENCE_TERMS,
        eos_ids=frozenset({2}),
        vocab_size=945,
    )


@pytest.fixture
def encoded(encoder: Encoder, journal: list[JsonRow]) -> list[EncodedRow]:
    return encoder.encode(journal)


@pytest.fixture
def reader(tokenizer: Any) -> PairReader:
    return PairReader(
        tokenizer=tokenizer,
        sequences=SequenceConfig(),
        views=ViewsConfig(),
        eos_ids=frozenset({2}),
        vocab_size=945,
    )
