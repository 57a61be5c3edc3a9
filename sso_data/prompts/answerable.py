"""Whether chat messages are a prompt: something that a model can answer."""

from sso_data.core.records import Message


def unanswerable(messages: tuple[Message, ...]) -> tuple[str, str] | None:
    """Why these messages are no prompt (reason, detail), or None."""
    turns = [message for message in messages if message.role != "system"]
    if not turns or all(not turn.content.strip() for turn in turns if turn.role == "user"):
        return "blank_prompt", "no user turn says anything"
    if turns[-1].role != "user":
        return "ends_with_assistant", "the last turn is not the user's; there is nothing to answer"
    if not turns[-1].content.strip():
        return "blank_prompt", "the last user turn is blank"
    return None
