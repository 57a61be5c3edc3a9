"""The stage before sampling: every prompt is steered by models, in one pass or in two."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sso_data.chat.interface import Completions
from sso_data.core.errors import RunError
from sso_data.core.records import JsonRow, Prompt, Steering, content_hash
from sso_data.prompts import BadRow, Candidate
from sso_data.prompts.answerable import unanswerable
from sso_data.steering.answer_store import Book, SteeringCounts
from sso_data.steering.by_model import Task
from sso_data.steering.rounds import Round
from sso_data.steering.rules import Rules, Steered


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Who is asked: the policy, and another model that writes, if there is one.

    Each is opened when a question needs it. `open_writer` is a context that closes the writer;
    where both cannot be open at once, opening it closes the policy's engine. `is_control` knows the
    policy's control tokens.
    """

    open_policy: Callable[[], Completions]
    is_control: Callable[[str], bool]
    writer: str = "policy"
    open_writer: Callable[[], AbstractContextManager[Callable[[], Completions]]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """The prompts to steer, as often as they are asked for, and where their steering is kept.

    `tally` counts what the book holds; `total` is the number of prompts, where it is known.
    """

    prompts: Callable[[], Iterable[Prompt]]
    book: Book
    tally: SteeringCounts
    total: int | None = None


def steer_all(
    guide: Guide,
    rules: Rules,
    models: Models,
    *,
    on_pass: Callable[[str], None] = lambda text: None,
    on_line: Callable[[JsonRow], None] = lambda line: None,
) -> Iterator[None]:
    """Steer every prompt of the guide; yields whenever a model was waited for.

    A writer that is not the policy has a pass of its own, after the policy chose all features.
    """
    chooses = rules.config.choose == "policy"
    writes = rules.config.principles == "written"

    def task(*, choose: bool, write: bool) -> Task:
        return Task(
            rules=rules,
            choose=choose,
            write=write,
            writer=models.writer,
            is_control=models.is_control,
        )

    def run(one: Task, model: Callable[[], Completions]) -> Iterator[None]:
        yield from Round(one, model, guide.book, on_line=on_line).run(guide.prompts())

    if models.open_writer is None:
        on_pass("steering the prompts")
        yield from run(task(choose=chooses, write=writes), models.open_policy)
        return
    if chooses:
        on_pass("choosing features")
        yield from run(task(choose=True, write=False), models.open_policy)
    on_pass("writing principles")
    with models.open_writer() as open_writer:
        yield from run(task(choose=False, write=True), open_writer)


def look_up(book: Book, rules: Rules) -> Callable[[Prompt], Steered]:
    """Steering by what a book holds."""

    def steer(prompt: Prompt) -> Steered:
        line = book.find("steering", prompt.id)
        if line is None:
            raise RunError(
                f"prompt {prompt.id} was not there when the prompts were steered: the source "
                "changed meanwhile; run the same command again to continue"
            )
        return rules.steered(Steering.from_json(line))

    return steer


def prompts_of(
    candidates: Iterable[Candidate | BadRow],
    name: Callable[[str], str],
    is_open: Callable[[str], bool],
) -> Iterator[Prompt]:
    """The prompts that are still to be done, under the ids that `name` gives their contents."""
    for candidate in candidates:
        identity = name(content_hash(candidate.messages))
        if isinstance(candidate, BadRow) or not is_open(identity):
            continue
        if unanswerable(candidate.messages) is None:
            yield Prompt(id=identity, messages=candidate.messages)
