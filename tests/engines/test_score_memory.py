"""The memory of scoring against vLLM's own arithmetic, on GPUs made up for it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.run import EngineConfig
from sso_data.core.errors import ConfigError
from sso_data.doctor import examine
from sso_data.engines import devices, score_memory
from sso_data.engines.devices import Gpu
from sso_data.engines.score_memory import SPARE, STEP_TOKENS, bound_scoring, planned_scoring
from sso_data.models.facts import ModelFacts
from sso_data.world import policy_dir

GIB = 1 << 30
QWEN = ModelFacts(context=32768, vocab_size=151_936, eos_ids=(1,), kv_numbers=1)
SMALL = ModelFacts(context=2048, vocab_size=49_152, eos_ids=(1,), kv_numbers=1)


def peak(rows: list[int], vocabulary: int, logit: int, copies: int = 1) -> int:
    """Bytes of the loop over requests in `_get_prompt_logprobs_dict`, names kept until rebound."""
    most = logits = scores = 0
    for count in rows:
        new = count * vocabulary * logit
        most = max(most, logits + scores + new * copies)  # compute_logits
        logits = new * copies
        new = count * vocabulary * 4
        most = max(most, logits + scores + new)  # log_softmax in float32
        scores = new
        most = max(most, logits + scores + count * vocabulary)  # ranks: scores >= the token's
    return most


def survives(total: int, share: float, rows: list[int], vocabulary: int, logit: int) -> bool:
    """vLLM fills its share with weights, activations and cache; scoring comes on top."""
    return share * total + peak(rows, vocabulary, logit) <= total


def splits(tokens: int) -> list[list[int]]:
    return [[tokens], [tokens // 2] * 2, [tokens - 1, 1], [1, tokens - 1], [tokens // 8] * 8]


@pytest.mark.parametrize("facts", [QWEN, SMALL])
@pytest.mark.parametrize("total", [8 * GIB, 16 * GIB, 24 * GIB, 80 * GIB])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize(
    "more", [{}, {"gpu_memory_utilization": 0.97}, {"vllm": {"max_num_batched_tokens": 4096}}]
)
def test_no_step_is_larger_than_what_is_left(
    facts: ModelFacts, total: int, dtype: str, more: dict[str, Any]
) -> None:
    config = EngineConfig.model_validate({"dtype": dtype, **more})
    found = bound_scoring(config, facts, total=total)
    logit = 4 if dtype == "float32" else 2
    assert found.utilization <= config.gpu_memory_utilization
    assert found.step_tokens >= config.max_num_seqs + 64
    assert found.bytes == found.step_tokens * facts.vocab_size * (logit + 5)
    for rows in splits(found.step_tokens):
        assert survives(total, found.utilization, rows, facts.vocab_size, logit)


def test_what_is_known_to_die_dies_in_the_arithmetic() -> None:
    """8192 tokens a step, 152k vocabulary, 0.9 of 24 GiB: 4.6 GiB of float32 rows alone."""
    assert not survives(24 * GIB, 0.9, [8192], QWEN.vocab_size, 2)
    assert 8192 * QWEN.vocab_size * 4 == pytest.approx(4.64 * GIB, rel=1e-2)


def test_by_hand() -> None:
    """80 GiB x 0.1 hold a full step; of 24 GiB, 2.4 - 0.5 GiB hold 1,918; 8 GiB give way."""
    plain = EngineConfig()
    assert bound_scoring(plain, QWEN, total=80 * GIB).step_tokens == STEP_TOKENS == 2048
    middle = bound_scoring(plain, QWEN, total=24 * GIB)
    assert middle.step_tokens == int((0.1 * 24 * GIB - SPARE) // (151_936 * 7)) == 1918
    assert middle.utilization == 0.9
    small = bound_scoring(plain, QWEN, total=8 * GIB)
    assert small.step_tokens == 512
    assert small.utilization == pytest.approx(1 - (0.5 + 512 * 151_936 * 7 / GIB) / 8)
    assert str(small).startswith("512 tokens a step x 1.06 MB (rows of the vocabulary) = 0.5 GiB")
    two = bound_scoring(EngineConfig(tensor_parallel_size=2), QWEN, total=80 * GIB)
    assert two.token_bytes == 151_936 * 9
    whole = EngineConfig(vllm={"enable_chunked_prefill": False})
    assert bound_scoring(whole, QWEN, total=80 * GIB).step_tokens == QWEN.context
    with pytest.raises(ConfigError, match=r"131072 tokens in a step takes 129\.8 GiB"):
        bound_scoring(EngineConfig(vllm={"max_num_batched_tokens": 131_072}), QWEN, total=80 * GIB)


def test_doctor_prints_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the smallest visible GPU; on CPU of main memory."""
    gpus = [
        Gpu(index=i, uuid=f"GPU-{i}", name="G", free=size * GIB, total=size * GIB)
        for i, size in enumerate((80, 1))
    ]
    vocabulary = json.loads((policy_dir() / "config.json").read_text())["vocab_size"]
    config = EngineConfig(name="vllm")

    def said() -> str:
        found = {one.what: one for one in examine(str(policy_dir()), config)}["memory of scoring"]
        return f"{found.state} {found.detail}"

    assert "GiB of main memory" in said()
    monkeypatch.setattr(devices, "_gpus_of", lambda *_: gpus)
    assert "warn" in said() and "of the GPU's 1 GiB for vLLM" in said()
    first = planned_scoring(Path(policy_dir()), config, {"CUDA_VISIBLE_DEVICES": "0"})
    assert first == score_memory.ScoreMemory(
        step_tokens=2048, token_bytes=vocabulary * 7, utilization=0.9, total=80 * GIB
    )
