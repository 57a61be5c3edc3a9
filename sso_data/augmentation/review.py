"""The review of one answer: its checks, and the line that it becomes in one of the two files."""

import unicodedata

from sso_data.augmentation.answers import Rejection, read_answer
from sso_data.augmentation.attempts import OPERATIONS, TEMPLATE, Attempt, Seeds
from sso_data.augmentation.contamination import Contamination
from sso_data.augmentation.duplicates import NearDuplicateIndex
from sso_data.chat.answer_checks import Examples, control_token, fence_for, opening
from sso_data.chat.interface import Completion
from sso_data.config.augmentation import AugmentConfig, ChecksConfig
from sso_data.core.errors import one_line
from sso_data.core.jinja import Templates
from sso_data.core.language import is_another_language
from sso_data.core.records import JsonRow, Message, content_hash, row_id
from sso_data.core.words import holds, normal
from sso_data.engines.interface import Refused

_EXCERPT_CHARS = 2000
_ALLOWED = "\n\t\r"
_REPLACEMENT = "�"
_SHORT_SEED = 40
_LEAST_QUOTE = 12
"""Characters of a seed in normal form from which a query that holds it copies it."""
_QUESTION_MARKS = "?？؟"


class QueryReviewer:
    """Reviews answers one after the other: an accepted query is a duplicate of those after it.

    `model` names the model in the provenance of new queries.
    """

    def __init__(
        self,
        seeds: Seeds,
        config: AugmentConfig,
        contamination: Contamination,
        templates: Templates,
        *,
        model: str,
    ) -> None:
        self._plain = seeds.plain
        self._config = config
        self._contamination = contamination
        self._examples = examples_of(templates)
        self._origin = {"model": model, "templates": templates.fingerprint(TEMPLATE)}
        self._known = NearDuplicateIndex(config.duplicates)
        for number, text in enumerate(self._examples.texts, start=1):
            self._known.add(text, "example", f"example {number}")
        for seed in seeds.rows:
            self._known.add(seed.text, "seed", seed.id, scope=_scope_of(seed.messages))
            if seed.context:
                self._known.add(seed.opening, "seed", seed.id)

    def remember(self, messages: tuple[Message, ...], identity: str) -> None:
        """Add a query that was accepted, here or by an earlier process."""
        self._known.add(messages[-1].content, "new", identity, scope=_scope_of(messages))

    def review(self, attempt: Attempt, answer: Completion | Refused) -> JsonRow:
        """The line of an answer: a new query with its `provenance`, or a `reason` against it.

        An accepted query is remembered; its `id` is the one that `generate` gives the prompt.
        """
        query = self._query(attempt, answer)
        origin = {
            "attempt": attempt.number,
            "operation": attempt.operation,
            "seeds": [seed.id for seed in attempt.seeds],
            "seed": attempt.seed,
        }
        if isinstance(query, Rejection):
            return {
                "reason": query.reason,
                "detail": one_line(query.detail),
                "file": query.file,
                "answer": "" if isinstance(answer, Refused) else answer.text[:_EXCERPT_CHARS],
                **origin,
            }
        messages = attempt.messages(query)
        identity = row_id(content_hash(messages), 0)
        self.remember(messages, identity)
        return {
            "id": identity,
            "prompt": query if self._plain else [message.to_json() for message in messages],
            "provenance": {**origin, **self._origin},
        }

    def _query(self, attempt: Attempt, answer: Completion | Refused) -> str | Rejection:
        """The query of an answer if it is accepted, or the first reason against it."""
        if isinstance(answer, Refused):
            return Rejection(reason=answer.reason, detail=answer.detail)
        if answer.finish_reason == "length":
            most = self._config.answers.max_tokens
            return Rejection(reason="cut_off", detail=f"not ended within {most} tokens")
        query = read_answer(answer.text, self._config.answers.form)
        if isinstance(query, Rejection):
            return query
        if problem := first_problem(query, attempt, self._config.checks):
            return problem
        if self._examples.hold(query):
            return Rejection(reason="copied_example", detail="is part of the template")
        if match := self._known.find(query, scope=_scope_of(attempt.messages(query))):
            reason = "duplicate" if match.same else "near_duplicate"
            if match.kind == "example":
                reason = "copied_example"
            elif match.kind == "seed":
                reason += "_of_seed"
            return Rejection(reason=reason, detail=f"{match.similarity:.2f} like {match.id}")
        if overlap := self._contamination.find(query):
            detail = f"{overlap.file} row {overlap.row}: {overlap.words}"
            return Rejection(reason="contaminated", detail=detail, file=overlap.file)
        return query


def _scope_of(messages: tuple[Message, ...]) -> str:
    """A hash of the turns before the last, without the system's; only equal ones are compared.

    A last turn such as "And why?" means something else in every conversation.
    """
    before = tuple(message for message in messages[:-1] if message.role != "system")
    return content_hash(before) if before else ""


def examples_of(templates: Templates) -> Examples:
    """The examples of the template, those of every operation."""
    return Examples(
        templates.messages(
            TEMPLATE, operation=operation, seeds=[""], context=[], system="", fence=fence_for(())
        )
        for operation in OPERATIONS
    )


def first_problem(query: str, attempt: Attempt, config: ChecksConfig) -> Rejection | None:
    """The first check that a query fails, by itself or compared with the seeds shown."""
    for char in query:
        category = unicodedata.category(char)
        if (category in ("Cc", "Cs", "Co", "Cn") and char not in _ALLOWED) or char == _REPLACEMENT:
            return Rejection(reason="control_characters", detail=f"holds U+{ord(char):04X}")
    if token := control_token(query):
        return Rejection(reason="control_characters", detail=f"holds {token}")
    if phrase := opening(query, "not_queries.txt"):  # openings of answers and of refusals
        return Rejection(reason="not_a_query", detail=f"begins with {phrase!r}")
    size, mean = len(query), sum(map(len, attempt.texts)) / len(attempt.texts)
    least = max(config.min_chars, config.min_ratio * mean)
    most = min(config.max_chars, config.max_ratio * max(mean, _SHORT_SEED))
    if size < least:
        return Rejection(reason="too_short", detail=f"{size} characters, at least {least:.0f}")
    if size > most:
        return Rejection(reason="too_long", detail=f"{size} characters, at most {most:.0f}")
    asked = normal(query)
    for seed, text in zip(attempt.seeds, attempt.texts, strict=True):
        shown = normal(text)
        if config.pieces and asked != shown and holds(shown, asked):
            return Rejection(reason="piece_of_seed", detail=f"is a piece of {seed.id}")
        if attempt.operation == "rephrase":  # what holds the seed is compared by similarity only
            continue
        if asked == shown or (len(shown) >= _LEAST_QUOTE and holds(asked, shown)):
            return Rejection(reason="quotes_seed", detail=f"holds the whole of {seed.id}")
    is_question = attempt.operation == "rephrase" and _asks(attempt.texts[-1])
    if config.questions and is_question and not _asks(query):
        return Rejection(reason="not_a_question", detail=f"{attempt.base.id} asks a question")
    if config.language and is_another_language(query, attempt.texts[-1]):
        detail = f"not in the language of {attempt.base.id}"
        return Rejection(reason="language", detail=detail)
    return None


def _asks(text: str) -> bool:
    """True for a text with a question mark."""
    return any(mark in text for mark in _QUESTION_MARKS)
