"""JSONL: what is read, and the exact line for every way in which a row or a file is wrong."""

from pathlib import Path

import pytest

from sso_data.core.records import Message
from sso_data.prompts import BadRow, Candidate, textfiles
from tests.prompts.reading import (
    COLUMN_HINT,
    HINT,
    bad_row,
    contents,
    good,
    read,
    refusal,
    write,
    write_jsonl,
)


def test_a_text_and_a_chat_with_id_and_metadata(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    file = write_jsonl(
        tmp_path / "p.jsonl",
        [{"prompt": "Grüß dich 😀", "id": 7, "b": [1, None], "a": {"ü": 1.5}}, {"prompt": chat}],
    )
    assert good(file) == [
        Candidate(
            messages=(Message(role="user", content="Grüß dich 😀"),),
            source_id="7",
            metadata='{"a":{"ü":1.5},"b":[1,null]}',
            where=f"{file}:1",
        ),
        Candidate(
            messages=tuple(Message(**turn) for turn in chat),
            source_id=None,
            metadata="{}",
            where=f"{file}:2",
        ),
    ]


def test_blank_lines_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n   \n{"prompt": "b"}'
    rows = good(write(tmp_path / "p.jsonl", data))
    assert [row.where.rpartition(":")[2] for row in rows] == ["1", "4"]
    assert [row.messages[0].content for row in rows] == ["a", "b"]


@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.ndjson", "P.JSONL"])
def test_other_names(tmp_path: Path, name: str) -> None:
    assert contents(write(tmp_path / name, '{"prompt": "a"}\n')) == ["a"]


def test_duplicates_stay_in_their_order(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "p.jsonl", [{"prompt": text} for text in "abab"])
    assert contents(file) == ["a", "b", "a", "b"]


def test_line_separators_of_unicode_end_no_line(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", '{"prompt": "a\u2028b\u0085c"}\n'.encode())
    assert contents(file) == ["a\u2028b\u0085c"]


BAD_LINES = {
    "cut": (b'{"prompt":', "not valid JSON (Expecting value at column 11)"),
    "nan": (b'{"prompt": "a", "m": NaN}', "not valid JSON (NaN is not a number in JSON)"),
    "infinity": (
        b'{"prompt": "a", "m": 1e999}',
        "'m' holds inf, which JSON cannot represent; use null",
    ),
    "number": (b"3", "a number, not an object with named columns"),
    "null": (b"null", "null, not an object with named columns"),
    "list": (b"[1]", "a list, not an object with named columns"),
    "deep": (b'{"prompt": ' + b"[" * 100_000, "not valid JSON (nested too deeply)"),
    "bytes": (b'{"prompt": "\xff"}', "not UTF-8 (byte 0xff at byte 13)"),
    "column": (b'{"text": "a", "x": 1}', "no column 'prompt' (columns: text, x)"),
    "no column": (b"{}", "no column 'prompt' (columns: none)"),
    "big": (
        b'{"prompt": "a", "m": [18446744073709551616]}',
        "'m' holds an integer of more than 64 bits; make it a text",
    ),
    "surrogate": (
        b'{"prompt": "a\\ud800"}',
        "'prompt' holds invalid Unicode (lone surrogate '\\ud800')",
    ),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_stops_or_is_given_as_a_bad_row(tmp_path: Path, case: str) -> None:
    line, detail = BAD_LINES[case]
    file = write(tmp_path / "p.jsonl", b'{"prompt": "a"}\n' + line + b'\n{"prompt": "b"}\n')
    hint = COLUMN_HINT if "column" in case else HINT
    assert refusal(file) == f"p.jsonl:2: {detail}{hint}"
    first, bad, last = read(file, skip_bad_rows=True)
    assert isinstance(bad, BadRow)
    assert bad.where == f"{file}:2"
    assert bad.detail == detail
    assert 0 < len(bad.raw.encode()) <= 200
    assert isinstance(first, Candidate)
    assert isinstance(last, Candidate)


def test_the_largest_integers_are_kept(tmp_path: Path) -> None:
    line = '{"prompt": "a", "m": [-9223372036854775808, 18446744073709551615]}'
    [row] = good(write(tmp_path / "p.jsonl", line))
    assert row.metadata == '{"m":[-9223372036854775808,18446744073709551615]}'


def test_an_integer_of_five_thousand_digits_is_a_bad_row(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", '{"prompt": "a", "m": ' + "9" * 5000 + "}")
    assert bad_row(file).detail.startswith("not valid JSON (Exceeds the limit (4300 digits)")


def test_an_array_is_sent_to_the_other_suffix(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", '\n[{"prompt": "a"}]')
    expected = "p.jsonl: is a JSON array, not one object a line; rename it to end in .json"
    assert refusal(file) == expected
    assert refusal(file, skip_bad_rows=True) == expected


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfiles, "MAX_LINE_BYTES", 2**20)
    file = write(tmp_path / "p.jsonl", b'{"prompt": "' + b"a" * 2**20)
    assert refusal(file) == "p.jsonl:1: longer than 1 MiB; write one row a line"


@pytest.mark.parametrize("cut", [30, -9])
def test_a_gzip_file_that_was_cut_is_no_shorter_file(tmp_path: Path, cut: int) -> None:
    whole = write_jsonl(tmp_path / "p.jsonl.gz", [{"prompt": f"a{n}"} for n in range(99)])
    whole.write_bytes(whole.read_bytes()[:cut])
    assert refusal(whole, skip_bad_rows=True) == (
        "p.jsonl.gz: cannot be read: Compressed file ended before the end-of-stream marker was "
        "reached"
    )


def test_a_gzip_file_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl.gz"
    file.write_bytes(b'{"prompt": "a"}')
    assert refusal(file) == "p.jsonl.gz: cannot be read: Not a gzipped file (b'{\"')"


def test_another_encoding_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", '{"prompt": "a"}'.encode("utf-16"))
    expected = "p.jsonl:1: not UTF-8 (it is UTF-16 or UTF-32); save it as UTF-8"
    assert refusal(file, skip_bad_rows=True) == expected
