"""Steering of one prompt by a model: asked for, retried once, and replaced where it fails.

A prompt's steering is a generator: it yields requests that may be answered in any order, is sent
all their answers by key, and returns the line that the run keeps.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sso_data.chat.interface import Completion, CompletionRequest
from sso_data.core.errors import one_line
from sso_data.core.records import SCHEMA_VERSION, JsonRow, Message, Prompt, derive_seed
from sso_data.engines.interface import Refused
from sso_data.runs.steering import content_of
from sso_data.steering.checks import content_problem, problem
from sso_data.steering.principles import Principle
from sso_data.steering.questions import (
    PAIR_SCHEMA,
    choice_messages,
    choice_schema,
    conversation_of,
    pair_messages,
    shown_examples,
)
from sso_data.steering.replies import NAMES_NONE, NAMES_TOO_FEW, NO_PAIR, read_choice, read_pair
from sso_data.steering.rules import FREE_FORM, Rules, TextPair

ATTEMPTS = 2
"""Tries of a model before the rule's choice or the catalogue's text is taken."""

ACCEPTED, CUT_OFF, REFUSED = "accepted", "cut_off", "refused"
_EXCERPT_CHARS = 300

Answers = Mapping[str, Completion | Refused]
Dialogue = Generator[list[CompletionRequest], Answers, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTask:
    """The questions of one pass over the prompts.

    `choose` asks for features; without it those of an earlier pass, or the rule's, are taken.
    `write` asks for texts; `writer` is the name that goes into the rows. `is_control` recognises
    the control tokens of the policy, which will read the texts.
    """

    rules: Rules
    choose: bool
    write: bool
    writer: str = "policy"
    is_control: Callable[[str], bool] = lambda text: False

    @property
    def kind(self) -> Literal["choice", "steering"]:
        """The kind of this pass's lines: features alone, or all that a row needs."""
        return "steering" if self.write or self.rules.config.principles == "catalogue" else "choice"


def steer_by_model(
    prompt: Prompt,
    task: PassTask,
    *,
    model: Callable[[], str],
    earlier: JsonRow | None,
    known: Callable[[str], JsonRow | None],
) -> Dialogue:
    """Ask about one prompt and return its line.

    `earlier` is the line of the pass before, if there was one; `known` finds the line of an earlier
    prompt of the same content for which a feature's texts were written.
    """
    rules = task.rules
    line: JsonRow = {"schema_version": SCHEMA_VERSION, "kind": task.kind, "id": prompt.id}
    if task.choose:
        pool, count = rules.shown_pool(prompt.id), rules.config.count
        chosen, attempts = yield from _attempts(
            f"{prompt.id}/choose",
            choice_messages(conversation_of(prompt), pool, count, rules.templates),
            choice_schema(pool, count),
            lambda text: read_choice(text, pool, count),
            task,
        )
        features = rules.chosen(prompt.id, chosen) if chosen else rules.draw(prompt.id)
        chosen_by = "policy" if chosen else "fallback"
        line["choice"] = {"model": model(), "attempts": attempts}
        if chosen:
            names = [one.name for one in pool]
            line["choice"] |= {"offered": len(pool), "places": [names.index(f) for f in chosen]}
    elif earlier is not None:
        features, chosen_by = tuple(earlier["principles"]), earlier["chosen_by"]
        line["choice"] = earlier["choice"]
    elif rules.choose == "none":
        features, chosen_by = rules.chosen(prompt.id, (FREE_FORM,)), "none"
    else:
        features = rules.draw(prompt.id)
        chosen_by = "fallback" if rules.choose == "policy" else rules.choose
    if task.kind == "choice":
        return line | {"principles": list(features), "chosen_by": chosen_by}
    texts: dict[str, TextPair] = {}
    if task.write:
        texts, line["written"] = yield from _write_all(prompt, features, task, model, known)
    if FREE_FORM in features and FREE_FORM not in texts:
        features, chosen_by = rules.draw(prompt.id), "fallback"
    return line | rules.steering(prompt.id, features, chosen_by, texts).to_json()


def _write_all(
    prompt: Prompt,
    features: tuple[str, ...],
    task: PassTask,
    model: Callable[[], str],
    known: Callable[[str], JsonRow | None],
) -> Dialogue:
    """Return (texts, what the line says of each) by feature; all features are asked about at once.

    Seeds and keys are the content's, so that equal prompts share the answers.
    """
    conversation, content = conversation_of(prompt), content_of(prompt.id)
    config, templates = task.rules.config, task.rules.templates

    def read(text: str, feature: Principle | None) -> TextPair | str:
        pair, request = read_pair(text, task.writer), conversation.request
        if pair is None:
            return NO_PAIR
        ratio = config.max_length_ratio
        wrong = problem(pair, request, max_ratio=ratio, is_control=task.is_control)
        if wrong is None and config.checks == "all":
            wrong = content_problem(pair, request, feature, shown_examples(templates))
        return wrong or pair

    texts: dict[str, TextPair] = {}
    written: dict[str, JsonRow] = {}
    dialogues: dict[str, Dialogue] = {}
    for feature in features:
        line = known(feature)
        if line is None:
            principle = None if feature == FREE_FORM else task.rules.catalogue[feature]
            asked = pair_messages(conversation, principle, templates)
            key, reading = f"{content}/write/{feature}", partial(read, feature=principle)
            dialogues[feature] = _attempts(key, asked, PAIR_SCHEMA, reading, task)
            continue
        written[feature] = {"by": line["written"][feature]["by"], "as": line["id"]}
        if written[feature]["by"] != "catalogue":
            place = line["principles"].index(feature)
            texts[feature] = TextPair(
                good=line["principles_good"][place],
                bad=line["principles_bad"][place],
                by=line["written_by"][place],
            )
    waiting = {feature: next(one) for feature, one in dialogues.items()}
    while waiting:
        answers = yield [request for requests in waiting.values() for request in requests]
        for feature in list(waiting):
            try:
                waiting[feature] = dialogues[feature].send(answers)
            except StopIteration as done:
                del waiting[feature]
                pair, attempts = done.value
                by = pair.by if pair else "catalogue"
                written[feature] = {"by": by, "model": model(), "attempts": attempts}
                if pair:
                    texts[feature] = pair
    return texts, {feature: written[feature] for feature in features}


def _attempts(
    key: str,
    messages: tuple[Message, ...],
    schema: Mapping[str, Any],
    read: Callable[[str], Any],
    task: PassTask,
) -> Dialogue:
    """Return (what was read or None, the attempts): ask until `read` returns no reason (a string).

    `key` is a row's id or content and a purpose, from which the seeds are derived.
    """
    config = task.rules.config
    owner, _, purpose = key.partition("/")
    attempts: list[JsonRow] = []
    for number in range(ATTEMPTS):
        seed = derive_seed(task.rules.seed, owner, f"{purpose}/{number}")
        request = CompletionRequest(
            key=f"{key}/{number}",
            messages=messages,
            max_tokens=config.max_tokens,
            seed=seed,
            temperature=config.temperature,
            schema=schema if config.structured else None,
        )
        answer = (yield [request])[request.key]
        if isinstance(answer, Refused):
            outcome, text = REFUSED, answer.detail
        else:
            found = read(answer.text)
            if not isinstance(found, str):
                return found, [*attempts, {"seed": seed, "outcome": ACCEPTED}]
            is_cut = answer.finish_reason == "length" and found in (
                NO_PAIR,
                NAMES_NONE,
                NAMES_TOO_FEW,
            )
            outcome, text = CUT_OFF if is_cut else found, answer.text
        excerpt = one_line(text, _EXCERPT_CHARS)
        said = {"text": excerpt} if excerpt else {}
        attempts.append({"seed": seed, "outcome": outcome, **said})
        if outcome == REFUSED:
            break
    return None, attempts
