"""What a chat model must answer: messages in, text out, to a JSON schema where one is given.

Principle writing, query augmentation and judging need no token ids and no log-probs, so a chat API
serves as well as an engine of ours. Requests stream like those of `engine.Engine`: any number may
be under way, and answers come back as they finish.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sso_data.core.records import Message
from sso_data.engines.interface import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """Answer `messages`, whose last turn is the user's, with at most `max_tokens` tokens.

    `schema` is a JSON schema that the answer's text must obey, keys in the schema's order, where
    the backend can enforce it; who asks parses the text as if it could not.
    """

    key: str
    messages: tuple[Message, ...]
    max_tokens: int
    seed: int
    temperature: float = 0.7
    top_p: float = 0.8
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answer's text, without control tokens and without a thinking block."""

    key: str
    text: str
    finish_reason: Literal["stop", "length"]


class Completions(Protocol):
    """A chat model behind an engine of ours or behind an API."""

    @property
    def model(self) -> str:
        """The model's name and fingerprint or endpoint, as records and caches name it."""
        ...

    @property
    def max_in_flight(self) -> int:
        """How many requests it works on at once; callers keep about twice that submitted."""
        ...

    def submit(self, requests: Sequence[CompletionRequest]) -> None:
        """Queue requests; keys must be unique among those not yet answered."""
        ...

    def step(self) -> list[Completion | Refused]:
        """Wait or work for a moment and return what finished (perhaps nothing).

        Raises EngineError when nothing can be answered any more.
        """
        ...

    def close(self) -> None:
        """Free what was opened; it is not used afterwards."""
        ...


def answer(completions: Completions, request: CompletionRequest) -> Completion | Refused:
    """The answer to one request; nothing else may be under way."""
    completions.submit([request])
    while True:
        for result in completions.step():
            return result
