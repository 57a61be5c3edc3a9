"""Chat messages, ids and metadata: what is a bad row, and what is for the pipeline to fail."""

from pathlib import Path

import pytest

from sso_data.config.run import SourceConfig
from sso_data.prompts import BadRow, count_prompts
from tests.prompts.reading import HINT, bad_row, good, read, refusal, write_jsonl

USER = {"role": "user", "content": "a"}

BAD_PROMPTS: dict[str, tuple[object, str]] = {
    "number": (3, "'prompt' is a number, not a text or a list of chat messages"),
    "null": (None, "'prompt' is null, not a text or a list of chat messages"),
    "object": (USER, "'prompt' is an object, not a text or a list of chat messages"),
    "texts": (["a", USER], "message 1 is text, not an object with role and content"),
    "role": ([{"content": "a"}], "message 1 has no 'role' (its keys: content)"),
    "content": ([{"role": "user"}], "message 1 has no 'content' (its keys: role)"),
    "from": ([{"from": "human", "text": "a"}], "message 1 has no 'value' (its keys: from, text)"),
    "tool": (
        [USER, {"role": "tool", "content": "a"}],
        "message 2 has the role tool; roles are system, user, assistant",
    ),
    "role type": (
        [{"role": ["user"], "content": "a"}],
        "message 1 has the role ['user']; roles are system, user, assistant",
    ),
    "parts": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}],
        "message 1 has a part of type image_url; only text is supported",
    ),
    "null content": (
        [{"role": "user", "content": None}],
        "message 1 has content that is null; only text is supported",
    ),
    "late system": (
        [USER, {"role": "system", "content": "a"}],
        "message 2 is a system message; only the first message may be one",
    ),
    "calls": (
        [USER | {"tool_calls": [{"id": "1"}]}],
        "message 1 has the key 'tool_calls', which is not supported; keep role and content only",
    ),
    "surrogate": (
        [{"role": "user", "content": "\udfff"}],
        "message 1 holds invalid Unicode (lone surrogate '\\udfff')",
    ),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_a_prompt_that_is_none(tmp_path: Path, case: str) -> None:
    prompt, detail = BAD_PROMPTS[case]
    file = write_jsonl(tmp_path / "p.jsonl", [{"prompt": prompt}])
    assert refusal(file) == f"p.jsonl:1: {detail}{HINT}"
    assert bad_row(file).detail == detail


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " \n",
        [],
        [{"role": "system", "content": "a"}],
        [{"role": "user", "content": ""}],
        [USER, {"role": "assistant", "content": "b"}],
        [{"role": "assistant", "content": "b"}, USER],
        [USER, USER],
    ],
    ids=repr,
)
def test_a_prompt_that_cannot_be_answered_is_not_a_bad_row(tmp_path: Path, prompt: object) -> None:
    [row] = good(write_jsonl(tmp_path / "p.jsonl", [{"prompt": prompt}]))
    turns = [message.to_json() for message in row.messages]
    assert turns == ([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)


def test_other_keys_of_a_turn_are_left_out(tmp_path: Path) -> None:
    turn = USER | {"tool_calls": None, "name": "", "language": "English"}
    [row] = good(write_jsonl(tmp_path / "p.jsonl", [{"prompt": [turn]}]))
    assert [message.to_json() for message in row.messages] == [USER]


@pytest.mark.parametrize(
    ("value", "source_id"),
    [("x", "x"), (7, "7"), (1.5, "1.5"), (0, "0"), (None, None), ("", None), ("ä 1", "ä 1")],
)
def test_ids_become_texts(tmp_path: Path, value: object, source_id: str | None) -> None:
    file = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "key": value, "id": 3}])
    [row] = good(file, id_column="key")
    assert row.source_id == source_id
    assert row.metadata == '{"id":3}'


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (True, "'id' is true or false; an id is a text or a number"),
        ([1], "'id' is a list; an id is a text or a number"),
        ({}, "'id' is an object; an id is a text or a number"),
        ("\ud800", "'id' holds invalid Unicode (lone surrogate '\\ud800')"),
        (2**64, "'id' holds an integer of more than 64 bits; make it a text"),
    ],
)
def test_ids_that_are_none(tmp_path: Path, value: object, detail: str) -> None:
    assert (
        bad_row(write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "id": value}])).detail == detail
    )


@pytest.mark.parametrize("columns", [{"m": "\ud800"}, {"m": {"\ud800": 1}}, {"\ud800": 1}])
def test_half_a_character_beside_the_prompt(tmp_path: Path, columns: dict[str, object]) -> None:
    bad = bad_row(write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a"} | columns]))
    assert bad.detail == ("a metadata column holds invalid Unicode (lone surrogate '\\ud800')")
    bad.raw.encode()


def test_the_prompt_column_may_be_the_id_column(tmp_path: Path) -> None:
    [row] = good(write_jsonl(tmp_path / "p.jsonl", [{"id": "a"}]), column="id")
    assert (row.messages[0].content, row.source_id, row.metadata) == ("a", None, "{}")


def test_a_limit_counts_bad_rows_too(tmp_path: Path) -> None:
    rows: list[object] = [{"prompt": "a"}, {"prompt": 1}, {"prompt": "b"}, {"prompt": "c"}]
    file = write_jsonl(tmp_path / "p.jsonl", rows)
    first, bad, third = read(file, limit=3, skip_bad_rows=True)
    assert isinstance(bad, BadRow)
    assert [first.where, third.where] == [f"{file}:1", f"{file}:3"]


def test_what_lies_behind_the_limit_is_not_read(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": 1}])
    assert len(good(file, limit=1)) == 1


def test_count_is_what_is_read_and_validates(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": 1}, {"prompt": "a"}])
    assert count_prompts(str(file), SourceConfig(skip_bad_rows=True)) == 3
    with pytest.raises(Exception, match=r"p.jsonl:2: 'prompt' is a number"):
        count_prompts(str(file), SourceConfig())


def test_only_bad_rows_are_still_rows(tmp_path: Path) -> None:
    assert len(read(write_jsonl(tmp_path / "p.jsonl", [3]), skip_bad_rows=True)) == 1
