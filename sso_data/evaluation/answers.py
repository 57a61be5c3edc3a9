"""The plain answers of a model without scores: a third of the sampling of a run.

A prompt is answered as a run of the same configuration answers it in its plain view: the same
token ids, the same seed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sso_data.core.progress import Progress
from sso_data.core.records import FinishReason, JsonRow, Prompt, Response, derive_seed
from sso_data.engines.driver import Window, drive
from sso_data.engines.interface import Refused as Unanswered
from sso_data.engines.interface import Request, Result, Sampled, SampleRequest
from sso_data.generation.generate import Setup
from sso_data.generation.pipeline import response_of
from sso_data.prompts.rows import unanswerable
from sso_data.runs.jsonl import JsonlStore
from sso_data.steering.models import LazyEngine
from sso_data.templating.chat_template import Unrenderable


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's answer to a prompt in the plain view."""

    text: str
    num_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """The reason for which a prompt has no answer, in one word, and the detail."""

    reason: str
    detail: str


def answer_to(response: Response) -> Answer:
    """Return a response as an Answer."""
    return Answer(
        text=response.text, num_tokens=response.num_tokens, finish_reason=response.finish_reason
    )


def stored_answer(line: JsonRow) -> Answer | NoAnswer:
    """The answer of a line of answers.jsonl; raises TypeError for a line of another form."""
    fields = {key: value for key, value in line.items() if key != "id"}
    if any(type(fields[key]) is not (int if key == "num_tokens" else str) for key in fields):
        raise TypeError("a field of another type")
    return NoAnswer(**fields) if "reason" in fields else Answer(**fields)


def answer_all(
    prompts: Sequence[Prompt],
    setup: Setup,
    engine: LazyEngine,
    store: JsonlStore,
    progress: Progress,
) -> None:
    """Answer the prompts that `store` has no line of; each is kept as soon as it is answered.

    The engine is started when the first prompt needs it. Raises EngineError where it is lost for
    good, RunError where a line cannot be written.
    """
    window = Window[Request, Result](engine, lambda: engine().info.max_in_flight)

    def begin(prompt: Prompt) -> None:
        asked = _request(prompt, setup, engine)
        if isinstance(asked, NoAnswer):
            store.add({"id": prompt.id, **asdict(asked)})
        else:
            window.ask(asked)

    def take(result: Result) -> None:
        if isinstance(result, Unanswered):
            answer: Answer | NoAnswer = NoAnswer(reason=result.reason, detail=result.detail)
        else:
            assert isinstance(result, Sampled)
            answer = answer_to(response_of(result, setup.policy.template))
        store.add({"id": result.key, **asdict(answer)})

    progress.count(len(store.lines), len(prompts), "answers")
    for _ in drive(window, (one for one in prompts if one.id not in store.lines), begin, take):
        progress.count(len(store.lines), len(prompts), "answers")
    progress.count(len(store.lines), len(prompts), "answers")


def _request(prompt: Prompt, setup: Setup, engine: LazyEngine) -> SampleRequest | NoAnswer:
    if problem := unanswerable(prompt.messages):
        reason, detail = problem
        return NoAnswer(reason=reason, detail=detail)
    try:
        ids = setup.policy.template.ids(prompt.messages)
    except Unrenderable as error:
        return NoAnswer(reason=error.reason, detail=str(error))
    sampling = setup.config.sampling
    context = engine().info.context_tokens
    budget = min(sampling.max_tokens, context - len(ids))
    if budget < min(sampling.min_completion, sampling.max_tokens):
        detail = f"the prompt has {len(ids)} tokens, the context {context}"
        return NoAnswer(reason="prompt_too_long", detail=detail)
    return SampleRequest(
        key=prompt.id,
        prompt_ids=ids,
        max_tokens=budget,
        seed=derive_seed(setup.config.seed, prompt.id, "plain"),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
    )
