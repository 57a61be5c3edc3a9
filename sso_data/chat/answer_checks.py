"""Checks of what a chat model says, and the fence around what it is shown."""

import json
import re
from collections.abc import Iterable, Sequence

from sso_data.core.jinja import phrases
from sso_data.core.records import Message
from sso_data.core.words import holds, normal, share_run, texts_in

COPIED_WORDS = 6
"""This many words in a row of an example are copied from it."""

_FENCE = "====="
_LEAST_QUOTE = 12
"""Characters in normal form from which a text that stands in a template is copied from it."""
_OPENING_CHARS = 200
_LABEL = re.compile(r"^[\w ]{1,30}:\s+")
_CONTROL = re.compile(r"<\|[^|<>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>")


def fence_for(texts: Iterable[str]) -> str:
    """Return a line of equals signs that none of the texts holds: none can end its quotation."""
    said, fence = "\n".join(texts), _FENCE
    while fence in said:
        fence += "="
    return fence


def control_token(text: str) -> str | None:
    """Return the first thing in a text that looks like a control token of any chat template."""
    found = _CONTROL.search(text)
    return found.group() if found else None


def opening(text: str, file: str) -> str | None:
    """Return the phrase of `templates/<file>` with which a text begins, or None."""
    start = " ".join(text[:_OPENING_CHARS].replace("’", "'").lower().split())
    for phrase in phrases(file):
        after = start[len(phrase) : len(phrase) + 1]
        if start.startswith(phrase) and not (after.isalnum() and phrase[-1].isascii()):
            return phrase
    return None


class Examples:
    """The few-shot examples of a template: what it renders when it is given blank texts.

    `texts` are its lines, or the texts in a JSON object that is a line; labels such as "Query: "
    before them are left out.
    """

    def __init__(self, chats: Iterable[Sequence[Message]]) -> None:
        said = [message.content for chat in chats for message in chat]
        self._said = tuple(dict.fromkeys(map(normal, said)))
        found: list[str] = []
        for line in (line.strip() for text in said for line in text.splitlines()):
            plain = _LABEL.sub("", line, count=1) or line
            try:
                value = json.loads(line if line.startswith("{") else plain)
            except ValueError:
                value = None
            if isinstance(value, dict):
                found += texts_in(value)
            elif len(line) >= _LEAST_QUOTE:
                found.append(plain)
        self.texts = tuple(dict.fromkeys(found))

    def hold(self, text: str) -> bool:
        """Return True where the whole text is part of the template."""
        asked = normal(text)
        return len(asked) >= _LEAST_QUOTE and any(holds(said, asked) for said in self._said)

    def lend(self, text: str) -> bool:
        """Return True where the text is part of the template, or repeats a passage of it."""
        return self.hold(text) or any(share_run(text, one, COPIED_WORDS) for one in self.texts)
