"""An engine whose answers a test writes down, and a policy to go with it.

It stands in where the question is what the pipeline does with answers; real engines are tested in
`tests/engines` and end to end.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sso_data.config.run import RunConfig, ViewsConfig
from sso_data.core.records import Failure, Message, Row, row_id, sample_id
from sso_data.engines.interface import (
    EngineInfo,
    Refused,
    Request,
    Result,
    Sampled,
    SampleRequest,
    Scored,
)
from sso_data.generation.logprob_check import CheckResult, LogprobCheck
from sso_data.generation.pipeline import Pipeline
from sso_data.models.directory import Policy
from sso_data.prompts import BadRow, Candidate
from sso_data.runs.columns import Rows
from sso_data.runs.tokens import Cells
from sso_data.steering.principles import load_catalogue
from sso_data.steering.rules import Rules
from sso_data.templating.chat_template import ChatTemplate
from tests import tokenizers_of_the_field as field_tokenizers

TEMPLATE = ChatTemplate(
    field_tokenizers.build(field_tokenizers.CHATML), ViewsConfig(), today="2026-01-01"
)
POLICY = Policy(name="scripted", fingerprint="f" * 16, template=TEMPLATE)


def candidate(text: str, **kind: Any) -> Candidate:
    messages = (Message(role="user", content=text),)
    return Candidate(
        messages=messages, where="here", **{"source_id": None, "metadata": "{}"} | kind
    )


def by_prompt_length(request: Request) -> float:
    """The default score: what sampling said under the drawn view, else minus the prompt length."""
    _, seen, drawn = request.key.split("/")
    return -3.0 if seen == drawn else -float(len(request.prompt_ids))


class ScriptedEngine:
    """Answers in a shuffled order, a few at a time.

    A response is 3 ids made of its seed; its sampling-time log-prob is -3, its scores are
    `by_prompt_length`. `refuses` makes it refuse requests by key.
    """

    def __init__(
        self,
        *,
        context_tokens: int = 2000,
        max_in_flight: int = 6,
        refuses: Callable[[str], bool] = lambda key: False,
        scores: Callable[[Request], float] | None = None,
        order: int = 0,
        slow: str = "",
    ) -> None:
        self.info = EngineInfo(
            name="scripted",
            version="1",
            device="none",
            dtype="none",
            context_tokens=context_tokens,
            max_in_flight=max_in_flight,
        )
        self.requests: list[Request] = []
        self.most_waiting = 0
        self._refuses = refuses
        self._scores = scores or by_prompt_length
        self._waiting: list[Request] = []
        self._rng = random.Random(order)
        self._slow = slow
        self._idle = 0
        self.rows_asked_before_slow = 0

    def submit(self, requests: Sequence[Request]) -> None:
        self.requests += requests
        self._waiting += requests
        self.most_waiting = max(self.most_waiting, len(self._waiting))

    def step(self) -> list[Result]:
        if self._slow:
            return self._step_around_slow()
        self._rng.shuffle(self._waiting)
        answered, self._waiting = self._waiting[:4], self._waiting[4:]
        return [self._answer(request) for request in answered]

    def _step_around_slow(self) -> list[Result]:
        """Everything but the slow request, until nothing else came for ten steps."""
        held = [request for request in self._waiting if request.key == self._slow]
        others = [request for request in self._waiting if request.key != self._slow]
        self._idle = 0 if others else self._idle + 1
        if self._idle > 10:
            self.rows_asked_before_slow = len({r.key.partition("/")[0] for r in self.requests})
            self._slow, others, held = "", held, []
        self._waiting = held
        return [self._answer(request) for request in others]

    def close(self) -> None:
        pass

    def _answer(self, request: Request) -> Result:
        if self._refuses(request.key):
            return Refused(key=request.key, detail="not today")
        if isinstance(request, SampleRequest):
            ids = tuple(TEMPLATE.tokenizer.encode("abc xyz"[request.seed % 3 :]))[:3]
            nats = (-3.0 + len(ids) - 1, *[-1.0] * (len(ids) - 1)) if request.per_token else ()
            return Sampled(
                key=request.key, token_ids=ids, total_nats=-3.0, finish_reason="stop", nats=nats
            )
        total, count = self._scores(request), len(request.completion_ids)
        nats = (total / count,) * count if request.per_token else ()
        return Scored(key=request.key, total_nats=total, nats=nats)


@dataclass
class Memory:
    """A sink that keeps everything."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def admit(self, content: str, samples: int) -> list[tuple[str, bool]]:
        number = self.counts.get(content, 0)
        self.counts[content] = number + 1
        ids = [sample_id(row_id(content, number), sample) for sample in range(1, samples + 1)]
        return [(identity, identity not in self.closed) for identity in ids]

    def write_row(self, row: Row, record: Rows | None = None) -> bytes:
        self.rows.append(row)
        return b""

    def write_failure(self, failure: Failure) -> None:
        self.failures.append(failure)


def run(
    candidates: Sequence[Candidate | BadRow],
    engine: ScriptedEngine | None = None,
    config: RunConfig | None = None,
    *,
    memory: Memory | None = None,
    earlier: dict[str, Any] | None = None,
    checks: list[CheckResult] | None = None,
    keep: Callable[[Row, Cells], None] | None = None,
) -> Memory:
    """All candidates through the pipeline; returns what came out."""
    engine, config, memory = engine or ScriptedEngine(), config or RunConfig(), memory or Memory()
    found = checks if checks is not None else []
    rules = Rules(config=config.steering, catalogue=load_catalogue(), seed=config.seed)
    pipeline = Pipeline(
        lambda: engine,
        POLICY,
        lambda prompt: rules.by_rule(prompt.id),
        config,
        memory,
        check=LogprobCheck(config.scoring, earlier),
        on_check=found.append,
        keep=keep,
    )
    for _ in pipeline.run(candidates):
        pass
    return memory
