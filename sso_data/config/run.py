"""Configuration of a run; unknown keys are refused.

The docstring under each field is its documentation (`docs/configuration.md` is made from them).
"""

import json
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from sso_data.config.loading import load
from sso_data.config.paper import RUN, DefaultsFrom, over_paper
from sso_data.config.section import (
    Count,
    EndpointSection,
    NotNegative,
    Seconds,
    Section,
    Share,
    plain_url,
)
from sso_data.core.errors import one_line
from sso_data.core.records import MOST_SAMPLES
from sso_data.core.trees import Tree

Quantile = Annotated[str, StringConstraints(pattern=r"^q(0(\.\d+)?|1(\.0+)?)$")]

VLLM_SPEED_KEYS = (
    "block_size",
    "cpu_offload_gb",
    "distributed_executor_backend",
    "enable_chunked_prefill",
    "enforce_eager",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "num_gpu_blocks_override",
    "pipeline_parallel_size",
)
"""Arguments of vLLM that change the speed, but not the rows."""

_VLLM_OURS = (
    "dtype",
    "enable_prefix_caching",
    "generation_config",
    "gpu_memory_utilization",
    "load_format",
    "logprobs_mode",
    "max_model_len",
    "max_num_seqs",
    "model",
    "revision",
    "tensor_parallel_size",
    "tokenizer",
    "trust_remote_code",
)
"""Arguments of vLLM that are set by other keys, or must not be changed."""


def _real_date(text: str) -> str:
    """Return a date as it is. Raises ValueError unless it is a day as YYYY-MM-DD."""
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError("write the date as YYYY-MM-DD")
    return text


def shard_of(text: str) -> tuple[int, int]:
    """Return (index, count) of a shard such as 2/4; the first index is 1."""
    which, _, count = text.partition("/")
    return int(which), int(count)


def _real_shard(text: str) -> str:
    """Return a shard as it is. Raises ValueError unless it is I/N with 1 <= I <= N."""
    if (
        not re.fullmatch(r"[1-9]\d{0,8}/[1-9]\d{0,8}", text)
        or (which := shard_of(text))[0] > which[1]
    ):
        raise ValueError("write a shard as I/N, from 1/N to N/N")
    return text


def _ray_address(text: str) -> str:
    """Return the address of a Ray cluster as it is. Raises ValueError for anything else."""
    if not re.fullmatch(r"auto|(ray://)?([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}", text):
        raise ValueError("write auto, ray://host:10001 or host:6379")
    return text


def _json_able(value: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping as it is. Raises ValueError unless it can be written as JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"every value must be JSON: {one_line(error, 200)}") from error
    return value


class SourceConfig(Section):
    """Reading of the prompt file."""

    split: str = "train"
    """Split of a Hub or `datasets` dataset."""
    column: str = "prompt"
    """Column that holds the prompt: a string or a list of chat messages."""
    format: Literal[
        "auto",
        "column",
        "prompt",
        "messages",
        "conversation",
        "sharegpt",
        "alpaca",
        "question",
        "turns",
        "pairs",
    ] = "auto"
    """Layout of the rows (docs/sources.md); `auto`: the first one that a row fills; `column`: the
    prompt's column alone, everything beside it being metadata."""
    take: Literal["last-user", "first-user", "every-user"] | None = None
    """What is asked of a conversation: all up to its last user turn, up to its first one, or up to
    each (a prompt for each). By default `last-user` in layouts with answers, else all of it."""
    id_column: str = "id"
    """Column kept as `source_id`, where present."""
    limit: Count | None = None
    """Take only this many prompts from the start of the file."""
    shard: Annotated[str, AfterValidator(_real_shard)] | None = None
    """`I/N`: only the I-th of N shares of the prompts; by content, so that duplicates stay together
    and the order does not matter. `merge` joins the runs."""
    skip_bad_rows: bool = False
    """Send malformed rows to failed.jsonl instead of stopping."""


class SteeringConfig(EndpointSection):
    """Features that steer a prompt, and source of the principles' texts."""

    choose: Literal["random", "fixed", "all", "policy", "none"] = "random"
    """`random`: `count` features, drawn per row by `weights`; `fixed`: those of `features`;
    `all`: every feature of the catalogue, the heaviest first; `policy`: the policy reads the prompt
    and names `count` features; `none`: no feature, one free pair is written per prompt."""
    features: tuple[str, ...] = ()
    """Features of `fixed`; otherwise the ones to choose from (none: all)."""
    count: Count = 2
    """Number of features per prompt that `random` draws or the policy names."""
    weights: dict[str, NotNegative] = Field(default={})
    """Weight per feature (1 where not named, 0 leaves it out)."""
    concision_probability: Share = 0.2
    """Chance that Concision is added to a row's features, against length growth (the paper)."""
    paraphrase: bool = True
    """Draw each row's wording of its principles and of the system message from all there are; off:
    always the main one."""
    placement: Literal["system", "user", "both"] = "system"
    """Place of a row's principles in its good and bad view: the system message, the end of the last
    user turn, or both."""
    principles: Literal["catalogue", "written"] = "catalogue"
    """`catalogue`: the texts of the principle files; `written`: a model writes a good and a bad
    text for each prompt and feature; they are checked, and the catalogue's replace failed ones."""
    principle_model: str | None = None
    """Model that writes principles: a directory or Hub id, or its name at `endpoint`; default: the
    policy."""
    structured: bool = True
    """Constrain answers to a JSON schema where possible; parsing does not rely on it."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.7
    """Sampling temperature of choices and of written principles."""
    max_tokens: Count = 512
    """Most tokens of such an answer."""
    max_length_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """Largest length of a written principle, as a multiple of the other side's length."""
    checks: Literal["all", "form"] = "all"
    """Checks of written principles. `form`: lengths, language, leaks, quotations of the request;
    `all`: also that they are directions (no answers, refusals, copied examples or injected orders),
    that their sentences end, and that the sides are far enough apart and not swapped."""
    max_fallback_share: Share = 0.2
    """Share of choices or of written principles that had to be replaced above which a run warns."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "SteeringConfig":
        if self.choose == "fixed" and not self.features:
            raise ValueError("steering.choose is fixed: name the features in steering.features")
        if self.choose == "none" and self.principles != "written":
            raise ValueError("steering.choose is none: set steering.principles=written")
        if self.endpoint and not self.principle_model:
            raise ValueError("steering.endpoint: name its model in steering.principle_model")
        if self.principle_model and self.principles != "written":
            raise ValueError("steering.principle_model: set steering.principles=written")
        return self


class ViewsConfig(Section):
    """Use of the chat template."""

    template_kwargs: Annotated[dict[str, Any], AfterValidator(_json_able)] = Field(default={})
    """Arguments for the chat template; `enable_thinking: false` is added where it knows it."""
    date: Annotated[str, AfterValidator(_real_date)] | None = None
    """Date that a template inserts (YYYY-MM-DD); by default the day the run started."""
    control_tokens: Literal["text", "refuse"] = "text"
    """Control tokens that a user typed: `text` keeps them as text, `refuse` fails the row."""


class SamplingConfig(Section):
    """Sampling of responses, the same under all three views.

    The settings of a model's own generation_config.json are not applied; `doctor --model` names
    them. Log-probs are the raw model's, whatever is excluded here.
    """

    temperature: Annotated[float, Field(gt=0, le=5)] = 0.7
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Nucleus: the smallest set of tokens with this much probability is sampled from."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from this many most likely tokens, and those as likely as the last; 0: from all."""
    min_p: Share = 0.0
    """Sample from tokens with at least this share of the most likely one's probability, after
    temperature; 0: from all. `top_p` is taken of what `top_k` and `min_p` leave."""
    max_tokens: Count = 2048
    """Most tokens of a response; less where the context is shorter."""
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = 1
    """Rows of each prompt, with seeds and principles of their own; a run may grow in them."""
    min_completion: Count = 16
    """A prompt that leaves less room than this fails as prompt_too_long."""


class ScoringConfig(Section):
    """Scored log-probs, and the check of those recorded during sampling."""

    when: Literal["all", "needed"] = "all"
    """`all`: every row gets all answers and scores; `needed`: only until the filter's tests have
    dropped it. The kept pairs are the same; the first 64 rows and 2 % of the others stay complete,
    and every share is taken over those. `complete` makes the rest (docs/filter.md)."""
    full: bool = False
    """Also score the ninth cell, y0 under good, which neither filter nor loss needs."""
    verify_rows: Annotated[int, Field(ge=0, le=256)] = 8
    """Rows at the start whose sampling-time log-probs are compared with scored ones."""
    tolerance: NotNegative = 0.01
    """Largest difference, nats/token, at which sampling-time log-probs are used; above it every
    cell is scored."""
    keep_tokens: bool = False
    """Also keep the log-prob of every token, in tokens.jsonl, for `show --tokens` and
    `report --tokens`; it changes no row and may be changed at any time (docs/looking.md)."""


class EngineConfig(Section):
    """Engine that samples and scores."""

    name: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto`: vllm where it is installed, else transformers."""
    isolation: Literal["subprocess", "inline"] = "subprocess"
    """`subprocess`: the engine lives in a spawned process, which is restarted when it dies;
    `inline`: in this process."""
    revision: str | None = None
    """Model revision on the Hub: a branch, tag or commit."""
    adapter: Path | None = None
    """A LoRA adapter (PEFT directory) that is part of the policy."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights in memory; `auto`: bfloat16 on GPU, float32 on CPU."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device of the transformers engine (vLLM's build decides for itself)."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention of the transformers engine; `auto`: transformers' choice, `sdpa` where the model
    has it. Log-probs differ by rounding; `flash_attention_2` needs its package and a GPU."""
    max_model_len: Annotated[int, Field(ge=32)] | None = None
    """Context length to use; by default the model's own."""
    max_num_seqs: Count = 256
    """Sequences worked on at once (vLLM)."""
    batch_tokens: Annotated[int, Field(ge=256)] = 16384
    """Tokens in one forward pass of the transformers engine, padding included."""
    count: Literal["auto"] | Count = "auto"
    """Engines that share the work, each in a process of its own and on GPUs of its own; `auto`: as
    many as the visible GPUs have room for, on CPU one (docs/scale.md). Any number makes the same
    rows."""
    servers: tuple[Annotated[str, AfterValidator(plain_url)], ...] = ()
    """Addresses of vLLM servers that sample and score in place of engines here, such as
    http://host:8000 (docs/scale.md); more than one share the work."""
    cluster: Annotated[str, AfterValidator(_ray_address)] | None = None
    """A Ray cluster whose nodes have the engines (docs/scale.md): `auto`, the one that this machine
    is part of (or RAY_ADDRESS), ray://host:10001 or host:6379; `count` auto: as many as fit."""
    server_model: str | None = None
    """The servers' name of the model, or of a LoRA adapter they have; by default their only one."""
    tensor_parallel_size: Count = 1
    """GPUs that share one model (vLLM)."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the GPU's memory for vLLM."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""
    threads: Count | None = None
    """CPU threads of the engine; by default the libraries' own choice."""
    score_slots: Count | None = None
    """Scores vLLM works on at once, in addition to samples; by default a quarter of max_num_seqs,
    at least 8. Halved when vLLM runs out of memory."""
    heartbeat_timeout: Seconds = 120.0
    """Seconds without a heartbeat after which the engine's process is replaced."""
    step_timeout: Seconds = 1800.0
    """Seconds one step of the engine may take before its process counts as hanging."""
    vllm: Annotated[dict[str, Any], AfterValidator(_json_able)] = Field(default={})
    """Further arguments for vLLM's engine, passed as they are."""

    @model_validator(mode="after")
    def _refuse_own_vllm_keys(self) -> "EngineConfig":
        for key in _VLLM_OURS:
            if key in self.vllm:
                raise ValueError(f"engine.vllm.{key} cannot be set; see the other engine keys")
        if any(key.startswith("data_parallel") for key in self.vllm):
            raise ValueError("engine.vllm.data_parallel_size hangs offline: set engine.count")
        if self.servers and self.isolation == "inline":
            raise ValueError("engine.servers: engine.isolation must be subprocess")
        if self.cluster and (self.servers or self.isolation == "inline"):
            other = "engine.servers" if self.servers else "engine.isolation: inline"
            raise ValueError(f"engine.cluster: not together with {other}")
        if self.server_model and not self.servers:
            raise ValueError("engine.server_model: name the servers in engine.servers")
        if self.isolation == "inline" and self.engines > 1:
            raise ValueError("engine.count: engine.isolation is inline, which is one engine")
        return self

    def idle(self) -> tuple[str, tuple[str, ...]]:
        """Return what makes keys idle, and these: a server has its own settings."""
        own = ("name", "adapter", "dtype", "device", "count", "tensor_parallel_size", "threads")
        return "servers", (*own, "gpu_memory_utilization", "vllm") if self.servers else ()

    @property
    def engines(self) -> int:
        """The number of engines asked for; 1 where it is not decided."""
        return 1 if self.count == "auto" else self.count


class FilterConfig(Section):
    """Rules by which rows become pairs."""

    preset: Literal["closeness", "reference", "none"] = "closeness"
    """`closeness`: row-local thresholds; `reference`: the paper's three relative stages; `none`: no
    test of log-probs, for comparison."""
    steered: Literal["chain", "contrast", "off"] = "contrast"
    """closeness preset: `contrast`: a response is likelier under its own view than under the
    opposite one; `chain`: and the plain view lies between the two; `off`: no such test."""
    closeness: NotNegative | Quantile = 0.7
    """closeness preset: most that a drawn response may lie below the policy's own answer, as means
    under the plain view, nats/token; or a quantile such as q0.8 of the rows left."""
    closeness_offset: NotNegative = 5.0
    """closeness preset: nats that are taken off each whole response (offset / tokens off its mean).
    To end early is improbable under the plain view: it costs some nats once, which weigh on the
    mean of a short answer (docs/filter.md)."""
    gap: NotNegative | Quantile = 0.0
    """closeness preset: least difference between the two steered views, nats/token or a
    quantile."""
    strict_paper: bool = False
    """reference preset: drop only what the authors drop (identical texts, then the stages)."""
    per_prompt: Literal["all", "best"] = "all"
    """Where a prompt has several samples: keep every row that passes, or of each prompt the one
    with the largest margin (the sum of both gaps)."""
    drop_truncated: bool = True
    """Drop rows with a response that was cut off."""
    drop_leaks: bool = True
    """Drop rows with a response that mentions its guidelines (templates/leakage.txt)."""
    drop_echoes: bool = True
    """Drop rows with a response that repeats six or more words in a row of its principles."""
    min_tokens: Annotated[int, Field(ge=0)] = 1
    """Fewest tokens of a response."""
    max_tokens: Count | None = None
    """Most tokens of a response."""
    keep_best: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the rows that pass everything else to keep, those with the largest margin (the sum
    of the two gaps). Below 1 a row's fate depends on the other rows."""

    @property
    def steering_test(self) -> Literal["chain", "contrast", "off"]:
        """The steering test in force: the paper's presets have their own."""
        return {"closeness": self.steered, "reference": "chain", "none": "off"}[self.preset]

    def idle(self) -> tuple[str, tuple[str, ...]]:
        """Return the preset, and the keys that it ignores."""
        ignored = ("steered", "closeness", "closeness_offset", "gap", "strict_paper")
        own = {"closeness": ignored[:4], "reference": ignored[4:], "none": ()}[self.preset]
        return f"preset {self.preset}", tuple(key for key in ignored if key not in own)


class OutputConfig(Section):
    """Files written in addition to the journal."""

    parquet: bool = True
    """Write pairs/train.parquet in addition to pairs/train.jsonl."""


class RunConfig(Section):
    """A whole run; any key can be set in the file of `--config` or after `--set`."""

    model: str = ""
    """Model directory or Hub id of the policy."""
    recipe: Annotated[DefaultsFrom, Field(exclude=True)] = "default"
    """`paper`: keys that are not given take the paper's values instead of our defaults; run.json
    records the values, not this key (docs/recipes.md)."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the run; a row's seeds come from it, the row's id and the view."""
    principles: Path | None = None
    """Catalogue of principles: `long` (by default), `short`, `checkable`, or a directory of
    principle files (one with such a name: by its full path)."""
    templates: Path | None = None
    """Directory of templates that replace shipped ones of the same name (docs/principles.md)."""
    source: SourceConfig = SourceConfig()
    steering: SteeringConfig = SteeringConfig()
    views: ViewsConfig = ViewsConfig()
    sampling: SamplingConfig = SamplingConfig()
    scoring: ScoringConfig = ScoringConfig()
    engine: EngineConfig = EngineConfig()
    filter: FilterConfig = FilterConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="before")
    @classmethod
    def _paper_below(cls, values: Any) -> Any:
        return over_paper(values, RUN)


def quantile_of(value: str) -> float:
    """Return the share in a quantile threshold: 0.8 for `q0.8`."""
    return float(value[1:])


def load_config(
    file: Path | None = None,
    settings: list[str] | None = None,
    *,
    base: Tree | None = None,
    **overrides: object,
) -> RunConfig:
    """Return a run's configuration: defaults, `base` or `file`, `overrides`, `--set` settings.

    `overrides` are keys with `__` for the dot, None is skipped. Raises ConfigError, naming the key.
    """
    return load(RunConfig, file, settings, base=base, **overrides)
