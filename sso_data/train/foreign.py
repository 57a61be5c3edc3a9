"""Preference rows from elsewhere: TRL-style prompt, chosen and rejected, rendered to token ids."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sso_data.errors import InputError
from sso_data.records import JsonRow, Message, messages_from_json
from sso_data.views import ChatTemplate, Unrenderable, fold_system

Turns = tuple[Message, ...]


def preference_of(row: JsonRow, where: str) -> tuple[Turns, Turns, Turns]:
    """The turns of a row's prompt, chosen and rejected; KeyError names a missing column.

    The prompt is explicit (messages or text), or missing: then chosen and rejected are whole
    conversations, and the prompt is all they share before the last turn. Text is taken as one turn.
    """
    chosen = _turns(row["chosen"], "assistant", where)
    rejected = _turns(row["rejected"], "assistant", where)
    if row.get("prompt") is not None:
        return _turns(row["prompt"], "user", where), chosen, rejected
    shared = 0
    for one, other in zip(chosen[:-1], rejected[:-1], strict=False):
        if one != other:
            break
        shared += 1
    if not shared:
        raise InputError(f"{where}: has no prompt, and its conversations share no first turn")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def completion_ids(
    template: ChatTemplate, messages: Turns, said: Turns, eos_ids: frozenset[int]
) -> list[int]:
    """The ids that the turns `said` add to the prompt, up to and including their last EOS.

    What a template writes after that EOS (a newline, in ChatML) no engine samples: it is left off.
    Raises Unrenderable when the template alters the response.
    """
    before = _render(template, messages, generation=True)
    rest = _rest(_render(template, (*messages, *said), generation=False), before, said)
    prompt, together = _text_ids(template, before), _text_ids(template, before + rest)
    apart = together[: len(prompt)] == prompt  # else tokens merge over the border
    ids = together[len(prompt) :] if apart else _text_ids(template, rest)
    last = max((i for i, token in enumerate(ids) if token in eos_ids), default=len(ids) - 1)
    return ids[: last + 1]


def _rest(whole: str, before: str, said: Turns) -> str:
    """What the rendered conversation adds to the rendered prompt."""
    if whole.startswith(before):
        return whole[len(before) :]
    # for instance a generation prompt that closes a thinking block
    content = said[0].content.strip()
    _, found, tail = whole.rpartition(content)
    if not found or not content or len(said) > 1:
        raise Unrenderable("template_refused", "the chat template alters the response")
    return content + tail


def _turns(value: Any, role: str, where: str) -> Turns:
    if isinstance(value, str):
        return (Message(role=role, content=value),)
    try:
        turns = messages_from_json(list(value))
    except (TypeError, KeyError) as error:
        raise InputError(f"{where}: prompt, chosen, rejected must be text or messages") from error
    if not turns:
        raise InputError(f"{where}: prompt, chosen or rejected is empty")
    return turns


def _render(template: ChatTemplate, messages: Sequence[Message], *, generation: bool) -> str:
    """The conversation as text, with the template's own arguments and date."""
    facts = template.facts
    pinned: dict[str, Any] = dict(facts.template_kwargs)
    if facts.date is not None:
        pinned["strftime_now"] = datetime.fromisoformat(facts.date).strftime
    turns = tuple(messages)
    turns = fold_system(turns) if facts.system_role == "folded" else turns
    try:
        return str(
            template.tokenizer.apply_chat_template(
                [turn.to_json() for turn in turns],
                tokenize=False,
                add_generation_prompt=generation,
                **pinned,
            )
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise Unrenderable("template_refused", f"the chat template says: {reason}") from error


def _text_ids(template: ChatTemplate, text: str) -> list[int]:
    return list(template.tokenizer(text, add_special_tokens=False)["input_ids"])
