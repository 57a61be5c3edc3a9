"""Questions to a model that steers: which features fit a prompt, two principles for a feature."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sso_data.chat.answer_checks import Examples, fence_for
from sso_data.core.jinja import Templates
from sso_data.core.records import Message, Prompt
from sso_data.steering.principles import Principle

CHOOSE, WRITE = "choose.j2", "write.j2"
"""The templates of the two questions."""

REQUEST_CHARS = 6000
TURN_CHARS = 600
SYSTEM_CHARS = 2000
EARLIER_TURNS = 6
CUT = " [...] "
_MOST_LISTS = 250

PAIR_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"good": {"type": "string"}, "bad": {"type": "string"}},
    "required": ["good", "bad"],
    "additionalProperties": False,
}
"""The JSON schema of a written pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The last turns of a prompt, each of bounded length, and its system messages."""

    turns: tuple[Message, ...]
    system: str

    @property
    def request(self) -> str:
        """The text of the last turn."""
        return self.turns[-1].content

    def variables(self) -> dict[str, object]:
        """The template variables `conversation`, `system` and `fence`."""
        return {
            "conversation": [turn.to_json() for turn in self.turns],
            "system": self.system,
            "fence": fence_for([*(turn.content for turn in self.turns), self.system]),
        }


def conversation_of(prompt: Prompt) -> Conversation:
    """Return the conversation of an answerable prompt."""
    systems = [message.content for message in prompt.messages if message.role == "system"]
    turns = [message for message in prompt.messages if message.role != "system"]
    earlier = [
        Message(role=turn.role, content=_shortened(turn.content, TURN_CHARS))
        for turn in turns[:-1][-EARLIER_TURNS:]
    ]
    last = Message(role=turns[-1].role, content=_shortened(turns[-1].content, REQUEST_CHARS))
    return Conversation(
        turns=(*earlier, last), system=_shortened("\n\n".join(systems).strip(), SYSTEM_CHARS)
    )


def _shortened(text: str, most: int) -> str:
    """Return `text`, its middle replaced by CUT where it has more than `most` characters."""
    if len(text) <= most:
        return text
    head = 2 * (most - len(CUT)) // 3
    return text[:head] + CUT + text[len(text) - (most - len(CUT) - head) :]


def choice_messages(
    conversation: Conversation, features: Sequence[Principle], count: int, templates: Templates
) -> tuple[Message, ...]:
    """Return the chat that asks for `count` of the features, shown in this order.

    Raises ConfigError when the template fails.
    """
    offered = [
        {
            "name": one.name,
            "meaning": one.meaning,
            "good_adjective": one.adjectives.good,
            "bad_adjective": one.adjectives.bad,
        }
        for one in features
    ]
    return templates.messages(CHOOSE, features=offered, count=count, **conversation.variables())


def choice_schema(features: Iterable[Principle], count: int) -> dict[str, Any]:
    """Return the JSON schema of a list of `count` names; the same for every order of features.

    No name comes twice: one list for each beginning (grammars of engines know no `uniqueItems`).
    Where there are more than `_MOST_LISTS` beginnings, shorter ones are told apart from what
    follows.
    """
    names = sorted(one.name for one in features)
    told = count - 1
    while told and math.perm(len(names), told) > _MOST_LISTS:
        told -= 1
    size = {"minItems": count, "maxItems": count}
    if not told:
        return {"type": "array", "items": {"type": "string", "enum": names}, **size}
    lists = []
    for start in itertools.permutations(names, told):
        rest = [name for name in names if name not in start]
        enums = [*([name] for name in start), *([rest] * (count - told))]
        items = [{"type": "string", "enum": enum} for enum in enums]
        lists.append({"type": "array", "prefixItems": items, **size})
    return {"anyOf": lists}


def pair_messages(
    conversation: Conversation, feature: Principle | None, templates: Templates
) -> tuple[Message, ...]:
    """Return the chat that asks for two principles of a feature, or (None) of any that fits.

    Raises ConfigError when the template fails.
    """
    return templates.messages(
        WRITE,
        feature=feature.name if feature else "",
        meaning=feature.meaning if feature else "",
        adjectives=feature.adjectives.model_dump() if feature else {},
        **conversation.variables(),
    )


@cache
def shown_examples(templates: Templates) -> Examples:
    """Return the examples that the question for two principles shows."""
    blank = Conversation(turns=(Message(role="user", content=""),), system="")
    return Examples([pair_messages(blank, None, templates)])
