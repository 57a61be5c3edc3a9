"""The configuration of a run: declared once, frozen, unknown keys refused.

The docstring under each field is its documentation (`docs/configuration.md` is made from them).
"""

import copy
import json
import re
import reprlib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from sso_data.config.migration import renamed
from sso_data.config.paper import RUN, DefaultsFrom
from sso_data.config.section import Count, EndpointSection, NotNegative, Seconds, Section, Share
from sso_data.core.errors import ConfigError, one_line, without_secrets
from sso_data.core.yaml_files import deep_merge, parse_yaml, read_yaml

NatsPerToken = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Quantile = Annotated[str, StringConstraints(pattern=r"^q(0(\.\d+)?|1(\.0+)?)$")]
_Config = TypeVar("_Config", bound=BaseModel)


VLLM_SPEED_KEYS = frozenset(
    (
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
)
"""Arguments of vLLM that change how fast rows are made, not which."""

_VLLM_OURS = frozenset(
    (
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
)
"""Arguments of vLLM that are set by other keys, or must not be changed."""


def _real_date(text: str) -> str:
    """ValueError unless `text` is a day, as YYYY-MM-DD."""
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError("write the date as YYYY-MM-DD")
    return text


def shard_of(text: str) -> tuple[int, int]:
    """(which, of how many) of a shard such as 2/4; the first is 1."""
    which, _, count = text.partition("/")
    return int(which), int(count)


def _real_shard(text: str) -> str:
    """ValueError unless `text` is I/N with 1 <= I <= N."""
    if (
        not re.fullmatch(r"[1-9]\d{0,8}/[1-9]\d{0,8}", text)
        or (which := shard_of(text))[0] > which[1]
    ):
        raise ValueError("write a shard as I/N, from 1/N to N/N")
    return text


def _json_able(value: dict[str, Any]) -> dict[str, Any]:
    """ValueError unless every value can be written to the rows."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"every value must be JSON: {one_line(error, 200)}") from error
    return value


class SourceConfig(Section):
    """How the prompt file is read."""

    split: str = "train"
    """Split of a Hub or `datasets` dataset."""
    column: str = "prompt"
    """Column that holds the prompt: a string or a list of chat messages."""
    id_column: str = "id"
    """Column kept as `source_id`, where present."""
    limit: Count | None = None
    """Take only this many prompts from the start of the file."""
    shard: Annotated[str, AfterValidator(_real_shard)] | None = None
    """`I/N`: only the I-th of N shares of the prompts; by content, so that duplicates stay together
    and the shares are the same in any order. `merge` joins the runs."""
    skip_bad_rows: bool = False
    """Send malformed rows to failed.jsonl instead of stopping."""


class SteeringConfig(EndpointSection):
    """Which features steer a prompt, and who words its principles."""

    choose: Literal["random", "fixed", "all", "policy", "none"] = "random"
    """`random`: `count` features, drawn per row by `weights`; `fixed`: those of `features`;
    `all`: every feature of the catalogue, the heaviest first; `policy`: the policy reads the prompt
    and names `count` features; `none`: no feature, one free pair is written per prompt."""
    features: tuple[str, ...] = ()
    """The features of `fixed`; otherwise the ones to choose from (none: all)."""
    count: Count = 2
    """How many features `random` draws, and the policy names, per prompt."""
    weights: dict[str, NotNegative] = Field(default={})
    """Weight per feature (1 where not named, 0 leaves it out)."""
    concision_probability: Share = 0.2
    """Chance that Concision is added to a row's features, against length growth (the paper)."""
    paraphrase: bool = True
    """Draw each row's wording of its principles and of the system message from all there are; off:
    always the main one."""
    principles: Literal["catalogue", "written"] = "catalogue"
    """`catalogue`: the texts of the principle files; `written`: a model writes a good and a bad
    text for each prompt and feature, checked, and the catalogue's stand in where it fails."""
    principle_model: str | None = None
    """The model that writes: a directory or Hub id, or its name at `endpoint`; by default the
    policy."""
    structured: bool = True
    """Hold answers to a JSON schema where the engine or endpoint can; read as if it could not."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.7
    """Sampling temperature of choices and of written principles."""
    max_tokens: Count = 512
    """Most tokens of such an answer."""
    max_length_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """How many times as long as the other one a written principle may be."""
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
    """How the chat template is used."""

    template_kwargs: Annotated[dict[str, Any], AfterValidator(_json_able)] = Field(default={})
    """Arguments for the chat template; `enable_thinking: false` is added where it knows it."""
    date: Annotated[str, AfterValidator(_real_date)] | None = None
    """The date that a template inserts (YYYY-MM-DD); by default the day the run started."""
    control_tokens: Literal["text", "refuse"] = "text"
    """Control tokens that a user typed: `text` keeps them as text, `refuse` fails the row."""


class SamplingConfig(Section):
    """How responses are drawn, the same under all three views."""

    temperature: Annotated[float, Field(gt=0, le=5)] = 0.7
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Nucleus: the smallest set of tokens with this much probability is sampled from."""
    max_tokens: Count = 2048
    """Most tokens of a response; less where the context is shorter."""
    min_completion: Count = 16
    """A prompt that leaves less room than this fails as prompt_too_long."""


class ScoringConfig(Section):
    """Which log-probs are taken, and how sampling-time ones are checked."""

    full: bool = False
    """Also score the ninth cell, y0 under good, which neither filter nor loss needs."""
    verify_rows: Annotated[int, Field(ge=0, le=256)] = 8
    """Rows at the start whose sampling-time log-probs are compared with scored ones."""
    tolerance: NatsPerToken = 0.01
    """Largest difference, nats/token, at which sampling-time log-probs are used; above it every
    cell is scored."""


class EngineConfig(Section):
    """The engine that samples and scores."""

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
    """Where the transformers engine runs (vLLM's build decides for itself)."""
    max_model_len: Annotated[int, Field(ge=32)] | None = None
    """Context length to use; by default the model's own."""
    max_num_seqs: Count = 256
    """Sequences worked on at once (vLLM)."""
    batch_tokens: Annotated[int, Field(ge=256)] = 16384
    """Tokens in one forward pass of the transformers engine, padding included."""
    tensor_parallel_size: Count = 1
    """GPUs that share one model (vLLM)."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the GPU's memory for vLLM."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""
    threads: Count | None = None
    """CPU threads of the engine; by default the libraries' own choice."""
    score_slots: Count | None = None
    """Scores vLLM works on at once, beside the samples; by default a quarter of max_num_seqs, at
    least 8. Halved when vLLM runs out of memory."""
    heartbeat_timeout: Seconds = 120.0
    """Seconds without a sign of life after which the engine's process is replaced."""
    step_timeout: Seconds = 1800.0
    """Seconds one step of the engine may take before its process counts as hanging."""
    vllm: Annotated[dict[str, Any], AfterValidator(_json_able)] = Field(default={})
    """Further arguments for vLLM's engine, passed as they are."""

    @model_validator(mode="after")
    def _no_back_door(self) -> "EngineConfig":
        taken = sorted(_VLLM_OURS & self.vllm.keys())
        if taken:
            raise ValueError(f"engine.vllm.{taken[0]} cannot be set; see the other engine keys")
        return self


class FilterConfig(Section):
    """Which rows become pairs."""

    preset: Literal["closeness", "reference", "none"] = "closeness"
    """`closeness`: row-local thresholds; `reference`: the paper's three relative stages; `none`: no
    test of log-probs, for comparison."""
    closeness: NatsPerToken | Quantile = 0.3
    """closeness preset: most that a drawn response may lie below the policy's own answer, as means
    under the plain view, nats/token; or a quantile such as q0.8 of the rows left."""
    gap: NatsPerToken | Quantile = 0.05
    """closeness preset: least difference between the two steered views, nats/token or a
    quantile."""
    strict_paper: bool = False
    """reference preset: drop only what the authors drop (identical texts, then the stages)."""
    drop_truncated: bool = True
    """Drop rows with a response that was cut off."""
    drop_leaks: bool = True
    """Drop rows with a response that speaks of its guidelines (templates/leakage.txt)."""
    min_tokens: Annotated[int, Field(ge=0)] = 1
    """Fewest tokens of a response."""
    max_tokens: Count | None = None
    """Most tokens of a response."""


class OutputConfig(Section):
    """What is written beside the journal."""

    parquet: bool = True
    """Write pairs/train.parquet beside pairs/train.jsonl."""


class RunConfig(Section):
    """A whole run; every key may stand in the YAML file of `--config` or after `--set`."""

    model: str = ""
    """Model directory or Hub id of the policy."""
    recipe: Annotated[DefaultsFrom, Field(exclude=True)] = "default"
    """`paper`: keys that are not given take the paper's values in place of our defaults; run.json
    records the values, not this word (docs/recipes.md)."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the run; a row's seeds come from it, the row's id and the view."""
    principles: Path | None = None
    """Directory of principle files; by default the shipped catalogue."""
    templates: Path | None = None
    """Directory of templates that stand in for the shipped ones of their names
    (docs/principles.md)."""
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


def over_paper(values: Any, paper: Mapping[str, Any]) -> Any:
    """What is given, over the values of `paper` where `recipe: paper` asks for them."""
    if not isinstance(values, dict) or values.get("recipe") != "paper":
        return values
    given = {
        name: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        for name, value in values.items()
    }
    return deep_merge(paper, given)


def quantile_of(value: str) -> float:
    """The share that a threshold such as `q0.8` asks for."""
    return float(value[1:])


def load_config(
    file: Path | None = None,
    settings: list[str] | None = None,
    *,
    base: dict[str, Any] | None = None,
    **overrides: object,
) -> RunConfig:
    """The configuration: defaults, then `base` or `file`, then `overrides`, then `--set` settings.

    `overrides` names keys with `__` for the dot and skips None. Raises ConfigError naming the key.
    """
    tree = config_tree(file, settings, base=base, **overrides)
    return validated(tree, origin=str(file) if file else "configuration")


def config_tree(
    file: Path | None,
    settings: list[str] | None,
    *,
    base: dict[str, Any] | None = None,
    **overrides: object,
) -> dict[str, Any]:
    """The nested dict that `load_config` makes a configuration of."""
    tree = _read_yaml(file) if file else copy.deepcopy(base or {})
    for key, value in overrides.items():
        if value is not None:
            _put(tree, key.split("__"), value, where=f"--{key.replace('__', '.')}")
    for setting in settings or []:
        key, sign, text = setting.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set {setting!r}: write it as key=value, e.g. sampling.top_p=0.9")
        _put(tree, key.strip().split("."), _parse_value(setting, text), where=f"--set {setting}")
    return tree


def validated(tree: dict[str, Any], *, origin: str) -> RunConfig:
    """A RunConfig of a nested dict, or a ConfigError that names the first wrong key."""
    return validated_as(RunConfig, tree, origin=origin, page="docs/configuration.md")


def validated_as(kind: type[_Config], tree: dict[str, Any], *, origin: str, page: str) -> _Config:
    """A configuration of the given `kind`; `page` documents its keys."""
    try:
        made = kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_first_problem(error, page)}") from error
    _refuse_secrets(made, origin)
    return made


def _refuse_secrets(config: BaseModel, origin: str) -> None:
    """ConfigError where a value is a secret: run.json would keep it."""
    try:
        text = config.model_dump_json()
    except ValueError as error:  # a path that is not UTF-8
        raise ConfigError(f"{origin}: {one_line(error, 200)}; use names in UTF-8") from error
    if without_secrets(text) != text:
        raise ConfigError(
            f"{origin}: holds what looks like an access token, and run.json would keep it; put it "
            "into the environment (HF_TOKEN)"
        )


def _first_problem(error: ValidationError, page: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not _is_branch(str(part)))
    if first["type"] == "extra_forbidden":
        if new := renamed(key):
            return f"{key} is called {new} now"
        return f"unknown key {key!r}; known keys are in {page}"
    message = first["msg"].removeprefix("Value error, ")
    if key in _THRESHOLDS:
        message = "must be a number of at least 0, or a quantile from q0 to q1 such as q0.8"
    elif first["type"] == "tuple_type":
        message = "must be a list, such as [Safety, Accuracy]"
    if not key or message.startswith((f"{key}:", f"{key}.")):  # it names its key by itself
        return message
    return f"{key}: {message} (got {_excerpt(first['input'])})"


def _excerpt(value: object) -> str:
    """The start of a value, however large or deep it is."""
    short = reprlib.Repr()
    short.maxstring, short.maxother = 120, 80
    try:
        return short.repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a {type(value).__name__}"


_THRESHOLDS = ("filter.closeness", "filter.gap")


def _is_branch(part: str) -> bool:
    """Pydantic names the branch of a union in the location, which is no key of ours."""
    return "[" in part or part in {"float", "str", "constrained-str", "constrained-float"}


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = read_yaml(file)
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: not readable as YAML: {one_line(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{file}: must be a mapping of keys such as sampling and filter")
    return content


def _parse_value(setting: str, text: str) -> object:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {one_line(setting, 200)}: the value is not valid YAML") from error


def _put(tree: dict[str, Any], path: list[str], value: object, *, where: str) -> None:
    node = tree
    for part in path[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{where}: {part!r} is not a section of the configuration")
        node = child
    node[path[-1]] = value
