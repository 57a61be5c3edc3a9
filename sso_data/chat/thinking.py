"""Thinking blocks: what stands before the answer is no part of it."""

from typing import Literal

from sso_data.chat.interface import Completion

_OPEN, _CLOSE = "<think>", "</think>"


def completion(
    key: str, text: str, finish: Literal["stop", "length"], *, opens_thinking: bool = False
) -> Completion:
    """An answer without its thinking; one that never came out of it has no text.

    `opens_thinking`: the prompt ended inside a thinking block.
    """
    _, closed, answer = text.rpartition(_CLOSE)
    if not closed and (opens_thinking or text.lstrip().startswith(_OPEN)):
        return Completion(key=key, text="", finish_reason="length")
    return Completion(key=key, text=answer.strip(), finish_reason=finish)
