"""Requests for the engines under test, and a loop that collects their answers."""

import random
import time
from collections.abc import Sequence
from typing import Any

from sso_data.engines.interface import Engine, Request, Result, SampleRequest, ScoreRequest
from tests.waiting import CHILD_SECONDS


def sample(key: str = "a", prompt: Sequence[int] = (1, 40, 41), **settings: Any) -> SampleRequest:
    settings = {"max_tokens": 24, "seed": 7, "temperature": 0.7, "top_p": 0.8} | settings
    return SampleRequest(key=key, prompt_ids=tuple(prompt), **settings)


def score(key: str, prompt: Sequence[int], completion: Sequence[int]) -> ScoreRequest:
    return ScoreRequest(key=key, prompt_ids=tuple(prompt), completion_ids=tuple(completion))


def random_prompt(rng: random.Random, longest: int = 60) -> tuple[int, ...]:
    return (1, *(rng.randrange(30, 300) for _ in range(rng.randrange(1, longest))))


def many_samples(count: int, **settings: Any) -> list[SampleRequest]:
    """Requests with prompts of all lengths and a seed each."""
    rng = random.Random(5)
    return [
        sample(f"s{number}", random_prompt(rng), seed=1000 + number, **settings)
        for number in range(count)
    ]


def ask(
    engine: Engine, requests: Sequence[Request], limit: float = CHILD_SECONDS
) -> dict[str, Any]:
    """Submit, step until all are answered, and return the results by key."""
    engine.submit(requests)
    return collect(engine, len(requests), limit)


def collect(engine: Engine, count: int, limit: float = CHILD_SECONDS) -> dict[str, Any]:
    found: list[Result] = []
    deadline = time.monotonic() + limit
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {len(found)} of {count} results came"
        found += engine.step()
    by_key = {result.key: result for result in found}
    assert len(by_key) == len(found) == count
    return by_key
