"""The verdict on one answer: a new query, or the reason why it is none."""

from dataclasses import dataclass
from typing import Any

from sso_data.augmentation.answers import Rejection, read_answer
from sso_data.augmentation.attempts import Attempt
from sso_data.augmentation.checks import Examples, first_problem
from sso_data.augmentation.contamination import Contamination
from sso_data.augmentation.duplicates import Match, NearDuplicateIndex
from sso_data.augmentation.seeds import Seed, Seeds
from sso_data.chat.interface import Completion
from sso_data.config.augmentation import AugmentConfig
from sso_data.core.errors import one_line
from sso_data.core.jinja import Templates
from sso_data.core.records import JsonRow, Message, content_hash, row_id
from sso_data.engines.interface import Refused

_EXCERPT_CHARS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A new query, and the prompt that it makes."""

    attempt: Attempt
    query: str

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.attempt.messages(self.query)

    @property
    def id(self) -> str:
        """The id that `generate` gives the prompt."""
        return row_id(content_hash(self.messages), 0)

    def to_row(self, *, plain: bool, model: str, templates: str) -> JsonRow:
        """The line of the output file; `plain` writes the prompt as a text."""
        turns = [message.to_json() for message in self.messages]
        return {
            "id": self.id,
            "prompt": self.query if plain else turns,
            "provenance": {
                **_origin(self.attempt),
                "model": model,
                "templates": templates,
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An attempt without a new query: why, and what was said."""

    attempt: Attempt
    why: Rejection
    said: str
    file: str | None = None

    def to_json(self) -> JsonRow:
        return {
            "reason": self.why.reason,
            "detail": one_line(self.why.detail),
            "file": self.file,
            "answer": self.said[:_EXCERPT_CHARS],
            **_origin(self.attempt),
        }


def _origin(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "operation": attempt.operation,
        "seeds": [seed.id for seed in attempt.seeds],
        "seed": attempt.seed,
    }


class QueryReviewer:
    """Judges answers one after the other: what it accepts counts for those that follow."""

    def __init__(
        self,
        seeds: Seeds,
        config: AugmentConfig,
        contamination: Contamination,
        templates: Templates,
    ) -> None:
        self._config = config
        self._contamination = contamination
        self._examples = Examples(templates)
        self._known = NearDuplicateIndex(config.duplicates)
        for number, text in enumerate(self._examples.queries, start=1):
            self._known.add(text, "example", f"example {number}")
        for seed in seeds.rows:
            self._know_seed(seed)

    def _know_seed(self, seed: Seed) -> None:
        """The last turn, and the opening of a conversation, from which new topics are made."""
        self._known.add(seed.text, "seed", seed.id, scope=scope_of(seed.messages))
        if len(seed.context):
            self._known.add(seed.opening, "seed", seed.id)

    def remember(self, messages: tuple[Message, ...], identity: str) -> None:
        """A query that was accepted, here or before."""
        self._known.add(messages[-1].content, "new", identity, scope=scope_of(messages))

    def verdict(self, attempt: Attempt, answer: Completion | Refused) -> Accepted | Rejected:
        """What becomes of one answer; accepted queries are remembered."""
        if isinstance(answer, Refused):
            why = Rejection(reason=answer.reason, detail=answer.detail)
            return Rejected(attempt=attempt, why=why, said="")
        said = answer.text
        if answer.finish_reason == "length":
            most = self._config.answers.max_tokens
            why = Rejection(reason="cut_off", detail=f"not ended within {most} tokens")
            return Rejected(attempt=attempt, why=why, said=said)
        query = read_answer(said, self._config.answers.form)
        if isinstance(query, Rejection):
            return Rejected(attempt=attempt, why=query, said=said)
        problem = self._problem(query, attempt)
        if problem is not None:
            why, file = problem
            return Rejected(attempt=attempt, why=why, said=said, file=file)
        accepted = Accepted(attempt=attempt, query=query)
        self.remember(accepted.messages, accepted.id)
        return accepted

    def _problem(self, query: str, attempt: Attempt) -> tuple[Rejection, str | None] | None:
        """(why, benchmark file) of a query that is not to be kept."""
        problem = first_problem(query, attempt, self._config.checks)
        if problem is None and self._examples.hold(query):
            problem = Rejection(reason="copied_example", detail="stands in the template")
        if problem is None:
            match = self._known.find(query, scope=scope_of(attempt.messages(query)))
            problem = _duplicate(match) if match else None
        if problem is not None:
            return problem, None
        overlap = self._contamination.find(query)
        if overlap is None:
            return None
        detail = f"{overlap.file} row {overlap.row}: {overlap.words}"
        return Rejection(reason="contaminated", detail=detail), overlap.file


def scope_of(messages: tuple[Message, ...]) -> str:
    """What two prompts must share to be compared: the turns before the last, but for the system's.

    A last turn such as "And why?" means another thing in every conversation.
    """
    before = tuple(message for message in messages[:-1] if message.role != "system")
    return content_hash(before) if before else ""


def _duplicate(match: Match) -> Rejection:
    if match.kind == "example":
        return Rejection(reason="copied_example", detail=f"{match.similarity:.2f} like {match.id}")
    kind = "duplicate" if match.same else "near_duplicate"
    reason = f"{kind}_of_seed" if match.kind == "seed" else kind
    return Rejection(reason=reason, detail=f"{match.similarity:.2f} like {match.id}")
