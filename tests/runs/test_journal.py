"""The journal: whole lines only, torn tails cut, parts in order."""

from pathlib import Path

import pytest

from sso_data.core.records import Row
from sso_data.runs.journal import Journal, load_scores, parts, read_rows
from sso_data.runs.jsonl import read_lines
from tests.factories import make_row


def rows_of(run: Path) -> list[Row]:
    return list(read_rows(run))


def write(run: Path, rows: list[Row], **options: int) -> None:
    journal = Journal(run, **options)
    for row in rows:
        journal.append(row)
    journal.close()


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    rows = [make_row(index) for index in range(5)]
    write(tmp_path, rows[:3])
    write(tmp_path, rows[3:])
    assert rows_of(tmp_path) == rows
    assert load_scores(tmp_path, dry=True).keys().size == 5


def test_a_line_cut_anywhere_is_dropped_and_nothing_is_glued_to_it(tmp_path: Path) -> None:
    rows = [make_row(index) for index in range(3)]
    write(tmp_path / "whole", rows[:2])
    part = parts(tmp_path / "whole")[0]
    data = part.read_bytes()
    first_line = data.index(b"\n") + 1
    for size in [*range(first_line, len(data), 9), len(data) - 2, len(data) - 1]:
        run = tmp_path / f"cut-{size}"
        (run / "rows").mkdir(parents=True)
        (run / "rows" / part.name).write_bytes(data[:size])
        write(run, [rows[2]])
        assert rows_of(run) == [rows[0], rows[2]]
        assert load_scores(run, dry=True).keys().size == 2


@pytest.mark.parametrize("tail", [b"", b"{", b'{"id": "x"'])
def test_a_file_with_no_whole_line_is_empty(tmp_path: Path, tail: bytes) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "00000.jsonl").write_bytes(tail)
    write(tmp_path, [make_row()])
    assert rows_of(tmp_path) == [make_row()]


def test_a_full_part_is_followed_by_the_next(tmp_path: Path) -> None:
    rows = [make_row(index) for index in range(7)]
    write(tmp_path, rows[:4], part_bytes=3000)
    write(tmp_path, rows[4:], part_bytes=3000)
    assert [part.name for part in parts(tmp_path)][:2] == ["00000.jsonl", "00001.jsonl"]
    assert rows_of(tmp_path) == rows


def test_a_torn_tail_longer_than_one_read_is_found(tmp_path: Path) -> None:
    file = tmp_path / "rows" / "00000.jsonl"
    write(tmp_path, [make_row()])
    with file.open("ab") as stream:
        stream.write(b"x" * 200_000)
    assert len(list(read_lines(file))) == 1
    write(tmp_path, [make_row(1)])
    assert rows_of(tmp_path) == [make_row(), make_row(1)]
