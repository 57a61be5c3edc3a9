"""CSV, TSV and plain text."""

from pathlib import Path

import pytest

from sso_data.core.records import Message
from sso_data.prompts import Candidate
from tests.prompts.reading import HINT, bad_row, contents, good, read, refusal, write


def test_quotes_commas_and_line_breaks_in_a_cell(tmp_path: Path) -> None:
    file = write(
        tmp_path / "p.csv",
        b'\xef\xbb\xbfid,prompt,topic\r\n7,"a ""b"",\r\nc",x\r\n\r\n,\xc3\xa4,\r\n',
    )
    assert good(file) == [
        Candidate(
            messages=(Message(role="user", content='a "b",\r\nc'),),
            source_id="7",
            metadata='{"topic":"x"}',
            where=f"{file}:2",
        ),
        Candidate(
            messages=(Message(role="user", content="ä"),),
            source_id=None,
            metadata='{"topic":""}',
            where=f"{file}:5",
        ),
    ]


@pytest.mark.parametrize("name", ["p.tsv", "p.tsv.gz"])
def test_tabs(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, "prompt\tid\na, b\t1\n")
    [row] = good(file)
    assert (row.messages[0].content, row.source_id) == ("a, b", "1")


def test_a_cell_of_more_than_the_usual_limit(tmp_path: Path) -> None:
    file = write(tmp_path / "p.csv", "prompt\n" + "a" * 500_000 + "\n")
    assert [len(text) for text in contents(file)] == [500_000]


def test_a_row_of_another_length(tmp_path: Path) -> None:
    file = write(tmp_path / "p.csv", "prompt,id\na,1\nb\nc,3\n")
    assert refusal(file) == f"p.csv:3: the header has 2 columns, this row 1{HINT}"
    bad = bad_row(file)
    assert (bad.where, bad.raw) == (f"{file}:3", "['b']")
    assert len(read(file, skip_bad_rows=True)) == 3


BROKEN: dict[str, tuple[bytes | str, str]] = {
    "column": (
        "text,id\na,1\n",
        "p.csv: no column 'prompt' (columns: text, id); name the prompts' column",
    ),
    "twice": ("prompt,x,x\na,1,2\n", "p.csv: duplicate column 'x'; rename one"),
    "open": (
        'prompt\na\n"b\n',
        "p.csv:3: not valid CSV (unexpected end of data); check its quotes",
    ),
    "quote": (
        'prompt\n"a" b\n',
        "p.csv:2: not valid CSV (',' expected after '\"'); check its quotes",
    ),
    "bytes": (b"prompt\na\n\xe4\n", "p.csv:3: not UTF-8 (byte 0xe4 at byte 1); save it as UTF-8"),
    "header": ("prompt,id\n", "p.csv: holds no prompts"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_table_always_stops(tmp_path: Path, case: str) -> None:
    content, line = BROKEN[case]
    assert refusal(write(tmp_path / "p.csv", content), skip_bad_rows=True).startswith(line)


@pytest.mark.parametrize("name", ["p.txt", "p.txt.gz"])
def test_each_line_is_a_prompt(tmp_path: Path, name: str) -> None:
    data = b'\xef\xbb\xbf a b \r\n\r\n \t\n\xf0\x9f\x98\x80\n{"prompt": 1}\na b'
    rows = good(write(tmp_path / name, data), column="anything")
    assert [row.messages[0].content for row in rows] == [" a b ", "😀", '{"prompt": 1}', "a b"]
    assert [row.where.rpartition(":")[2] for row in rows] == ["1", "4", "5", "6"]
    assert {(row.source_id, row.metadata) for row in rows} == {(None, "{}")}


def test_a_line_in_another_encoding(tmp_path: Path) -> None:
    file = write(tmp_path / "p.txt", b"a\nb\xe4\nc\n")
    assert refusal(file) == f"p.txt:2: not UTF-8 (byte 0xe4 at byte 2){HINT}"
    assert bad_row(file).raw == "b\\xe4"
