"""The interface of chat models: messages in, text out, held to a JSON schema where one is given.

Principle writing, query augmentation and judging need no token ids and no log-probs, so a chat API
serves as well as an engine. Requests stream like those of `engines.interface.Engine`: any number
may be open, and answers come back as they finish.
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
    the backend can enforce it; callers parse the text as if it could not.
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
    """A chat model in an engine on this machine or behind an API."""

    @property
    def model(self) -> str:
        """The model's name and fingerprint or endpoint, as records and caches name it."""
        ...

    @property
    def max_in_flight(self) -> int:
        """Requests that it works on at once; callers keep about twice that many submitted."""
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
        """Free its resources; it is not used afterwards."""
        ...


def answer(completions: Completions, request: CompletionRequest) -> Completion | Refused:
    """Return the answer to one request; no other request may be open.

    Raises EngineError when nothing can be answered any more.
    """
    completions.submit([request])
    while True:
        for result in completions.step():
            return result


def without_thinking(
    key: str, text: str, finish: Literal["stop", "length"], *, opens_thinking: bool = False
) -> Completion:
    """The completion of `text` without its thinking block; an unfinished block leaves no text.

    `opens_thinking`: the prompt ended inside a thinking block.
    """
    _, closed, answer = text.rpartition("</think>")
    if not closed and (opens_thinking or text.lstrip().startswith("<think>")):
        return Completion(key=key, text="", finish_reason="length")
    return Completion(key=key, text=answer.strip(), finish_reason=finish)
