"""Checks that engines share: of requests as they come in, and of log-probs as they go out."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from sso_data.config.run import EngineConfig
from sso_data.engines.interface import (
    Refused,
    Request,
    Result,
    Sampled,
    SampleRequest,
    Scored,
    ScoreRequest,
)

ROUNDING_NATS = 1e-6
"""A total this little above 0 is rounding and becomes 0; anything above it is an error."""


def take_keys(open_keys: set[str], requests: Sequence[Request]) -> None:
    """Add the requests' keys to the open ones.

    Raises ValueError (a caller's mistake) for a key that is open already.
    """
    keys = [request.key for request in requests]
    fresh = set(keys)
    if len(fresh) < len(keys) or not fresh.isdisjoint(open_keys):
        raise ValueError("two unanswered requests have the same key")
    open_keys |= fresh


def total_ids(request: Request) -> int:
    """The most ids that the request can come to: prompt and completion together."""
    if isinstance(request, SampleRequest):
        return len(request.prompt_ids) + request.max_tokens
    return len(request.prompt_ids) + len(request.completion_ids)


def sort_requests(
    open_keys: set[str], requests: Sequence[Request], *, context_tokens: int, vocab_size: int
) -> tuple[list[SampleRequest], list[ScoreRequest], list[Refused]]:
    """Take the requests' keys; return the samples, the scores, and refusals of impossible requests.

    Raises ValueError (a caller's mistake) for a key that is open already.
    """
    take_keys(open_keys, requests)
    samples: list[SampleRequest] = []
    scores: list[ScoreRequest] = []
    refused: list[Refused] = []
    for request in requests:
        if detail := _refusal(request, context_tokens, vocab_size):
            refused.append(Refused(key=request.key, detail=detail))
        elif isinstance(request, SampleRequest):
            samples.append(request)
        else:
            scores.append(request)
    return samples, scores, refused


def _refusal(request: Request, context_tokens: int, vocab_size: int) -> str | None:
    """The reason why the engine cannot take the request, or None if it can."""
    sample = isinstance(request, SampleRequest)
    completion = () if isinstance(request, SampleRequest) else request.completion_ids
    if not request.prompt_ids or not (sample or completion):
        return f"the {'completion' if request.prompt_ids else 'prompt'} has no token ids"
    if isinstance(request, SampleRequest):
        if request.max_tokens < 1:
            return "max_tokens is less than 1"
        if not request.temperature >= 0 or not 0 < request.top_p <= 1:
            return f"temperature {request.temperature} or top_p {request.top_p} is out of range"
        if request.top_k < 0 or not 0 <= request.min_p <= 1:
            return f"top_k {request.top_k} or min_p {request.min_p} is out of range"
    if (total := total_ids(request)) > context_tokens:
        return f"{total} token ids are more than the context of {context_tokens}"
    for ids in (request.prompt_ids, completion):
        if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
            return f"a token id is outside the model's vocabulary of {vocab_size}"
    return None


def checked_total(nats: Iterable[float]) -> float | str:
    """The sum of log-probs in nats, or, if it is no log-prob, a line that says so.

    Sums of exact log-probs are finite and at most 0. Up to ROUNDING_NATS above 0 is taken as
    rounding and given out as 0; more than that means that the engine is wrong.
    """
    total = math.fsum(nats)
    if not math.isfinite(total):
        return f"the model's log-prob is not finite ({total})"
    if total > ROUNDING_NATS:
        return f"the engine reported a log-prob above 0 ({total:.3g} nats)"
    return min(total, 0.0)


def scored(request: Request, nats: Iterable[float]) -> Result:
    """The answer to a score request from the log-probs of its completion's ids."""
    values = tuple(nats)
    total = checked_total(values)
    if isinstance(total, str):
        return Refused(key=request.key, detail=total)
    return Scored(key=request.key, total_nats=total, nats=values if request.per_token else ())


def sampled(
    request: Request,
    token_ids: Iterable[int],
    nats: Iterable[float],
    finish_reason: Literal["stop", "length"],
) -> Result:
    """The answer to a sample request from the ids drawn and their log-probs."""
    values = tuple(nats)
    total = checked_total(values)
    if isinstance(total, str):
        return Refused(key=request.key, detail=total)
    return Sampled(
        key=request.key,
        token_ids=tuple(token_ids),
        total_nats=total,
        finish_reason=finish_reason,
        nats=values if request.per_token else (),
    )


def score_slots(config: EngineConfig) -> int:
    """The number of scores vLLM works on at once; by default a quarter of the sequences."""
    return config.score_slots or max(8, config.max_num_seqs // 4)
