"""Preference rows from elsewhere: TRL-style prompt, chosen and rejected, rendered to token ids."""

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile, zip_longest
from typing import Any

from sso_data.core.errors import InputError, one_line
from sso_data.core.records import JsonRow, Message, messages_from_json
from sso_data.templating.chat_template import ChatTemplate, Unrenderable, fold_system, is_encodable

_ROLE = re.compile(r"[A-Za-z][\w-]{0,31}", re.ASCII)
"""A role is a plain word: templates write it between control tokens."""

Turns = tuple[Message, ...]


def preference_of(row: JsonRow, where: str) -> tuple[Turns, Turns, Turns]:
    """The turns of a row's prompt, chosen and rejected; KeyError names a missing column.

    The prompt is explicit (messages or text), or missing, or stands once more at the start of
    chosen and rejected: these are then whole conversations, and the prompt is all they share before
    the last turn. Text is taken as one turn.
    """
    chosen = turns_of(row["chosen"], "assistant", where)
    rejected = turns_of(row["rejected"], "assistant", where)
    prompt = row.get("prompt")
    if prompt is None:
        shared = _shared(chosen, rejected)
        if not shared:
            raise InputError(f"{where}: has no prompt, and its conversations share no first turn")
    elif _begins_with(chosen, prompt, where) and _begins_with(rejected, prompt, where):
        shared = _shared(chosen, rejected)
    else:
        shared = 0
    messages = chosen[:shared] if shared else turns_of(prompt, "user", where)
    for name, said in (("chosen", chosen[shared:]), ("rejected", rejected[shared:])):
        if said[0].role != "assistant":
            raise InputError(
                f"{where}: {name} does not go on from the prompt with an assistant turn, but with "
                f"one of {said[0].role!r}; a whole conversation must begin with the row's prompt"
            )
    return messages, chosen[shared:], rejected[shared:]


def _shared(chosen: Turns, rejected: Turns) -> int:
    """How many first turns two conversations share, their last turns apart."""
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _begins_with(conversation: Turns, prompt: Any, where: str) -> bool:
    """Whether a conversation starts with the prompt; text is its first user turn."""
    if isinstance(prompt, str):
        asked = next((turn.content for turn in conversation[:-1] if turn.role == "user"), None)
        return asked == prompt
    turns = turns_of(prompt, "user", where)
    return len(conversation) > len(turns) and conversation[: len(turns)] == turns


def completion_ids(
    template: ChatTemplate, messages: Turns, said: Turns, eos_ids: frozenset[int]
) -> list[int]:
    """The ids that the turns `said` add to the prompt, up to and including their last EOS.

    What a template writes after that EOS (a newline, in ChatML) no engine samples: it is left off.
    A control token's text in a turn stays text, as in prompts.
    Raises Unrenderable when the template alters the response.
    """
    before = _render(template, messages, generation=True)
    rest = _rest(_render(template, (*messages, *said), generation=False), before, said)
    if not any(_forges(template, turn, eos_ids) for turn in said):
        prompt, together = _text_ids(template, before), _text_ids(template, before + rest)
        apart = together[: len(prompt)] == prompt  # else tokens merge over the border
        ids = together[len(prompt) :] if apart else _text_ids(template, rest)
        as_text = template.forges(rest, ids)
    else:
        ids, as_text = [], True
    if as_text:
        ids = _ids_as_text(template, messages, said, eos_ids, before, rest)
    last = max((i for i, token in enumerate(ids) if token in eos_ids), default=len(ids) - 1)
    return ids[: last + 1]


def _forges(template: ChatTemplate, turn: Message, eos_ids: frozenset[int]) -> bool:
    """Whether a turn holds the text of a control token that is not its own to write."""
    if not template.holds_control(turn.content):
        return False
    own = _writable(template, eos_ids) if turn.role == "assistant" else ()
    added = template.tokenizer.added_tokens_decoder.values()
    return any(str(token) in turn.content for token in added if str(token) not in own)


def _writable(template: ChatTemplate, eos_ids: frozenset[int]) -> list[str]:
    """Added tokens that a model writes inside its response: `<think>` and the like."""
    added = template.tokenizer.added_tokens_decoder.items()
    return [str(token) for index, token in added if not token.special and index not in eos_ids]


def _ids_as_text(
    template: ChatTemplate,
    messages: Turns,
    said: Turns,
    eos_ids: frozenset[int],
    before: str,
    rest: str,
) -> list[int]:
    """Ids of `rest`, which `said` adds to `before`.

    Its control tokens are the template's own and `_writable` ones.
    """
    marks = [f"Qz{8000 + index}zQ" for index in range(len(said))]
    marked = tuple(
        Message(role=turn.role, content=mark) for turn, mark in zip(said, marks, strict=True)
    )
    frame = _rest(_render(template, (*messages, *marked), generation=False), before, marked)
    literals = re.split("|".join(marks), frame)
    for contents in ([turn.content for turn in said], [turn.content.strip() for turn in said]):
        pairs = zip_longest(literals, contents, fillvalue="")
        if len(literals) == len(said) + 1 and rest == "".join(a + b for a, b in pairs):
            return template.segment_ids(*_pieces(template, literals, contents, said, eos_ids))
    raise Unrenderable(
        "control_tokens",
        "a response holds the text of a control token, and the template alters responses",
    )


def _pieces(
    template: ChatTemplate,
    literals: Sequence[str],
    contents: Sequence[str],
    said: Turns,
    eos_ids: frozenset[int],
) -> tuple[list[str], list[str]]:
    """Literals and contents, with the `_writable` tokens of assistants among the literals."""
    own = "|".join(re.escape(token) for token in _writable(template, eos_ids))
    all_literals = [literals[0]]
    all_contents: list[str] = []
    for turn, content, literal in zip(said, contents, literals[1:], strict=True):
        split = re.split(f"({own})", content) if own and turn.role == "assistant" else [content]
        all_contents += split[::2]
        all_literals += [*split[1::2], literal]
    return all_literals, all_contents


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


def turns_of(value: Any, role: str, where: str) -> Turns:
    """A column's turns, text being one turn of `role`; InputError when it is neither."""
    if isinstance(value, str):
        return (Message(role=role, content=value),)
    try:
        turns = messages_from_json([dict(turn) for turn in value])
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(
            f"{where}: prompt, chosen, rejected must be text or messages, and these have a role "
            "and content that are text"
        ) from error
    if not turns:
        raise InputError(f"{where}: prompt, chosen or rejected is empty")
    for turn in turns:
        if not _ROLE.fullmatch(turn.role):
            raise InputError(f"{where}: a turn has the role {one_line(turn.role, 80)!r}")
        if not is_encodable(turn.content):
            raise InputError(f"{where}: a turn holds half a character (lone surrogate)")
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
