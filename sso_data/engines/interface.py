"""The interface of engines: continue token ids, and score ids that follow other ids.

An engine takes any number of requests and gives results back as they finish, in any order.
Every log-prob is the raw model's (temperature 1, nothing truncated), natural log, in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

PROBE_NATS = 1.0
"""The largest difference of the log-probs of a probe's ids between servers of one model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """Continue `prompt_ids` by at most `max_tokens` ids; equal requests continue equally.

    `top_k` 0 and `min_p` 0 are off; both are as vLLM has them: after temperature, before `top_p`.
    `schema` is the text of a JSON schema that the continuation must obey, where the engine can
    enforce one; the log-probs are then those of what the schema allowed. `per_token`: the answer
    holds the log-prob of every token.
    """

    key: str
    prompt_ids: Sequence[int]
    max_tokens: int
    seed: int
    temperature: float
    top_p: float
    top_k: int = 0
    min_p: float = 0.0
    schema: str | None = None
    per_token: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """The log-prob of `completion_ids` (at least one) directly after `prompt_ids`.

    `was_sampled`: this engine sampled these very ids after this very prompt. It changes no answer;
    an engine that caches prefixes then knows that its cache is of no use for them. `per_token`
    as in SampleRequest.
    """

    key: str
    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    was_sampled: bool = False
    per_token: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A continuation as sampled; with `stop` the last id is an end-of-sequence token.

    `total_nats` is the raw log-prob of all `token_ids` at sampling time, `nats` that of each one
    where the request asked for it.
    """

    key: str
    token_ids: tuple[int, ...]
    total_nats: float
    finish_reason: Literal["stop", "length"]
    nats: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The raw log-prob of a request's completion ids, in total nats (finite, at most 0).

    `nats`: that of each id, where the request asked for it.
    """

    key: str
    total_nats: float
    nats: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request that the engine could not do; the others go on.

    `reason` goes to failed.jsonl: `engine_refused` or `engine_died`.
    """

    key: str
    detail: str
    reason: Literal["engine_refused", "engine_died"] = "engine_refused"


def row_of(key: str) -> str:
    """The row of a request: the part of its key before the first slash."""
    return key.partition("/")[0]


Request = SampleRequest | ScoreRequest
Result = Sampled | Scored | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """The properties of a started engine.

    `context_tokens`: the most ids that prompt and completion may have together.
    `max_in_flight`: requests that it works on at once; callers keep about twice that submitted.
    `engines`: how many engines these are together. `probe`: the total log-prob of fixed ids, where
    the weights of the model cannot be seen (a server's).
    """

    name: str
    version: str
    device: str
    dtype: str
    context_tokens: int
    max_in_flight: int
    engines: int = 1
    probe: float | None = None


class Engine(Protocol):
    """A loaded model that continues and scores token ids."""

    @property
    def info(self) -> EngineInfo: ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; keys must be unique among those not yet answered."""
        ...

    def step(self) -> list[Result]:
        """Work for a moment and return what finished (perhaps nothing).

        Raises EngineDeadError when the engine died. With nothing submitted it returns [] at once.
        """
        ...

    def close(self) -> None:
        """Free the model; the engine is not used afterwards."""
        ...
