"""What vLLM takes to score, bounded before it starts: its own profiling does not see it.

`prompt_logprobs` makes a row of the whole vocabulary for every token of a step: logits, their
log-softmax in float32, and a mask for the ranks (`_get_prompt_logprobs_dict` of vLLM's V1 runner;
the V2 runner makes at most 1,024 rows at a time, which is less). See vllm#5907 and vllm#14239.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sso_data.config.run import EngineConfig
from sso_data.core.errors import ConfigError
from sso_data.engines.devices import usable_gpus
from sso_data.engines.requests import score_slots
from sso_data.models.facts import ModelFacts, read_model_facts

STEP_TOKENS, FEWEST = 2048, 512
"""Tokens of a step: most that we ask for, vLLM's own number for us, and the fewest."""
CPU_STEP_TOKENS = 4096
SPARE = 1 << 29
"""Bytes left for what else is outside vLLM's share: gaps between blocks, for example."""
_GIB = 1 << 30
_FLOAT32, _MASK = 4, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreMemory:
    """Tokens of a step, bytes that scoring one takes, and the share of the GPU left to vLLM.

    `total`: bytes of the GPU's memory; 0 on a CPU.
    """

    step_tokens: int
    token_bytes: int
    utilization: float
    total: int = 0

    @property
    def bytes(self) -> int:
        """The most that scoring takes beside vLLM's share."""
        return self.step_tokens * self.token_bytes

    def __str__(self) -> str:
        line = (
            f"{self.step_tokens:,} tokens a step x {self.token_bytes / 1e6:.2f} MB (rows of the "
            f"vocabulary) = {self.bytes / _GIB:.1f} GiB"
        )
        share = f"{self.utilization:.2f} of the GPU's {self.total / _GIB:.0f} GiB for vLLM"
        return f"{line}, beside {share}" if self.total else f"{line} of main memory"


def bound_scoring(config: EngineConfig, facts: ModelFacts, *, total: int) -> ScoreMemory:
    """Choose the tokens of a step, and where few do not help, a smaller share for vLLM.

    `total`: bytes of a GPU's memory. `engine.vllm.max_num_batched_tokens` is kept where given.
    Raises ConfigError where that many have no room.
    """
    each = _token_bytes(config, facts, 4 if config.dtype == "float32" else 2)
    least = max(FEWEST, config.max_num_seqs + score_slots(config))
    if config.vllm.get("enable_chunked_prefill") is False:
        least = max(least, facts.context)
    room = (1 - config.gpu_memory_utilization) * total - SPARE
    given = config.vllm.get("max_num_batched_tokens")
    tokens = int(given or max(least, min(STEP_TOKENS, room // each)))
    left = (total - SPARE - tokens * each) / total
    if left <= 0:
        raise ConfigError(
            f"engine.vllm.max_num_batched_tokens: scoring {tokens} tokens in a step takes "
            f"{tokens * each / _GIB:.1f} GiB, and the GPU has {total / _GIB:.1f}; lower it, or "
            "engine.max_num_seqs"
        )
    share = min(config.gpu_memory_utilization, left)
    return ScoreMemory(step_tokens=tokens, token_bytes=each, utilization=share, total=total)


def planned_scoring(
    model_path: Path, config: EngineConfig, environ: Mapping[str, str] = os.environ
) -> ScoreMemory:
    """Bound scoring on the smallest GPU here, or on the CPU; imports no torch.

    Raises ConfigError as `bound_scoring`, ModelError where the model cannot be read.
    """
    facts = read_model_facts(model_path, config)
    if totals := [gpu.total for gpu in usable_gpus(config, "vllm", environ) if gpu.total]:
        return bound_scoring(config, facts, total=min(totals))
    each = _token_bytes(config, facts, 2 if config.dtype in ("bfloat16", "float16") else 4)
    tokens = max(facts.context, CPU_STEP_TOKENS)
    return ScoreMemory(step_tokens=tokens, token_bytes=each, utilization=0.0)


def _token_bytes(config: EngineConfig, facts: ModelFacts, logit: int) -> int:
    """Bytes of scoring a token; GPUs that share a model put their parts of the logits together."""
    copies = 2 if config.tensor_parallel_size > 1 else 1
    return facts.vocab_size * (logit * copies + _FLOAT32 + _MASK)
