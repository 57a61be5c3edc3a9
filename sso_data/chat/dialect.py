"""What an OpenAI-compatible server understands: learnt from what it refuses."""

import re
from collections.abc import Mapping
from typing import Any

from sso_data.chat.interface import CompletionRequest

_BAD_REQUEST = (400, 422)
_SPARE = ("temperature", "top_p", "seed")
_HOLDS_TO_SCHEMA = re.compile(
    r"response_format|json_schema|guided|structured|grammar|xgrammar", re.IGNORECASE
)


class Dialect:
    """Starts with everything that a request can say and leaves out what the server refuses.

    Newer models want `max_completion_tokens` in the place of `max_tokens`; some take no
    temperature, seed or schema.
    """

    def __init__(self) -> None:
        self._left_out: set[str] = set()
        self._limit = "max_tokens"

    def body(self, request: CompletionRequest, model: str) -> dict[str, Any]:
        """The arguments of a chat completion."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [message.to_json() for message in request.messages],
            self._limit: request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % 2**31,
        }
        if request.schema is not None:
            schema = {"name": "answer", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in body.items() if name not in self._left_out}

    def learns(self, error: Exception, sent: Mapping[str, Any]) -> bool:
        """Whether the refusal of `sent` says what to leave out next time."""
        if getattr(error, "status_code", None) not in _BAD_REQUEST:
            return False
        text = f"{getattr(error, 'param', None)} {error}"
        if "max_completion_tokens" in text and "max_tokens" in sent:
            self._limit = "max_completion_tokens"
            return True
        named = [name for name in _SPARE if name in sent and re.search(rf"\b{name}\b", text)]
        if "response_format" in sent and _HOLDS_TO_SCHEMA.search(text):
            named.append("response_format")
        self._left_out.update(named)
        return bool(named)
