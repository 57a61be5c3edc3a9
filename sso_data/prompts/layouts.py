"""Layouts: the ways in which people write down prompts and pairs, in one table, and their reading.

A row is read by the first layout of the table that it fills; other rows do not matter.
"""

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError, one_line
from sso_data.core.records import Message
from sso_data.prompts.rows import (
    BadRow,
    Candidate,
    RawRow,
    RowError,
    check_columns,
    encodable,
    excerpt,
    kind_of,
    listed,
    metadata_json,
    plain,
)

Fields = Mapping[str, Any]
ROLES = ("system", "user", "assistant")
SYSTEM_COLUMNS = ("system", "system_prompt")
PAIR = ("chosen", "rejected")
_ROLE_NAMES = {
    **{name: name for name in ROLES},
    **{"developer": "system", "human": "user", "prompter": "user", "gpt": "assistant"},
    **dict.fromkeys(("chatgpt", "bing", "bard", "model", "bot", "ai"), "assistant"),
}
"""Roles under their names in ShareGPT, OpenAI, Open Assistant and Gemma files."""
_KEYS_THAT_SAY_MORE = frozenset(
    (
        *("audio", "function_call", "image", "images", "name", "reasoning_content", "thinking"),
        *("tool_call_id", "tool_calls", "tools"),
    )
)
"""Keys of a chat turn that a template may show the model; a turn would lose them silently."""
_NOT_SHOWN = ("tools", "functions", "image", "images", "videos", "audios")
"""Columns that belong to a prompt, and that no text can hold."""
_COLUMN_ALONE = "remove it, or read the prompt's column alone (source.column, source.format=column)"
_NOTHING: tuple[Any, ...] = (None, "", "[]", "{}", "null", [], {})
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \n]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way to write a prompt down.

    columns: the first one that a row fills holds the prompt. also: columns that are read with it,
    needs: that must be filled as well. read: the turns in such a column, not checked yet.
    answered: whole conversations, which are cut after their last user turn. real_people: the layout
    of data sets of people's own chats.
    """

    name: str
    columns: tuple[str, ...]
    also: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    read: Callable[[Fields, str], list[Any]]
    answered: bool = False
    real_people: bool = False


def _turns(fields: Fields, column: str) -> list[Any]:
    """Text is one user turn; a list of messages, also as JSON text in a table's cell, is itself."""
    value = fields[column]
    if isinstance(value, str):
        text = encodable(value, repr(column))
        asked = _dialogue(text) if text.rstrip().endswith("\n\nAssistant:") else []
        if asked and not asked[-1]["content"].strip():
            return asked[:-1]
        return _messages_in(text) or [{"role": "user", "content": text}]
    if not isinstance(value, list):
        raise RowError(f"{column!r} is {kind_of(value)}, not a text or a list of chat messages")
    return value


def _instruction(fields: Fields, column: str) -> list[Any]:
    """Alpaca, Dolly: turns in `history`, the instruction, `input` or `context` on the next line."""
    turns = []
    for pair in fields.get("history") or []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError("'history' must be a list of [question, answer]")
        roles = zip(("user", "assistant"), pair, strict=True)
        turns += [{"role": role, "content": text} for role, text in roles]
    asked = fields[column]
    for name in ("input", "context"):
        if (extra := fields.get(name)) not in _NOTHING:
            if not (isinstance(extra, str) and isinstance(asked, str)):
                raise RowError(f"{name!r} is {kind_of(extra)}; only text can be joined to a text")
            asked = f"{asked}\n{extra}"
    return [*turns, *_turns({column: asked}, column)]


def _shared_start(fields: Fields, column: str) -> list[Any]:
    """The turns that chosen and rejected share before their last ones."""
    both = [_said(fields[name], name) for name in PAIR]
    pairs = zip(both[0][:-1], both[1][:-1], strict=False)
    shared = [turn for turn, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    if not shared:
        raise RowError("has no prompt, and chosen and rejected have no common first turn")
    return shared


LAYOUTS = (
    Layout(name="prompt", columns=("prompt",), read=_turns),
    Layout(name="messages", columns=("messages",), read=_turns, answered=True),
    Layout(
        name="conversation",
        columns=("conversation",),
        read=_turns,
        answered=True,
        real_people=True,
    ),
    Layout(name="sharegpt", columns=("conversations",), read=_turns, answered=True),
    Layout(
        name="alpaca",
        columns=("instruction",),
        also=("input", "context", "history"),
        read=_instruction,
    ),
    Layout(name="question", columns=("question", "query", "input"), read=_turns),
    Layout(name="turns", columns=("turns",), read=_turns),
    Layout(name="pairs", columns=("chosen",), needs=("rejected",), read=_shared_start),
)
"""Every layout, in the order in which a row is tried; `docs/sources.md` has the same table."""
_COLUMN = Layout(name="column", columns=(), read=_turns)
"""The prompt's column alone; system messages and history beside it are metadata."""


def layout_of(fields: Fields, config: SourceConfig) -> tuple[Layout, str]:
    """The layout of a row, and its column that holds the prompt; RowError where it has none."""
    columns = prompt_columns(config)
    for layout, column in columns:
        if all(fields.get(name) not in (None, "", []) for name in (column, *layout.needs)):
            return layout, column
    for layout, column in columns:
        if {column, *layout.needs} <= fields.keys():  # a null or blank prompt
            return layout, column
    raise RowError(missing_column(config, fields))


def prompt_columns(config: SourceConfig) -> list[tuple[Layout, str]]:
    """The columns that may hold the prompt under these settings, each with its layout."""
    named = config.column != SourceConfig.model_fields["column"].default
    if config.format == "column":
        return [(_COLUMN, config.column)]
    known = [one for one in LAYOUTS if config.format in (one.name, "auto")]
    if named:
        return [(known[0], config.column)]
    return [(layout, column) for layout in known for column in layout.columns]


def missing_column(config: SourceConfig, names: Iterable[str]) -> str:
    """The message for rows without a prompt; it lists the columns that they have."""
    return f"no column {prompt_columns(config)[0][1]!r} (columns: {listed(names)})"


def check_header(where: str, names: Iterable[str], config: SourceConfig) -> None:
    """Raise InputError for a table with a duplicate column, or without any prompt column."""
    columns = list(names)
    check_columns(where, columns)
    if any(column in columns for _, column in prompt_columns(config)):
        return
    if len(columns) == 1 and (mark := next((one for one in ";\t|" if one in columns[0]), "")):
        raise InputError(
            f"{where}: its columns are separated by {mark!r}; save it with commas, or with tabs as "
            ".tsv"
        )
    if config.column:
        detail = missing_column(config, columns)
        raise InputError(one_line(f"{where}: {detail}; name the prompts' column with --column"))


def candidates_of(raw: RawRow, config: SourceConfig) -> list[Candidate | BadRow]:
    """The prompts that a row holds (several with `take: every-user`), or the bad row that it is."""
    fields, id_column = raw.fields, config.id_column
    try:
        layout, column = layout_of(fields, config)
        turns = layout.read(fields, column)
        parts = _asked(turns, config.take, answered=layout.answered)
        if layout is not _COLUMN:
            parts = [_with_system(fields, part, _COLUMN_ALONE) for part in parts]
        asked = [checked(part) for part in parts]
        source_id = plain(fields.get(id_column), id_column) if id_column != column else None
        if isinstance(source_id, bool | list | dict):
            raise RowError(f"{id_column!r} is {kind_of(source_id)}; an id is a text or a number")
        if source_id is not None:
            source_id = encodable(str(source_id), f"{id_column!r}") or None
        used = used_columns(layout, column, fields) | {id_column}
        metadata = metadata_json({name: fields[name] for name in fields if name not in used})
    except RowError as error:
        detail = one_line(str(error))
        return [BadRow(where=raw.where, raw=excerpt(dict(fields)), detail=detail)]
    return [
        Candidate(messages=one, source_id=source_id, metadata=metadata, where=raw.where)
        for one in asked
    ]


def used_columns(layout: Layout, column: str, fields: Fields) -> set[str]:
    """The columns of which a row's prompt is made; the others are metadata."""
    said = () if layout is _COLUMN else SYSTEM_COLUMNS
    system = (name for name in said if isinstance(fields.get(name), str) and fields[name].strip())
    return {column, *layout.also, *system}


def pair_of(fields: Fields) -> dict[str, Any]:
    """The columns prompt, chosen and rejected of a preference row that must be read otherwise.

    They become messages; a column that is text or plain messages is left as it is. Raises RowError
    for what no template could show, and for a response without text.
    """
    said = {name: _said(fields[name], name) for name in PAIR}
    for name, turns in said.items():
        if not turns or not _named(turns, name)[-1].content.strip():
            raise RowError(f"{name} holds no text")
    is_whole = _are_whole(said)
    rest = {name: value for name, value in fields.items() if name not in PAIR}
    beside = prompt_beside(fields)
    prompt = []
    if beside:
        layout, column = beside
        prompt = _asked(layout.read(rest, column), None, answered=layout.answered)[0]
    if is_whole or not prompt:
        said = {name: _with_system(rest, turns) for name, turns in said.items()}
    if not (is_whole and isinstance(rest.get("prompt"), str)):
        prompt = _with_system(rest, prompt) if prompt else []
    found = {"prompt": prompt, **said} if prompt else said
    messages = {name: _named(turns, name) for name, turns in found.items()}
    return {
        name: [turn.to_json() for turn in turns]
        for name, turns in messages.items()
        if not _is_plain(fields.get(name), found[name])
    }


def prompt_beside(fields: Fields) -> tuple[Layout, str] | None:
    """The layout and the column of the prompt beside a pair; None: it is what both begin with.

    RowError for a response that no template could show.
    """
    rest = {name: value for name, value in fields.items() if name not in PAIR}
    try:
        layout, column = layout_of(rest, SourceConfig())
    except RowError:
        return None
    whole = _are_whole({name: _said(fields[name], name) for name in PAIR})
    return None if whole and layout.name != "prompt" else (layout, column)


def _are_whole(said: Mapping[str, list[Any]]) -> bool:
    """Whether both responses are conversations that begin with the prompt."""
    return all(len(turns) > 1 and role_of(turns[0]) != "assistant" for turns in said.values())


def _is_plain(value: Any, turns: list[Any]) -> bool:
    """Return True if a column says all of `turns` already: as text, or in role and content."""
    if isinstance(value, str):
        return len(turns) == 1 and turns[0].get("content") == value
    fits = isinstance(value, list) and len(value) == len(turns)
    return fits and all(
        isinstance(turn, dict)
        and isinstance(turn.get("content"), str)
        and turn.get("role") in ROLES
        for turn in value
    )


def _named(turns: list[Any], column: str) -> tuple[Message, ...]:
    """The checked turns; a RowError names the column."""
    try:
        return checked(turns)
    except RowError as error:
        raise RowError(f"{column}: {error}") from error


def _said(value: Any, name: str) -> list[Any]:
    """The turns of a chosen or rejected column: text, one message, messages, or HH's dialogue."""
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, str):
        return _turns({name: value}, name)
    return _dialogue(value) or _messages_in(value) or [{"role": "assistant", "content": value}]


def _dialogue(text: str) -> list[dict[str, str]]:
    """HH's turns, "Human: ..." and "Assistant: ..." after blank lines; none in other text."""
    pieces = _HH_TURN.split(text)
    if len(pieces) <= 3 or pieces[0].strip():
        return []
    roles = {"Human": "user", "Assistant": "assistant"}
    spoken = zip(pieces[1::2], pieces[2::2], strict=True)
    return [{"role": roles[who], "content": text} for who, text in spoken]


def _with_system(fields: Fields, turns: list[Any], remedy: str = "remove it") -> list[Any]:
    """The turns after the system message of a column beside them.

    RowError for a column that belongs to the prompt and cannot be shown.
    """
    lost = next((name for name in _NOT_SHOWN if fields.get(name) not in _NOTHING), None)
    if lost is not None:
        raise RowError(
            f"column {lost!r} belongs to the prompt, and only text can be shown; {remedy}"
        )
    for name in SYSTEM_COLUMNS:
        system = fields.get(name)
        if isinstance(system, str) and system.strip():
            first = turns[0] if turns and isinstance(turns[0], dict) else {}
            if role_of(first) != "system":
                return [{"role": "system", "content": system}, *turns]
            if system.strip() != str(first.get("content", first.get("value"))).strip():
                raise RowError(f"has a column {name!r} and another system message in its turns")
    return turns


def _asked(turns: list[Any], take: str | None, *, answered: bool) -> list[list[Any]]:
    """What of a conversation is asked, as `source.take` says; a list of texts has no answers."""
    if turns and all(isinstance(turn, str) for turn in turns):
        alone = [[{"role": "user", "content": text}] for text in turns]
        return {"every-user": alone, "last-user": alone[-1:]}.get(take or "", alone[:1])
    users = [place for place, turn in enumerate(turns) if role_of(turn) == "user"]
    take = take or ("last-user" if answered else None)
    if take is None or not users:
        return [turns]
    ends = {"last-user": users[-1:], "first-user": users[:1], "every-user": users}[take]
    return [turns[: end + 1] for end in ends]


def role_of(turn: Any) -> str | None:
    """The role of a turn that is not checked yet, by its name here; None where it has none."""
    name = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
    return _ROLE_NAMES.get(name) if isinstance(name, str) else None


def checked(turns: list[Any]) -> tuple[Message, ...]:
    """The turns as messages; RowError names the first one that is none, or would lose a part."""
    return tuple(_message(turn, place) for place, turn in enumerate(turns, start=1))


def _message(turn: Any, place: int) -> Message:
    name = f"message {place}"
    if not isinstance(turn, dict):
        raise RowError(f"{name} is {kind_of(turn)}, not an object with role and content")
    from_value = "from" in turn and "role" not in turn
    keys = ("from", "value") if from_value else ("role", "content")
    for key in keys:
        if key not in turn:
            raise RowError(f"{name} has no {key!r} (its keys: {listed(turn)})")
    if (role := role_of(turn)) is None:
        shown = excerpt(turn[keys[0]])
        raise RowError(f"{name} has the role {shown}; roles are {', '.join(ROLES)}")
    if role == "system" and place > 1:
        raise RowError(f"{name} is a system message; only the first message may be one")
    lost = sorted(key for key in _KEYS_THAT_SAY_MORE & turn.keys() if turn[key])
    if lost:
        raise RowError(
            f"{name} has the key {lost[0]!r}, which is not supported; keep role and content only"
        )
    content = _text_of(turn[keys[1]], name)
    return Message(role=role, content=encodable(content, name))


def _text_of(content: Any, name: str) -> str:
    """A content's text: itself, or its text parts, which templates write without a space."""
    if isinstance(content, list) and content:
        for part in content:
            kind = part.get("type", "text") if isinstance(part, dict) else "text"
            if kind not in ("text", "input_text", "output_text"):
                raise RowError(f"{name} has a part of type {excerpt(kind)}; only text is supported")
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [text for text in parts if isinstance(text, str)]
        if len(texts) == len(parts):
            return "".join(texts)
    if not isinstance(content, str):
        raise RowError(f"{name} has content that is {kind_of(content)}; only text is supported")
    return content


def _messages_in(text: str) -> list[Any] | None:
    """The messages that a text is, as JSON or as Python prints them; None for other text."""
    start = text.lstrip()[:2].replace("[ ", "[{")
    if start != "[{" or not text.rstrip().endswith("}]"):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(
            isinstance(turn, dict) and {"role", "from"} & turn.keys() for turn in found
        ):
            return found
    return None
