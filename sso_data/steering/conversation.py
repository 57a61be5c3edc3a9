"""A prompt as the choosing and writing templates see it: bounded, the request last."""

from dataclasses import dataclass

from sso_data.core.records import Message, Prompt

REQUEST_CHARS = 6000
TURN_CHARS = 600
SYSTEM_CHARS = 2000
EARLIER_TURNS = 6
CUT = " [...] "


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The last turns of a prompt, each of bounded length, and its system messages."""

    turns: tuple[Message, ...]
    system: str

    @property
    def request(self) -> str:
        """What is asked: the last turn."""
        return self.turns[-1].content

    def variables(self) -> dict[str, object]:
        """The template variables `conversation` and `system`."""
        return {
            "conversation": [turn.to_json() for turn in self.turns],
            "system": self.system,
        }


def conversation_of(prompt: Prompt) -> Conversation:
    """The conversation of an answerable prompt."""
    systems = [message.content for message in prompt.messages if message.role == "system"]
    turns = [message for message in prompt.messages if message.role != "system"]
    earlier = [
        Message(role=turn.role, content=shortened(turn.content, TURN_CHARS))
        for turn in turns[:-1][-EARLIER_TURNS:]
    ]
    last = Message(role=turns[-1].role, content=shortened(turns[-1].content, REQUEST_CHARS))
    return Conversation(
        turns=(*earlier, last), system=shortened("\n\n".join(systems).strip(), SYSTEM_CHARS)
    )


def shortened(text: str, most: int) -> str:
    """`text` with its middle left out where it has more than `most` characters."""
    if len(text) <= most:
        return text
    head = 2 * (most - len(CUT)) // 3
    return text[:head] + CUT + text[len(text) - (most - len(CUT) - head) :]
