"""Steering by a model: what is asked about one prompt, again where an answer will not do.

A prompt's steering is a generator: it yields requests that may be answered in any order, is sent
all their answers by key, and returns the line that the run keeps.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sso_data.chat.interface import Completion, CompletionRequest
from sso_data.core.errors import one_line
from sso_data.core.records import SCHEMA_VERSION, JsonRow, Message, Prompt, derive_seed
from sso_data.engines.interface import Refused
from sso_data.steering import choose, write
from sso_data.steering.conversation import conversation_of
from sso_data.steering.principles import Principle
from sso_data.steering.rules import FREE_FORM, Rules, Text

ATTEMPTS = 2
"""How often a model is asked before what is there by rule stands in."""

ACCEPTED, CUT_OFF, REFUSED, NO_PAIR = "accepted", "cut_off", "refused", "missing_side"
_EXCERPT_CHARS = 300

Answers = Mapping[str, Completion | Refused]
Asking = Generator[list[CompletionRequest], Answers, Any]

Known = Callable[[str], JsonRow | None]
"""The line of an earlier prompt of the same content for which a feature's texts were written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one pass over the prompts asks, and of whom.

    `choose` asks for features; without it those of an earlier pass, or the rule's, are taken.
    `write` asks for texts; `writer` is the name that goes into the rows. `is_control` knows the
    control tokens of the policy, which will read the texts.
    """

    rules: Rules
    choose: bool
    write: bool
    writer: str = "policy"
    is_control: Callable[[str], bool] = lambda text: False

    @property
    def kind(self) -> Literal["choice", "steering"]:
        """What the lines of this pass are: features alone, or all that a row needs."""
        return "steering" if self.write or self.rules.config.principles == "catalogue" else "choice"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One answer: its seed, whether it was of use, and the start of it if it was not."""

    seed: int
    outcome: str
    text: str = ""

    def to_json(self) -> JsonRow:
        told: JsonRow = {"seed": self.seed, "outcome": self.outcome}
        return told | ({"text": self.text} if self.text else {})


def content_of(row: str) -> str:
    """The content part of a row's id."""
    return row.rpartition("-")[0]


def steer_by_model(
    prompt: Prompt, task: Task, *, model: Callable[[], str], earlier: JsonRow | None, known: Known
) -> Asking:
    """The line of one prompt; `earlier` is the one of the pass before, if there was one."""
    line: JsonRow = {"schema_version": SCHEMA_VERSION, "kind": task.kind, "id": prompt.id}
    if task.choose:
        features, chosen_by, attempts = yield from _choose(prompt, task)
        line["choice"] = {"model": model(), "attempts": [one.to_json() for one in attempts]}
    elif earlier is not None:
        features, chosen_by = tuple(earlier["principles"]), earlier["chosen_by"]
        line["choice"] = earlier["choice"]
    elif task.rules.config.choose == "none":
        features, chosen_by = task.rules.chosen(prompt.id, (FREE_FORM,)), "none"
    else:
        rule = task.rules.config.choose
        features = task.rules.draw(prompt.id)
        chosen_by = "fallback" if rule == "policy" else rule
    if task.kind == "choice":
        return line | {"principles": list(features), "chosen_by": chosen_by}
    texts: dict[str, Text] = {}
    if task.write:
        texts, line["written"] = yield from _write_all(prompt, features, task, model, known)
    if FREE_FORM in features and FREE_FORM not in texts:
        features, chosen_by = task.rules.draw(prompt.id), "fallback"
    return line | task.rules.steering(prompt.id, features, chosen_by, texts).to_json()


def _choose(prompt: Prompt, task: Task) -> Asking:
    """(features, chosen_by, attempts): the policy's choice, or what the rule draws instead."""
    rules, conversation = task.rules, conversation_of(prompt)
    pool, count = rules.shown_pool(prompt.id), rules.config.count
    asked = choose.messages(conversation, pool, count, rules.templates)
    attempts: list[_Attempt] = []
    for number in range(ATTEMPTS):
        seed = derive_seed(rules.seed, prompt.id, f"choose/{number}")
        request = _request(f"{prompt.id}/choose/{number}", asked, seed, task)
        request = _held(request, choose.schema(pool, count), task)
        answer = (yield [request])[request.key]
        if isinstance(answer, Refused):
            attempts.append(_refused(seed, answer))
            break
        found = choose.read(answer.text, pool, count)
        if isinstance(found, tuple):
            attempts.append(_Attempt(seed=seed, outcome=ACCEPTED))
            return rules.chosen(prompt.id, found), "policy", attempts
        attempts.append(_failed(seed, found, answer))
    return rules.draw(prompt.id), "fallback", attempts


def _write_all(
    prompt: Prompt,
    features: tuple[str, ...],
    task: Task,
    model: Callable[[], str],
    known: Known,
) -> Asking:
    """(texts by feature, what is told of each): all features are asked about at once."""
    texts: dict[str, Text] = {}
    told: dict[str, JsonRow] = {}
    asking: dict[str, Asking] = {}
    for feature in features:
        line = known(feature)
        if line is None:
            asking[feature] = _write(prompt, feature, task)
        else:
            told[feature] = {"by": line["written"][feature]["by"], "as": line["id"]}
            if told[feature]["by"] != "catalogue":
                texts[feature] = _text_in(line, feature)
    answered = yield from _together(asking)
    for feature, (text, attempts) in answered.items():
        told[feature] = {
            "by": text.by if text else "catalogue",
            "model": model(),
            "attempts": [one.to_json() for one in attempts],
        }
        if text:
            texts[feature] = text
    return texts, {feature: told[feature] for feature in features}


def _write(prompt: Prompt, feature: str, task: Task) -> Asking:
    """(text or None, attempts): seeds and keys are the content's, so that duplicates share them."""
    rules, conversation = task.rules, conversation_of(prompt)
    principle: Principle | None = None if feature == FREE_FORM else rules.catalogue[feature]
    asked = write.messages(conversation, principle, rules.templates)
    limits = write.Limits(length_ratio=rules.config.max_length_ratio, is_control=task.is_control)
    attempts: list[_Attempt] = []
    content = content_of(prompt.id)
    for number in range(ATTEMPTS):
        purpose = f"write/{feature}/{number}"
        seed = derive_seed(rules.seed, content, purpose)
        request = _request(f"{content}/{purpose}", asked, seed, task)
        request = _held(request, write.SCHEMA, task)
        answer = (yield [request])[request.key]
        if isinstance(answer, Refused):
            attempts.append(_refused(seed, answer))
            break
        pair = write.read(answer.text)
        reason = write.problem(pair, conversation.request, limits) if pair else NO_PAIR
        if pair and reason is None:
            attempts.append(_Attempt(seed=seed, outcome=ACCEPTED))
            return Text(good=pair.good, bad=pair.bad, by=task.writer), attempts
        attempts.append(_failed(seed, reason or NO_PAIR, answer))
    return None, attempts


def _together(asking: dict[str, Asking]) -> Asking:
    """The results of several generators by name, their requests asked together."""
    results: dict[str, Any] = {}
    waiting: dict[str, list[CompletionRequest]] = {}
    for name, one in asking.items():
        waiting[name] = next(one)
    while waiting:
        answers = yield [request for requests in waiting.values() for request in requests]
        for name in list(waiting):
            try:
                waiting[name] = asking[name].send(answers)
            except StopIteration as done:
                results[name] = done.value
                del waiting[name]
    return results


def _request(key: str, messages: tuple[Message, ...], seed: int, task: Task) -> CompletionRequest:
    config = task.rules.config
    return CompletionRequest(
        key=key,
        messages=messages,
        max_tokens=config.max_tokens,
        seed=seed,
        temperature=config.temperature,
    )


def _held(request: CompletionRequest, schema: Mapping[str, Any], task: Task) -> CompletionRequest:
    """The request, held to the schema where answers are."""
    return replace(request, schema=schema) if task.rules.config.structured else request


def _refused(seed: int, answer: Refused) -> _Attempt:
    return _Attempt(seed=seed, outcome=REFUSED, text=one_line(answer.detail, _EXCERPT_CHARS))


def _failed(seed: int, reason: str, answer: Completion) -> _Attempt:
    """An answer of no use; one that was cut off before it made sense is that in the first place."""
    cut = answer.finish_reason == "length" and reason in (
        NO_PAIR,
        choose.NAMES_NONE,
        choose.NAMES_TOO_FEW,
    )
    text = one_line(answer.text, _EXCERPT_CHARS)
    return _Attempt(seed=seed, outcome=CUT_OFF if cut else reason, text=text)


def _text_in(line: JsonRow, feature: str) -> Text:
    """The texts of a feature that stand in an earlier line."""
    place = line["principles"].index(feature)
    return Text(
        good=line["principles_good"][place],
        bad=line["principles_bad"][place],
        by=line["written_by"][place],
    )
