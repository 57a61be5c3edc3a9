"""The plain answers of a model, and nothing else: a third of what a run samples, nothing scored.

A prompt is answered as a run of the same configuration would answer it in its plain view: the same
token ids, the same seed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from sso_data.core.records import FinishReason, JsonRow, Prompt, derive_seed
from sso_data.engines.interface import Engine, Sampled, SampleRequest, Scored
from sso_data.engines.interface import Refused as Unanswered
from sso_data.evaluation.book import Book
from sso_data.generation import sample
from sso_data.generation.generate import Setup
from sso_data.prompts.rows import unanswerable
from sso_data.templating.chat_template import Unrenderable

_WINDOW = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said to a prompt when nobody steered it."""

    text: str
    num_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """Why a prompt has no answer: one word, and the detail."""

    reason: str
    detail: str


def answer_of(line: JsonRow) -> Answer | NoAnswer:
    """A line of the book of answers."""
    if "reason" in line:
        return NoAnswer(reason=line["reason"], detail=line["detail"])
    return Answer(
        text=line["text"], num_tokens=line["num_tokens"], finish_reason=line["finish_reason"]
    )


def answer_all(
    prompts: Sequence[Prompt], setup: Setup, start: Callable[[], Engine], book: Book
) -> Iterator[int]:
    """Answer the prompts that the book has nothing about; yields how many it has after each step.

    The engine is started when the first prompt needs it.
    """
    yield len(book.lines)
    todo = iter([prompt for prompt in prompts if prompt.id not in book.lines])
    waiting = 0
    exhausted = False
    while True:
        fresh: list[SampleRequest] = []
        while not exhausted and (
            not waiting + len(fresh) or waiting + len(fresh) < _WINDOW * start().info.max_in_flight
        ):
            prompt = next(todo, None)
            exhausted = prompt is None
            if prompt is None:
                break
            asked = _request(prompt, setup, start)
            if isinstance(asked, NoAnswer):
                book.add({"id": prompt.id, **asdict(asked)})
            else:
                fresh.append(asked)
        if fresh:
            start().submit(fresh)
            waiting += len(fresh)
        if not waiting:
            return
        for result in start().step():
            waiting -= 1
            book.add(_line(result, setup))
        yield len(book.lines)


def _request(prompt: Prompt, setup: Setup, start: Callable[[], Engine]) -> SampleRequest | NoAnswer:
    if problem := unanswerable(prompt.messages):
        reason, detail = problem
        return NoAnswer(reason=reason, detail=detail)
    try:
        ids = setup.policy.template.ids(prompt.messages)
    except Unrenderable as error:
        return NoAnswer(reason=error.reason, detail=str(error))
    sampling = setup.config.sampling
    context = start().info.context_tokens
    budget = min(sampling.max_tokens, context - len(ids))
    if budget < min(sampling.min_completion, sampling.max_tokens):
        detail = f"the prompt has {len(ids)} tokens of a context of {context}"
        return NoAnswer(reason="prompt_too_long", detail=detail)
    return SampleRequest(
        key=prompt.id,
        prompt_ids=ids,
        max_tokens=budget,
        seed=derive_seed(setup.config.seed, prompt.id, "plain"),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )


def _line(result: Sampled | Scored | Unanswered, setup: Setup) -> JsonRow:
    if isinstance(result, Unanswered):
        return {"id": result.key, "reason": result.reason, "detail": result.detail}
    assert isinstance(result, Sampled)
    said = sample.response(result, setup.policy.template)
    answer = Answer(text=said.text, num_tokens=said.num_tokens, finish_reason=said.finish_reason)
    return {"id": result.key, **asdict(answer)}
