"""On SmolLM2-135M-Instruct: exact numbers with both engines, accounting, resume, a little training.

Eight prompts, answers of at most 48 tokens, one short principle. A test that takes five minutes
(with the making of the model and of its run, where it is the first) fails.
"""

import json
import math
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sso_data.config.loading import load
from sso_data.config.run import EngineConfig, RunConfig, load_config
from sso_data.config.training import TrainConfig
from sso_data.core.paths import examples_dir
from sso_data.core.progress import NullProgress
from sso_data.core.records import VIEWS, Row, View, hash_ids
from sso_data.engines import start_engine
from sso_data.engines.interface import SampleRequest
from sso_data.generation.generate import Summary, generate
from sso_data.runs.journal import read_rows
from sso_data.training.run import train
from tests.engines.calls import ask
from tests.engines.conftest import needs_vllm
from tests.once import once

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

PROMPTS, REDONE = 8, 2
MOST_TOKENS = 48
EXAMPLES = examples_dir() / "demo"
QUESTIONS = (EXAMPLES / "questions.txt").read_text().splitlines()[:PROMPTS]


def settings(model: Path, engine: str) -> RunConfig:
    return load_config(
        model=str(model),
        seed=3,
        principles=EXAMPLES / "principles",
        steering={"choose": "fixed", "features": ("Concision",), "concision_probability": 0.0},
        sampling={"max_tokens": MOST_TOKENS},
        scoring={"verify_rows": 1},
        engine=engine_settings(engine).model_dump(),
        filter={"preset": "none", "drop_truncated": False},
    )


def engine_settings(name: str) -> EngineConfig:
    return EngineConfig.model_validate(
        {
            **{"name": name, "isolation": "inline", "device": "cpu", "dtype": "float32"},
            **{"threads": 1, "max_num_seqs": 12, "max_model_len": 512},
        }
    )


class InterruptedAfter(NullProgress):
    """Ctrl-C once so many rows are done."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        rows, _, counted = state.partition(" rows")
        if counted and int(rows) >= self._rows:
            raise KeyboardInterrupt


def make_run(folder: Path, model: Path, engine: str, questions: Sequence[str] = QUESTIONS) -> None:
    """A run that was interrupted after three rows, if it has more, and continued."""
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(questions) + "\n")
    config = settings(model, engine)
    with suppress(KeyboardInterrupt):
        generate(str(prompts), folder / "run", config, InterruptedAfter(3))
    before = len(list(read_rows(folder / "run")))
    summary = generate(str(prompts), folder / "run", config)
    account = {"before": before, **facts(summary)}
    (folder / "account.json").write_text(json.dumps(account))


def facts(summary: Summary) -> dict[str, Any]:
    account, decision = summary.account, summary.decision
    return {
        "prompts": account.prompts,
        "rows": account.rows,
        "failed": account.failed,
        "kept": len(decision.kept),
        "dropped": sum(decision.dropped.values()),
    }


@pytest.fixture(scope="session")
def tokenizer(smollm2: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(
    params=[pytest.param("vllm", marks=needs_vllm), "transformers"],
)
def made(
    request: pytest.FixtureRequest, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run, made once with each engine."""
    return made_with(request.param, smollm2, tmp_path_factory)


def made_with(engine: str, model: Path, factory: pytest.TempPathFactory) -> Path:
    return once(factory, f"real-{engine}", partial(make_run, model=model, engine=engine))


def prompt_ids(row: Row, view: View, tokenizer: Any) -> list[int]:
    """The ids of a view by transformers' own chat template, of the messages as they should be."""
    turns = [message.to_json() for message in row.messages]
    if view != "plain":
        turns.insert(0, {"role": "system", "content": row.system[view]})
    ids: list[int] = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=False
    )
    return ids


def test_the_conversion_is_right(smollm2: Path, tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    question = SampleRequest(
        key="a", prompt_ids=ids, max_tokens=16, seed=0, temperature=0.0, top_p=1.0
    )
    with closing(start_engine(smollm2, engine_settings("transformers"))) as engine:
        answer = ask(engine, [question])["a"]
    assert "Paris" in tokenizer.decode(answer.token_ids)


def test_numbers_and_books(made: Path, smollm2: Path, tokenizer: Any) -> None:
    account = json.loads((made / "account.json").read_text())
    assert account["prompts"] == PROMPTS == account["rows"] + account["failed"]
    assert account["rows"] == PROMPTS == account["kept"] + account["dropped"]
    assert 3 <= account["before"] < PROMPTS, "interrupted on the way"
    rows = list(read_rows(made / "run"))
    assert sorted(row.messages[-1].content for row in rows) == sorted(QUESTIONS)
    for row in rows:
        assert "Answer in one short sentence." in row.system["good"]
        assert "Answer in four long sentences." in row.system["bad"]
        for view in VIEWS:
            assert row.prompt_hash[view] == hash_ids(prompt_ids(row, view, tokenizer))
            check_response(row, view, tokenizer)
    assert any(row.responses["good"].finish_reason == "stop" for row in rows)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    for row in rows[:2]:
        for (seen, drawn), total in row.logp.items():
            ids = row.responses[drawn].token_ids
            expected = plain_forward(model, prompt_ids(row, seen, tokenizer), ids)
            assert total == pytest.approx(expected, abs=1e-4 * len(ids)), (seen, drawn)


def check_response(row: Row, view: View, tokenizer: Any) -> None:
    """The text is that of the ids; the end-of-sequence id is the last one, where it ended."""
    response, end = row.responses[view], tokenizer.eos_token_id
    assert response.text == tokenizer.decode(response.token_ids, skip_special_tokens=True)
    if response.finish_reason == "stop":
        assert response.token_ids.index(end) == len(response.token_ids) - 1
        assert tokenizer.decode(response.token_ids) == f"{response.text}<|im_end|>"
    else:
        assert response.finish_reason == "length"
        assert len(response.token_ids) == MOST_TOKENS and end not in response.token_ids


def plain_forward(model: Any, prompt: list[int], completion: tuple[int, ...]) -> float:
    """Total log-prob (nats) by a forward pass in fp32 without padding, cache or batch."""
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        nats = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(nats.gather(-1, ids[0, len(prompt) :, None]).sum())


def test_the_rows_are_those_of_an_uninterrupted_run(
    smollm2: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = {
        row.id: row
        for row in read_rows(made_with("transformers", smollm2, tmp_path_factory) / "run")
    }
    last = [row.messages[-1].content for row in rows.values()][-REDONE:]
    make_run(tmp_path, smollm2, "transformers", last)
    again = {row.id: row for row in read_rows(tmp_path / "run")}
    assert len(again) == REDONE
    for name, row in again.items():
        assert row.responses == rows[name].responses
        assert (row.seed, row.prompt_hash) == (rows[name].seed, rows[name].prompt_hash)
        for cell, total in row.logp.items():
            assert rows[name].logp[cell] == pytest.approx(total, abs=1e-3)


class InterruptedAtStep(NullProgress):
    """Ctrl-C when a step of training is reported."""

    def __init__(self, step: int) -> None:
        self._step = step

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        if unit == "steps" and done >= self._step:
            raise KeyboardInterrupt


def test_training_and_its_continuation(
    smollm2: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Interrupted in its second step it goes on after the first one, to the same weights."""
    run = made_with("transformers", smollm2, tmp_path_factory) / "run"
    config = load(
        TrainConfig,
        model=str(smollm2),
        data={"limit": 2},
        optim={"lr": 1e-4, "max_steps": 2, "batch_size": 1, "schedule": "constant"},
        lora={"enabled": True, "r": 4},
        checkpoints={"every": 1},
        log={"plot": False},
    )
    summary = train(str(run), tmp_path / "out", config)
    assert summary.new_steps == 2
    references = summary.manifest["references"]
    assert references["source"] == "recorded" and references["worst"] < 1e-4
    assert all(math.isfinite(summary.manifest[name]["loss"]) for name in ("first", "last"))
    adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(bool(b.any()) for name, b in adapter.items() if "lora_B" in name), "all have moved"

    with pytest.raises(KeyboardInterrupt):
        train(str(run), tmp_path / "again", config, InterruptedAtStep(2))
    assert train(str(run), tmp_path / "again", config).new_steps == 1
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert again.keys() == adapter.keys()
    assert all(bool((again[name] == value).all()) for name, value in adapter.items())
