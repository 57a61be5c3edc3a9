"""The side file: trusted as far as it agrees with the journal, made again otherwise."""

import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sso_data.config.run import FilterConfig
from sso_data.core.errors import RunError
from sso_data.core.records import Row
from sso_data.filtering.filters import decide
from sso_data.runs import columns
from sso_data.runs import journal as module
from sso_data.runs.columns import SCORES, encode
from sso_data.runs.journal import Journal, load_scores, side_file
from tests.factories import encode_rows, make_row, to_line, write_part

HEADER = 32
ROWS = [make_row(0), make_row(1, texts={"good": ""}), make_row(2), make_row(3, tokens={"bad": 3})]


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A run of four rows with its side file."""
    part = write_part(tmp_path, ROWS)
    load_scores(tmp_path, dry=False)
    return part


def same(run: Path, rows: list[Row], *, dry: bool = True) -> bool:
    return load_scores(run, dry=dry).rows.tobytes() == encode_rows(rows).tobytes()


def test_writer_makes_what_the_journal_says(tmp_path: Path) -> None:
    part = tmp_path / "rows" / "00000.jsonl"
    journal = Journal(tmp_path)
    records = [journal.append(row) for row in ROWS]
    journal.close()
    assert b"".join(records) == encode_rows(ROWS).tobytes()
    assert side_file(part).stat().st_size == HEADER + len(ROWS) * SCORES.itemsize
    written = side_file(part).read_bytes()
    side_file(part).unlink()
    load_scores(tmp_path, dry=False)
    assert side_file(part).read_bytes() == written


def test_several_parts_in_order(tmp_path: Path) -> None:
    write_part(tmp_path, ROWS[2:], number=1)
    write_part(tmp_path, ROWS[:2], number=0)
    scores = load_scores(tmp_path, dry=True)
    assert scores.keys().tolist() == [columns.row_key(row.id) for row in ROWS]
    assert scores.part.tolist() == [0, 0, 1, 1]
    assert [path.name for path in scores.parts] == ["00000.jsonl", "00001.jsonl"]
    lines = list(scores.lines(np.array([0, 2, 3])))
    assert lines == [to_line(ROWS[0]), to_line(ROWS[2]), to_line(ROWS[3])]


def test_no_rows_yet(tmp_path: Path) -> None:
    assert len(load_scores(tmp_path, dry=False)) == 0
    write_part(tmp_path, [])
    assert len(load_scores(tmp_path, dry=False)) == 0


def test_dry_writes_nothing(tmp_path: Path) -> None:
    part = write_part(tmp_path, ROWS)
    assert same(tmp_path, ROWS, dry=True)
    assert not side_file(part).exists()


def test_side_file_torn_at_every_byte(part: Path) -> None:
    run, whole = part.parent.parent, side_file(part).read_bytes()
    for size in range(len(whole)):
        side_file(part).write_bytes(whole[:size])
        assert same(run, ROWS, dry=size % 7 != 0), size
        if size % 7 == 0:
            assert side_file(part).read_bytes() == whole


def test_side_file_with_any_byte_changed(part: Path) -> None:
    run, whole = part.parent.parent, side_file(part).read_bytes()
    for position in range(len(whole)):
        side_file(part).write_bytes(
            whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :]
        )
        assert same(run, ROWS), position


def test_journal_torn_at_every_byte(tmp_path: Path) -> None:
    """With the side file of the whole journal beside it, and with none."""
    runs = [tmp_path / "with", tmp_path / "without"]
    parts = [write_part(run, ROWS[:2]) for run in runs]
    load_scores(runs[0], dry=False)
    whole = parts[0].read_bytes()
    for size in reversed(range(len(whole))):
        rows = ROWS[: whole[:size].count(b"\n")]
        for run, part in zip(runs, parts, strict=True):
            os.truncate(part, size)
            assert same(run, rows), size
    assert side_file(parts[0]).exists() and not side_file(parts[1]).exists()


def test_a_torn_run_is_decided_like_its_whole_rows(part: Path) -> None:
    run = part.parent.parent
    expected = decide(encode_rows(ROWS[:3]), FilterConfig())
    os.truncate(part, part.stat().st_size - 1)
    os.truncate(side_file(part), side_file(part).stat().st_size - SCORES.itemsize - 5)
    decision = decide(load_scores(run, dry=False).rows, FilterConfig())
    assert decision.reason_code.tolist() == expected.reason_code.tolist() == [0, 1, 0]
    assert decision.funnel == expected.funnel


def test_writer_continues_after_any_tear(part: Path) -> None:
    """Journal cut to whole lines, side file torn anywhere: opening brings them together."""
    run, side = part.parent.parent, side_file(part).read_bytes()
    part.write_bytes(b"".join(map(to_line, ROWS[:2])))
    new = make_row(9)
    for size in range(0, len(side), 11):
        part.write_bytes(b"".join(map(to_line, ROWS[:2])))
        side_file(part).write_bytes(side[:size])
        journal = Journal(run)
        journal.append(new)
        journal.close()
        assert side_file(part).stat().st_size == HEADER + 3 * SCORES.itemsize
        assert same(run, [*ROWS[:2], new])


def test_another_journal_under_the_side_file(part: Path) -> None:
    """Lines of other lengths, or of the same length: they are not those that were written."""
    run = part.parent.parent
    for others in ([make_row(i) for i in (5, 6, 7, 8)], [make_row(i) for i in (50, 51, 52, 53)]):
        write_part(run, others)
        with pytest.raises(RunError, match=r"00000\.jsonl:1: was changed after it was written"):
            load_scores(run, dry=True)


def test_leak_phrases_changed(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, before = part.parent.parent, side_file(part).read_bytes()
    monkeypatch.setattr(columns, "phrases", lambda _: ("question 2",))
    decision = decide(load_scores(run, dry=False).rows, FilterConfig())
    assert decision.reason(2) == "leak"
    after = side_file(part).read_bytes()
    assert len(after) == len(before) and after[:HEADER] != before[:HEADER]
    monkeypatch.undo()
    assert decide(load_scores(run, dry=False).rows, FilterConfig()).reason(2) is None
    assert side_file(part).read_bytes() == before


def test_a_side_file_of_a_version_that_saw_no_echoes_is_made_again(tmp_path: Path) -> None:
    """Its header has the hash of the leakage phrases alone; the flags of its rows are missing."""
    asked = "Name one thing that it says of kites."
    row = make_row(texts={"good": asked})
    row = replace(row, steering=replace(row.steering, good=(asked, "Be right.")))
    part = write_part(tmp_path, [row])
    load_scores(tmp_path, dry=False)
    side = side_file(part)
    new = side.read_bytes()
    record = np.frombuffer(new[HEADER:], SCORES).copy()
    record["flags"] = 0
    record["check"] = zlib.crc32(record.tobytes()[: columns.CHECKED_BYTES])
    header = new[:16] + columns.leak_fingerprint().encode()
    side.write_bytes(header + record.tobytes())
    assert decide(load_scores(tmp_path, dry=False).rows, FilterConfig()).reason(0) == "echo"
    assert side.read_bytes() == new


def test_read_only_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = write_part(tmp_path, ROWS)

    def refuse(path: Path, *_: object) -> None:
        raise RunError(f"{path}: cannot write")

    monkeypatch.setattr(module, "Appender", refuse)
    monkeypatch.setattr(module, "write_atomic", refuse)
    assert same(tmp_path, ROWS, dry=False)
    assert not side_file(part).exists()


def test_disk_full_while_repairing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(tmp_path, ROWS)

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert same(tmp_path, ROWS, dry=False)
    assert same(tmp_path, ROWS, dry=False)


@pytest.mark.parametrize(
    "bad",
    [
        b"{not json}",
        b"",
        b"[]",
        b"null",
        b'{"id": "x"}',
        to_line(ROWS[0]).strip().replace(b'"stop"', b'"tired"'),
        to_line(ROWS[0]).strip().replace(b'"logp_bad_bad":-4.0', b'"logp_bad_bad":"high"'),
    ],
)
def test_malformed_line_is_named(tmp_path: Path, bad: bytes) -> None:
    part = write_part(tmp_path, ROWS)
    lines = part.read_bytes().splitlines()
    part.write_bytes(b"\n".join([*lines[:2], bad, *lines[2:]]) + b"\n")
    with pytest.raises(RunError, match=r"00000\.jsonl:3: is not a row"):
        load_scores(tmp_path, dry=False)


def test_malformed_line_after_trusted_ones_has_its_number(part: Path) -> None:
    with part.open("ab") as journal:
        journal.write(b"garbage\n")
    with pytest.raises(RunError, match=":5: is not a row") as caught:
        load_scores(part.parent.parent, dry=False)
    assert "\n" not in str(caught.value)


def test_line_changed_after_loading(part: Path) -> None:
    scores = load_scores(part.parent.parent, dry=True)
    data = part.read_bytes()
    part.write_bytes(data.replace(b"question 2", b"question 7"))
    with pytest.raises(
        RunError,
        match=r"00000\.jsonl:3: was changed after it was written .its checksum in 00000\.scores",
    ):
        list(scores.lines(np.arange(4)))


def test_records_are_what_encode_makes(part: Path) -> None:
    first = load_scores(part.parent.parent, dry=True).rows[:1]
    assert first.tobytes() == encode(ROWS[0], to_line(ROWS[0]), 0)
