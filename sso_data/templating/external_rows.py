"""Preference rows from elsewhere: TRL-style prompt, chosen and rejected, rendered to token ids."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from sso_data.core.errors import InputError, one_line
from sso_data.core.records import JsonRow, Message, messages_from_json
from sso_data.templating.chat_template import (
    ROLE,
    ChatTemplate,
    Unrenderable,
    around_own,
    interleaved,
    is_encodable,
    literals_around,
    marked,
)

Turns = tuple[Message, ...]
GENERATION_PROMPT = "generation_prompt"
"""The reason for which a response does not fit a prompt that ends as it does."""


def preference_of(row: JsonRow, where: str) -> tuple[Turns, Turns, Turns]:
    """The turns of a row's prompt, chosen and rejected; KeyError names a missing column.

    The prompt is explicit (messages or text), or missing, or repeated at the start of
    chosen and rejected: these are then whole conversations, and the prompt is all they share before
    the last turn. Text is taken as one turn. Raises InputError where the three do not fit together.
    """
    chosen = turns_of(row["chosen"], "assistant", where)
    rejected = turns_of(row["rejected"], "assistant", where)
    prompt = row.get("prompt")
    if prompt is None:
        shared = _shared(chosen, rejected)
        if not shared:
            raise InputError(
                f"{where}: has no prompt, and chosen and rejected have no common first turn"
            )
    elif _begins_with(chosen, prompt, where) and _begins_with(rejected, prompt, where):
        shared = _shared(chosen, rejected)
    else:
        shared = 0
    messages = chosen[:shared] if shared else turns_of(prompt, "user", where)
    for name, said in (("chosen", chosen[shared:]), ("rejected", rejected[shared:])):
        if said[0].role != "assistant":
            raise InputError(
                f"{where}: {name} must continue the prompt with an assistant turn (got "
                f"{said[0].role!r}), or begin with the row's prompt"
            )
    return messages, chosen[shared:], rejected[shared:]


def _shared(chosen: Turns, rejected: Turns) -> int:
    """The number of first turns that two conversations share, not counting their last turns."""
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _begins_with(conversation: Turns, prompt: Any, where: str) -> bool:
    """Return True if a conversation starts with the prompt; text is its first user turn."""
    if isinstance(prompt, str):
        asked = next((turn.content for turn in conversation[:-1] if turn.role == "user"), None)
        return asked is not None and asked.strip() == prompt.strip()
    turns = turns_of(prompt, "user", where)
    return len(conversation) > len(turns) and conversation[: len(turns)] == turns


def sequence_ids(
    template: ChatTemplate, messages: Turns, responses: Sequence[Turns], eos_ids: frozenset[int]
) -> tuple[list[int], list[list[int]]]:
    """The ids of a prompt and of its responses, under the generation prompt that all continue.

    That of `template`, or the one with thinking on where responses hold their reasoning. Raises
    Unrenderable when there is none, or as `completion_ids`.
    """
    failed: Unrenderable | None = None
    for one in template.generation_prompts:
        try:
            said = [completion_ids(one, messages, turns, eos_ids) for turns in responses]
        except Unrenderable as error:
            if error.reason != GENERATION_PROMPT:
                raise
            failed = failed or error
        else:
            return one.ids(messages), said
    assert failed is not None
    raise failed


def completion_ids(
    template: ChatTemplate, messages: Turns, said: Turns, eos_ids: frozenset[int]
) -> list[int]:
    """The ids that the turns `said` add to the prompt, up to and including their last EOS.

    What a template writes after that EOS (a newline, in ChatML) no engine samples: it is left off.
    A control token's text in a turn stays text, as in prompts.
    Raises Unrenderable when the template alters the response.
    """
    before = template.render(template.folded(messages))
    rest = _rest(template, messages, said, before)
    own = [text for text, index in template.of_responses.items() if index not in eos_ids]
    if any(template.holds_others(turn, own) for turn in said):
        ids = _ids_as_text(template, messages, said, own, before, rest)
    else:
        prompt, together = template.plain_ids(before), template.plain_ids(before + rest)
        apart = together[: len(prompt)] == prompt  # else tokens merge over the border
        ids = together[len(prompt) :] if apart else template.plain_ids(rest)
        if template.forges(rest, ids):
            ids = _ids_as_text(template, messages, said, own, before, rest)
    last = max((i for i, token in enumerate(ids) if token in eos_ids), default=len(ids) - 1)
    return ids[: last + 1]


def _ids_as_text(
    template: ChatTemplate,
    messages: Turns,
    said: Turns,
    own: Sequence[str],
    before: str,
    rest: str,
) -> list[int]:
    """Ids of `rest`, which `said` adds to `before`.

    Its control tokens are the template's, and those of `own` that assistants wrote.
    """
    marks = marked([turn.role for turn in said])
    literals = literals_around(_rest(template, messages, marks, before), len(said))
    for contents in ([turn.content for turn in said], [turn.content.strip() for turn in said]):
        if literals is None or interleaved(literals, contents) != rest:
            continue
        return template.segment_ids(*around_own(literals, said, contents, own))
    raise Unrenderable(
        "control_tokens",
        "a response holds the text of a control token, and the template alters responses",
    )


def _rest(template: ChatTemplate, messages: Turns, said: Turns, before: str) -> str:
    """The text that the turns `said` add to `before`, the rendered prompt.

    Raises Unrenderable where the whole does not go on from it: where the generation prompt opens or
    closes a thinking block, or the template drops reasoning. Pasted, both would be what no template
    renders and no model sees.
    """
    whole = template.render(template.folded((*messages, *said)), generation=False)
    if whole.startswith(before):
        return whole[len(before) :]
    end = before[-40:] if len(before) > 40 else before
    raise Unrenderable(
        GENERATION_PROMPT,
        f"the chat template's rendering of the response does not continue its prompt, which ends "
        f"with {end!r}; choose another generation prompt with views.template_kwargs, or give "
        "responses in the form that the template renders",
    )


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
        if not ROLE.fullmatch(turn.role):
            raise InputError(f"{where}: a turn has the role {one_line(turn.role, 80)!r}")
        if not is_encodable(turn.content):
            raise InputError(f"{where}: a turn holds invalid Unicode (lone surrogate)")
    return turns
