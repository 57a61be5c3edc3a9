"""Passes of models over all prompts of a run: many are asked about at once, each text only once."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

from sso_data.chat.interface import Completion, CompletionRequest, Completions
from sso_data.core.errors import RunError
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import JsonRow, Prompt, Steering, content_hash
from sso_data.engines.driver import Window, drive
from sso_data.engines.interface import Refused
from sso_data.prompts import BadRow, Candidate
from sso_data.prompts.rows import unanswerable
from sso_data.runs.steering import AnyStore, content_of
from sso_data.steering.by_model import Answers, Dialogue, PassTask, steer_by_model
from sso_data.steering.counts import SteeringCounts
from sso_data.steering.rules import Rules, Steered

PROMPTS_STEERED = "prompts steered"
"""The unit of the progress."""


@dataclass(slots=True, eq=False)
class _Open:
    """A prompt that is being asked about."""

    content: str
    dialogue: Dialogue
    waits_for: set[str] = field(default_factory=set)
    wanted: list[str] = field(default_factory=list)


class Pass:
    """One pass over prompts with one model, which is opened when the first question needs it.

    `on_line` is given every line that is finished.
    """

    def __init__(
        self,
        task: PassTask,
        open_model: Callable[[], Completions],
        store: AnyStore,
        *,
        on_line: Callable[[JsonRow], None] = lambda line: None,
    ) -> None:
        self._task = task
        self._open_model = open_model
        self._store = store
        self._on_line = on_line
        self._answers: dict[str, dict[str, Completion | Refused]] = {}
        self._open_of: Counter[str] = Counter()
        self._waiting: dict[str, list[_Open]] = {}
        self._window = Window[CompletionRequest, Completion | Refused](
            lambda: self._model, lambda: self._model.max_in_flight
        )

    def run(self, prompts: Iterable[Prompt]) -> Iterator[None]:
        """Ask about every prompt that has no line yet; yields after every step of the model.

        Raises EngineError when the model can answer nothing any more.
        """
        kind = self._task.kind
        todo = (prompt for prompt in prompts if not self._store.find(kind, prompt.id))
        yield from drive(self._window, todo, self._begin, self._take)

    @cached_property
    def _model(self) -> Completions:
        return self._open_model()

    def _begin(self, prompt: Prompt) -> None:
        content = content_of(prompt.id)
        self._open_of[content] += 1
        self._answers.setdefault(content, {})
        dialogue = steer_by_model(
            prompt,
            self._task,
            model=lambda: self._model.model,
            earlier=self._store.find("choice", prompt.id),
            known=lambda feature: self._store.written(content, feature),
        )
        self._go_on(_Open(content=content, dialogue=dialogue), None)

    def _go_on(self, one: _Open, answers: Answers | None) -> None:
        """Run a prompt up to its next questions without an answer, or to its end.

        Equal prompts share answers: each question is asked once, however many wait for it.
        """
        known = self._answers[one.content]
        while True:
            try:
                requests = next(one.dialogue) if answers is None else one.dialogue.send(answers)
            except StopIteration as done:
                self._open_of[one.content] -= 1
                if not self._open_of[one.content]:
                    del self._open_of[one.content], self._answers[one.content]
                self._store.add(done.value)
                self._on_line(done.value)
                return
            one.wanted = [request.key for request in requests]
            one.waits_for = {key for key in one.wanted if key not in known}
            for request in requests:
                if request.key not in one.waits_for:
                    continue
                if request.key not in self._waiting:
                    self._waiting[request.key] = []
                    self._window.ask(request)
                self._waiting[request.key].append(one)
            if one.waits_for:
                return
            answers = {key: known[key] for key in one.wanted}

    def _take(self, answer: Completion | Refused) -> None:
        for one in self._waiting.pop(answer.key):
            known = self._answers[one.content]
            known[answer.key] = answer
            one.waits_for.discard(answer.key)
            if not one.waits_for:
                self._go_on(one, {key: known[key] for key in one.wanted})


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models that are asked: the policy, and another one that writes, if there is one.

    Each is opened when a question needs it. `open_writer` is a context that closes the writer;
    where both cannot be open at once, opening it closes the policy's engine. `is_control`
    recognises the policy's control tokens.
    """

    open_policy: Callable[[], Completions]
    is_control: Callable[[str], bool]
    writer: str = "policy"
    open_writer: Callable[[], AbstractContextManager[Callable[[], Completions]]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """The prompts to steer and where their steering is kept.

    `prompts` may be called several times; `counts` are those of the lines in the store; `total` is
    the number of prompts, those steered earlier included, or None.
    """

    prompts: Callable[[], Iterable[Prompt]]
    store: AnyStore
    counts: SteeringCounts
    total: int | None = None


def steer_all(
    guide: Guide, rules: Rules, models: Models, progress: Progress | None = None
) -> Iterator[None]:
    """Steer and count every prompt of the guide; yields after every step of a model.

    A writer that is not the policy has a pass of its own, after the policy chose all features.
    Raises EngineError when a model can answer nothing any more.
    """
    progress = progress or NullProgress()
    chooses = rules.choose == "policy"
    writes = rules.config.principles == "written"

    def run(
        phase: str, model: Callable[[], Completions], *, choose: bool, write: bool
    ) -> Iterator[None]:
        progress.phase(phase)
        done = guide.counts.prompts
        progress.count(done, guide.total, PROMPTS_STEERED, guide.counts.state)

        def on_line(line: JsonRow) -> None:
            nonlocal done
            done += 1
            guide.counts.add(line)
            progress.count(done, guide.total, PROMPTS_STEERED, guide.counts.state)

        task = PassTask(
            rules=rules,
            choose=choose,
            write=write,
            writer=models.writer,
            is_control=models.is_control,
        )
        yield from Pass(task, model, guide.store, on_line=on_line).run(guide.prompts())

    if models.open_writer is None:
        yield from run("steering the prompts", models.open_policy, choose=chooses, write=writes)
        return
    if chooses:
        yield from run("choosing features", models.open_policy, choose=True, write=False)
    with models.open_writer() as open_writer:
        yield from run("writing principles", open_writer, choose=False, write=True)


def look_up(store: AnyStore, rules: Rules) -> Callable[[Prompt], Steered]:
    """Return the function that finds a prompt's steering in a store.

    It raises RunError for a prompt that was not steered.
    """

    def steer(prompt: Prompt) -> Steered:
        line = store.find("steering", prompt.id)
        if line is None:
            raise RunError(
                f"prompt {prompt.id} was not steered: the source changed during the run; run the "
                "same command again to continue"
            )
        return rules.steered(Steering.from_json(line))

    return steer


def prompts_of(
    candidates: Iterable[Candidate | BadRow],
    name: Callable[[str], Iterable[str]],
    is_open: Callable[[str], bool],
) -> Iterator[Prompt]:
    """Yield the answerable prompts that are still to be done.

    `name` gives the ids for a content hash, one a sample; `is_open` says which are to be done.
    """
    for candidate in candidates:
        ids = name(content_hash(candidate.messages))
        if isinstance(candidate, BadRow) or unanswerable(candidate.messages) is not None:
            continue
        for identity in filter(is_open, ids):
            yield Prompt(id=identity, messages=candidate.messages)
