"""A chat model whose answers a test writes down, and prompts to ask it about."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sso_data.chat.interface import Completion, CompletionRequest
from sso_data.config.run import SteeringConfig
from sso_data.core.records import JsonRow, Message, Prompt, content_hash, row_id
from sso_data.engines.interface import Refused
from sso_data.runs.steering import MemorySteeringStore
from sso_data.steering.by_model import PassTask
from sso_data.steering.passes import Pass
from sso_data.steering.principles import load_catalogue
from sso_data.steering.rules import Rules

Say = Callable[[CompletionRequest], str | None]
"""What the model says to a request; None: it refuses."""

GOOD_CHOICE = '["Safety", "Accuracy"]'
GOOD_PAIR = (
    '{"good": "Name the likely causes one by one, with a test for each of them.", '
    '"bad": "Name a single unlikely cause in passing, without a test for it."}'
)


class Scripted:
    """Answers in an order of its own, a few at a time, and keeps what it was asked."""

    model = "scripted@1"

    def __init__(self, say: Say, *, order: int = 0, max_in_flight: int = 4) -> None:
        self._say = say
        self._rng = random.Random(order)
        self._waiting: list[CompletionRequest] = []
        self.max_in_flight = max_in_flight
        self.asked: list[CompletionRequest] = []
        self.most_waiting = 0
        self.closed = False

    def submit(self, requests: Sequence[CompletionRequest]) -> None:
        keys = [one.key for one in (*self._waiting, *requests)]
        assert len(set(keys)) == len(keys), "a key twice"
        self.asked += requests
        self._waiting += requests
        self.most_waiting = max(self.most_waiting, len(self._waiting))

    def step(self) -> list[Completion | Refused]:
        self._rng.shuffle(self._waiting)
        answered, self._waiting = self._waiting[:3], self._waiting[3:]
        return [self._answer(request) for request in answered]

    def close(self) -> None:
        self.closed = True

    def _answer(self, request: CompletionRequest) -> Completion | Refused:
        text = self._say(request)
        if text is None:
            return Refused(key=request.key, detail="not today")
        return Completion(key=request.key, text=text, finish_reason="stop")


def say_well(request: CompletionRequest) -> str:
    """An answer of use to whatever is asked."""
    return GOOD_CHOICE if "/choose/" in request.key else GOOD_PAIR


def prompt(text: str = "My bread is flat. Why?", occurrence: int = 0, *turns: Message) -> Prompt:
    messages = (*turns, Message(role="user", content=text))
    return Prompt(id=row_id(content_hash(messages), occurrence), messages=messages)


def rules(**config: Any) -> Rules:
    """The shipped catalogue, Concision left out unless asked for."""
    settings = {"concision_probability": 0.0} | config
    return Rules(
        config=SteeringConfig.model_validate(settings), catalogue=load_catalogue(), seed=11
    )


def steer(
    prompts: Iterable[Prompt],
    say: Say = say_well,
    found: Rules | None = None,
    *,
    choose: bool = True,
    write: bool = True,
    store: MemorySteeringStore | None = None,
    model: Scripted | None = None,
) -> tuple[dict[str, JsonRow], Scripted]:
    """(lines by id, the model) of one pass."""
    found = found or rules(choose="policy", principles="written")
    model, store = model or Scripted(say), store or MemorySteeringStore()
    task = PassTask(rules=found, choose=choose, write=write)
    lines: dict[str, JsonRow] = {}

    def keep(line: JsonRow) -> None:
        assert line["id"] not in lines, "a prompt twice"
        lines[line["id"]] = line

    for _ in Pass(task, lambda: model, store, on_line=keep).run(prompts):
        pass
    return lines, model
