"""One pass over prompts with one model: many are asked about at once, each one once."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from sso_data.chat.interface import Completion, CompletionRequest, Completions
from sso_data.core.records import JsonRow, Prompt
from sso_data.engines.interface import Refused
from sso_data.steering.answer_store import Book
from sso_data.steering.by_model import Answers, Asking, Task, content_of, steer_by_model

_WINDOW = 2
"""Requests kept submitted, as a multiple of what the model works on at once."""


@dataclass(slots=True, eq=False)
class _Open:
    """A prompt that is being asked about."""

    content: str
    asking: Asking
    waits_for: set[str] = field(default_factory=set)
    wanted: list[str] = field(default_factory=list)


class _Contents:
    """The answers about contents that are being asked about: equal prompts share them."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, Completion | Refused]] = {}
        self._open: Counter[str] = Counter()

    def enter(self, content: str) -> None:
        self._open[content] += 1
        self._answers.setdefault(content, {})

    def leave(self, content: str) -> None:
        self._open[content] -= 1
        if not self._open[content]:
            del self._open[content], self._answers[content]

    def answers(self, content: str) -> dict[str, Completion | Refused]:
        return self._answers[content]


class Round:
    """One pass over prompts with one model, which is opened when the first question needs it."""

    def __init__(
        self,
        task: Task,
        open_model: Callable[[], Completions],
        book: Book,
        *,
        on_line: Callable[[JsonRow], None] = lambda line: None,
    ) -> None:
        self._task = task
        self._open_model = open_model
        self._book = book
        self._on_line = on_line
        self._contents = _Contents()
        self._open: dict[int, _Open] = {}
        self._waiting: dict[str, list[_Open]] = {}
        self._outbox: list[CompletionRequest] = []

    def run(self, prompts: Iterable[Prompt]) -> Iterator[None]:
        """Ask about every prompt that has no line yet; yields whenever the model was waited for."""
        todo = iter(prompts)
        exhausted = False
        while True:
            while not exhausted and not self._is_full():
                prompt = next(todo, None)
                exhausted = prompt is None
                if prompt is not None and not self._book.find(self._task.kind, prompt.id):
                    self._begin(prompt)
            if self._outbox:
                self._model.submit(self._outbox)
                self._outbox = []
            if not self._open:
                break
            for answer in self._model.step():
                self._take(answer)
            yield

    @cached_property
    def _model(self) -> Completions:
        return self._open_model()

    def _is_full(self) -> bool:
        return bool(self._waiting) and len(self._waiting) >= _WINDOW * self._model.max_in_flight

    def _begin(self, prompt: Prompt) -> None:
        content = content_of(prompt.id)
        self._contents.enter(content)
        asking = steer_by_model(
            prompt,
            self._task,
            model=lambda: self._model.model,
            earlier=self._book.find("choice", prompt.id),
            known=lambda feature: self._book.written(content, feature),
        )
        one = _Open(content=content, asking=asking)
        self._open[id(one)] = one
        self._go_on(one, None)

    def _go_on(self, one: _Open, answers: Answers | None) -> None:
        """Run a prompt up to its next questions that are not answered yet, or to its end."""
        while True:
            try:
                requests = next(one.asking) if answers is None else one.asking.send(answers)
            except StopIteration as done:
                self._finish(one, done.value)
                return
            known = self._contents.answers(one.content)
            one.wanted = [request.key for request in requests]
            one.waits_for = {key for key in one.wanted if key not in known}
            for request in requests:
                if request.key in one.waits_for:
                    self._ask(one, request)
            if one.waits_for:
                return
            answers = {key: known[key] for key in one.wanted}

    def _ask(self, one: _Open, request: CompletionRequest) -> None:
        """Ask once, however many prompts wait for the answer."""
        if request.key in self._waiting:
            self._waiting[request.key].append(one)
        else:
            self._waiting[request.key] = [one]
            self._outbox.append(request)

    def _take(self, answer: Completion | Refused) -> None:
        for one in self._waiting.pop(answer.key):
            known = self._contents.answers(one.content)
            known[answer.key] = answer
            one.waits_for.discard(answer.key)
            if not one.waits_for:
                self._go_on(one, {key: known[key] for key in one.wanted})

    def _finish(self, one: _Open, line: JsonRow) -> None:
        del self._open[id(one)]
        self._contents.leave(one.content)
        self._book.add(line)
        self._on_line(line)
