"""Run directories for tests: rows of any kind, journal, pairs and run.json, without a model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sso_data.config.run import RunConfig, load_config
from sso_data.core.records import Message, Row, content_hash, row_id
from sso_data.filtering.refilter import refilter
from tests.factories import STRICT, make_row, write_part

TEMPLATE: dict[str, Any] = {
    "system_role": "native",
    "default_system": None,
    "bos": "template",
    "control_tokens": "text",
    "date": None,
    "template_kwargs": {},
    "opens_thinking": False,
}


def chat(*turns: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message(role=role, content=content) for role, content in turns)


def asking(index: int, *turns: tuple[str, str], **overrides: Any) -> Row:
    """Row number `index` with another prompt."""
    messages = chat(*turns)
    identity = row_id(content_hash(messages), overrides.pop("occurrence", 0))
    fields = {"messages": messages, "id": identity, "template_kwargs": "{}", "metadata": "{}"}
    return make_row(index, **(fields | overrides))


def every_kind() -> list[Row]:
    """One row of each kind of prompt and response that a format may stumble over."""
    return [
        asking(0, ("user", "What is a kite?")),
        asking(1, ("system", "You are a pirate."), ("user", "Where is the gold?")),
        asking(
            2, ("user", "Hi"), ("assistant", "Hello!"), ("user", "Who are you?"), source_id="81"
        ),
        asking(3, ("user", "One"), ("user", "Two"), ("user", "Three")),
        asking(
            4,
            ("user", '日本語で🦆 \u2028 \x85 \ttab "quoted" {{ braces }} <|im_end|> \\n é'),
            texts={"good": "Größe: 🦆\u2028", "bad": "\n\tnо", "plain": "ok \x00 \x7f"},
        ),
        asking(5, ("user", "Long"), texts={"good": "word " * 2000, "bad": "a", "plain": "b"}),
        asking(6, ("user", "Meta"), metadata='{"dataset":"helpful_base","question_id":101}'),
        asking(7, ("user", "No id"), source_id=None),
    ]


def make_run(
    folder: Path,
    rows: Sequence[Row],
    *,
    model: str = "test/model",
    template: dict[str, Any] | None = None,
    manifest: dict[str, Any] | None = None,
    settings: Sequence[str] = (),
    kept: bool = True,
    strictly: bool = True,
) -> Path:
    """A finished run with these rows, filtered (where `kept`) strictly, or by the default."""
    config = load_config(
        None, list(settings), base={"filter": STRICT if strictly else {}}, model=model
    )
    content = {
        "schema_version": 1,
        "sso_data": "0.1.0",
        "created": "2026-03-01T12:00:00+00:00",
        "identity": {"model": "0123456789abcdef", "principles": "aaaabbbbccccdddd"},
        "config": config.model_dump(mode="json"),
        "date": "2026-03-01",
        "template": TEMPLATE | (template or {}),
        "prompts": len(rows),
        "sources": ["/home/somebody/secret/prompts.jsonl"],
        "engine": {"name": "vllm", "version": "0.32.0", "device": "cuda", "dtype": "bfloat16"},
        **(manifest or {}),
    }
    write_part(folder, list(rows))
    (folder / "run.json").write_text(json.dumps(content))
    if kept:
        refilter(folder, RunConfig.model_validate(config.model_dump()))
    return folder


def lines_of(file: Path) -> list[Any]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in file.read_bytes().splitlines()]
