"""What only the transformers engine does: joining, backing off, odd heads and caches, adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sso_data.core.errors import EngineError, ModelError
from sso_data.engines.interface import Refused, Sampled, Scored
from sso_data.engines.transformers import TransformersEngine
from sso_data.models.inference import LoadedModel
from tests.engines.calls import ask, many_samples, score
from tests.engines.conftest import make_tiny_model, tiny_config
from tests.engines.test_contract import true_logprobs


def start(model_path: Path, **settings: Any) -> TransformersEngine:
    return TransformersEngine(model_path, tiny_config(name="transformers", **settings))


def answers(results: dict[str, Any]) -> dict[str, Any]:
    return {key: (result.token_ids, result.finish_reason) for key, result in results.items()}


def test_joining_rows_changes_nothing(model_path: Path) -> None:
    """Four rows at a time, with joins, trims and growth, equal all rows at once."""
    requests = many_samples(40, max_tokens=150, temperature=1.0)
    wide = ask(start(model_path, max_num_seqs=64), requests)
    narrow = ask(start(model_path, max_num_seqs=4, batch_tokens=256), requests)
    assert answers(narrow) == answers(wide)
    assert max(len(result.token_ids) for result in wide.values()) > 80
    for key, result in wide.items():
        assert narrow[key].total_nats == pytest.approx(result.total_nats, abs=1e-3)


def test_the_active_batch_stays_within_its_bounds(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, int]] = []
    forward = LoadedModel.last_logits

    def watching(self: LoadedModel, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        shapes.append((ids.shape[0], ids.shape[1]))
        return forward(self, ids, *rest)

    monkeypatch.setattr(LoadedModel, "last_logits", watching)
    ask(start(model_path, max_num_seqs=8, batch_tokens=256), many_samples(40))
    assert all(rows <= 8 and rows * width <= 256 for rows, width in shapes)
    decoded = [rows for rows, width in shapes if width == 1]
    assert sum(decoded) / len(decoded) > 4, "new rows join as others end"


def test_scores_in_small_passes_equal_those_of_one(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of about the same length, within their bound, with the same log-probs."""
    requests = [score(f"c{r.key}", r.prompt_ids, (50, 60, 70, 80)) for r in many_samples(40)]
    monkeypatch.setattr("sso_data.models.memory.CPU_PASS_TOKENS", 10**6)
    expected = ask(start(model_path), requests)
    shapes: list[list[int]] = []
    forward = LoadedModel.completion_logprobs

    def watching(self: LoadedModel, prompts: Any, completions: Any) -> Any:
        shapes.append([len(p) + len(c) for p, c in zip(prompts, completions, strict=True)])
        return forward(self, prompts, completions)

    monkeypatch.setattr(LoadedModel, "completion_logprobs", watching)
    monkeypatch.setattr("sso_data.models.memory.CPU_PASS_TOKENS", 256)
    found = ask(start(model_path), requests)
    assert len(shapes) > 5
    assert all(len(lengths) * max(lengths) <= 256 for lengths in shapes)
    in_order = [length for lengths in shapes for length in lengths]
    assert in_order == sorted(in_order, reverse=True)
    for key, result in expected.items():
        assert found[key].total_nats == pytest.approx(result.total_nats, abs=1e-5)


def test_attention_changes_nothing_but_rounding(model_path: Path) -> None:
    requests = [score(f"c{r.key}", r.prompt_ids, (50, 60, 70)) for r in many_samples(8)]
    usual, eager = start(model_path), start(model_path, attention="eager")
    assert (usual._model.config._attn_implementation, eager._model.config._attn_implementation) == (
        "sdpa",
        "eager",
    )
    expected, found = ask(usual, requests), ask(eager, requests)
    for key, result in expected.items():
        assert found[key].total_nats == pytest.approx(result.total_nats, abs=1e-5)
    with pytest.raises(EngineError, match=r"engine\.attention: flash_attention_2 is not available"):
        start(model_path, attention="flash_attention_2")


def test_running_out_of_memory_halves_the_batch(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = many_samples(24, max_tokens=40)
    scores = [score(f"c{r.key}", r.prompt_ids, (50, 60, 70)) for r in requests]
    expected = ask(start(model_path), [*requests, *scores])
    limit_batch(monkeypatch, rows=5)
    found = ask(start(model_path), [*requests, *scores])
    for key, result in expected.items():
        assert type(found[key]) is type(result)
        assert found[key].total_nats == pytest.approx(result.total_nats, abs=1e-3)
        if isinstance(result, Sampled):
            assert found[key].token_ids == result.token_ids


def test_a_request_that_never_fits_is_refused(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_batch(monkeypatch, rows=0)
    found = ask(
        start(model_path), [*many_samples(5), score("c", (1, 2), (3,)), score("d", (1,), (3,))]
    )
    assert all(isinstance(result, Refused) for result in found.values())
    assert "out of memory" in found["c"].detail


def limit_batch(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Make the model run out of memory with more rows than this, half way through the pass."""
    logits, logprobs = LoadedModel.last_logits, LoadedModel.completion_logprobs

    def sampling(self: LoadedModel, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        result = logits(self, ids, *rest)
        if ids.shape[0] > rows:
            raise torch.OutOfMemoryError("no memory left")
        return result

    def scoring(self: LoadedModel, prompts: Any, completions: Any) -> list[list[float]]:
        if len(prompts) > rows:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return logprobs(self, prompts, completions)

    monkeypatch.setattr(LoadedModel, "last_logits", sampling)
    monkeypatch.setattr(LoadedModel, "completion_logprobs", scoring)


def odd_model(kind: str, directory: Path) -> Path:
    """A model whose logits are more than its LM head (Gemma 2), or whose cache slides (Mistral)."""
    from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig

    make_tiny_model(directory)
    shape = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "sliding_window": 16,
        "initializer_range": 0.3,
        "eos_token_id": 2,
    }
    config = Gemma2Config(**shape) if kind == "gemma2" else MistralConfig(**shape)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("kind", ["gemma2", "mistral"])
def test_soft_caps_and_sliding_windows(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    path = odd_model(kind, tmp_path)
    engine = start(path, max_num_seqs=4)
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    requests = many_samples(12, max_tokens=40)
    sampled = ask(engine, requests)
    scored = ask(engine, [score(r.key, r.prompt_ids, sampled[r.key].token_ids) for r in requests])
    for request in requests:
        ids = sampled[request.key].token_ids
        expected = pytest.approx(
            sum(true_logprobs(plain, tuple(request.prompt_ids), ids)), abs=1e-4 * len(ids)
        )
        assert sampled[request.key].total_nats == expected
        assert scored[request.key].total_nats == expected


def test_an_adapter_is_part_of_the_policy(model_path: Path, adapter: Path) -> None:
    plain = ask(start(model_path), [score("a", (1, 40), (50, 60, 70))])["a"]
    tuned = ask(start(model_path, adapter=adapter), [score("a", (1, 40), (50, 60, 70))])["a"]
    assert isinstance(tuned, Scored)
    assert abs(tuned.total_nats - plain.total_nats) > 0.1


def test_a_missing_peft_names_the_extra(
    model_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(EngineError, match=r"pip install 'sso-data\[lora\]'"):
        start(model_path, adapter=adapter)


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model directory"):
        start(tmp_path)
    make_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        start(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_the_context_can_be_shortened_not_stretched(model_path: Path) -> None:
    assert start(model_path, max_model_len=100).info.context_tokens == 100
    with pytest.raises(EngineError, match=r"engine\.max_model_len: 1000"):
        start(model_path, max_model_len=1000)


def test_half_precision_on_request(model_path: Path) -> None:
    engine = start(model_path, dtype="bfloat16")
    assert engine.info.dtype == "bfloat16"
    assert all(isinstance(r, Sampled) for r in ask(engine, many_samples(4)).values())
