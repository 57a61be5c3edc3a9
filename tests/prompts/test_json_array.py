"""JSON arrays: the same rows as JSONL, and files that stop making sense half-way."""

import json
from pathlib import Path

import pytest

from sso_data.prompts import jsonarray
from tests.prompts.reading import (
    HINT,
    bad_row,
    contents,
    good,
    read,
    refusal,
    write,
    write_jsonl,
)


@pytest.mark.parametrize("name", ["p.json", "p.json.gz"])
def test_rows_equal_those_of_the_same_jsonl(tmp_path: Path, name: str) -> None:
    rows: list[object] = [
        {"prompt": "ä😀", "id": "x", "m": {"b": 1.25e-3, "a": [1, True, None]}},
        {"prompt": [{"role": "user", "content": "a"}], "m": 0.1},
    ]
    array = write(tmp_path / name, b"\xef\xbb\xbf \n" + json.dumps(rows, indent=1).encode())
    lines = write_jsonl(tmp_path / "p.jsonl", rows)
    assert [(row.messages, row.source_id, row.metadata) for row in good(array)] == [
        (row.messages, row.source_id, row.metadata) for row in good(lines)
    ]
    assert [row.where for row in good(array)] == [f"{array}:3", f"{array}:15"]


def test_a_bad_element(tmp_path: Path) -> None:
    file = write(tmp_path / "p.json", '[{"prompt": "a"},\n\n{"prompt": 3}, 4.5]')
    detail = "'prompt' is a number, not a text or a list of chat messages"
    assert refusal(file) == f"p.json:3: {detail}{HINT}"
    file = write(tmp_path / "p.json", '[{"prompt": "a"}, null, {"prompt": "b"}]')
    assert bad_row(file).detail == "null, not an object with named columns"


def test_half_a_character_is_not_replaced(tmp_path: Path) -> None:
    file = write(tmp_path / "p.json", '[{"prompt": "a\\ud800b"}]')
    assert bad_row(file).detail == "'prompt' holds invalid Unicode (lone surrogate '\\ud800')"


BROKEN: dict[str, tuple[bytes | str, str]] = {
    "cut": ('[{"prompt": "a"}', "p.json:1: not valid JSON (expecting ']'); correct it"),
    "cut text": ('[{"prompt": "a', "p.json:1: not valid JSON (Unterminated string starting at)"),
    "comma": ('[{"prompt": "a"},\n]', "p.json:2: not valid JSON (Expecting value); correct it"),
    "no comma": ('[{"prompt": "a"}\n{}]', "p.json:2: not valid JSON (expecting ']'); correct it"),
    "within": ('[{"prompt": "a",\n x}]', "p.json:2: not valid JSON (Expecting property name"),
    "more": ('[{"prompt": "a"}]\n[1]', "p.json:2: not valid JSON (extra text after the end"),
    "nan": ('[{"prompt": NaN}]', "p.json:1: not valid JSON (NaN is not a number in JSON)"),
    "bytes": (b'[{"prompt": "a"},\n{"prompt": "\xff"}]', "p.json:2: not UTF-8 (byte 0xff); save"),
    "deep": ("[" * 100_000 + "]" * 100_000, "p.json:1: not valid JSON (nested too deeply)"),
    "digits": ("[" + "9" * 5000 + "]", "p.json:1: not valid JSON (Exceeds the limit (4300 dig"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_array_always_stops(tmp_path: Path, case: str) -> None:
    content, line = BROKEN[case]
    file = write(tmp_path / "p.json", content)
    assert refusal(file, skip_bad_rows=True).startswith(line)


def test_an_early_mistake_does_not_read_the_rest(tmp_path: Path) -> None:
    rest = b'{"prompt": "a"},\n' * 200_000 + b"\xff"
    file = write(tmp_path / "p.json", b'[{"prompt": "a"},\n{"prompt" "b"},' + rest)
    assert refusal(file) == "p.json:2: not valid JSON (Expecting ':' delimiter); correct it"


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_the_same_rows_however_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    rows = [{"prompt": "ä😀\u2028\ud83d", "m": [-1.5e-7, True, None, {}, -12]}, 3, "x", [], False]
    for text in (json.dumps(rows), json.dumps(rows[1:], ensure_ascii=False, indent=1)):
        file = write(tmp_path / "p.json", text)
        whole = read(file, skip_bad_rows=True)
        with monkeypatch.context() as patch:
            patch.setattr(jsonarray, "_CHUNK_BYTES", chunk)
            assert read(file, skip_bad_rows=True) == whole


def test_an_item_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonarray, "MAX_ITEM_CHARS", 2**20)
    file = write(tmp_path / "p.json", b'[{"prompt": "' + b"a" * 2**22)
    assert refusal(file).startswith("p.json:1: not valid JSON (an item is longer than 1 Mi char")


def test_lines_are_sent_to_the_other_suffix(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "p.json", [{"prompt": "a"}, {"prompt": "b"}])
    assert refusal(file) == (
        "p.json: a .json file must hold an array of rows; if it is one object a line, rename it to "
        "end in .jsonl"
    )


def test_another_value(tmp_path: Path) -> None:
    file = write(tmp_path / "p.json", "3")
    assert refusal(file) == "p.json: a .json file must hold an array of rows"


@pytest.mark.parametrize("content", ["[]", " \n"])
def test_nothing_in_it(tmp_path: Path, content: str) -> None:
    assert refusal(write(tmp_path / "p.json", content)) == "p.json: holds no prompts"


def test_order_and_duplicates(tmp_path: Path) -> None:
    file = write(tmp_path / "p.json", '[{"prompt": "b"}, {"prompt": "a"}, {"prompt": "b"}]')
    assert contents(file) == ["b", "a", "b"]
