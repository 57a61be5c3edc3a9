"""Parquet files, and the values of Arrow that JSON does not have."""

import datetime
import decimal
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from tests.prompts.reading import HINT, bad_row, contents, good, read, refusal


def table_file(path: Path, columns: dict[str, object]) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_texts_chats_ids_and_types(tmp_path: Path) -> None:
    noon = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)
    file = table_file(
        tmp_path / "p.parquet",
        {
            "prompt": [[{"content": "ä", "role": "user", "name": None}]],
            "id": [12],
            "bytes": [b"\x00\x01"],
            "date": [noon.date()],
            "decimal": [decimal.Decimal("1.50")],
            "duration": [datetime.timedelta(minutes=1)],
            "float": [0.5],
            "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
            "time": [noon],
        },
    )
    [row] = good(file)
    assert row.messages[0].to_json() == {"role": "user", "content": "ä"}
    assert (row.source_id, row.where) == ("12", f"{file}:row 1")
    assert row.metadata == (
        '{"bytes":"<2 bytes>","date":"2026-01-02","decimal":"1.50","duration":"0:01:00",'
        '"float":0.5,"map":[["k",1]],"time":"2026-01-02T12:00:00+00:00"}'
    )


def test_more_rows_than_a_batch_in_order(tmp_path: Path) -> None:
    texts = [f"a{n}" for n in range(1000)]
    file = table_file(tmp_path / "p.parquet", {"prompt": texts})
    assert contents(file) == texts
    assert good(file)[-1].where == f"{file}:row 1000"


def test_a_prompt_that_is_null(tmp_path: Path) -> None:
    file = table_file(tmp_path / "p.parquet", {"prompt": ["a", None, "b"]})
    detail = "'prompt' is null, not a text or a list of chat messages"
    assert refusal(file) == f"p.parquet:row 2: {detail}{HINT}"


def test_not_a_number(tmp_path: Path) -> None:
    file = table_file(tmp_path / "p.parquet", {"prompt": ["a"], "m": [float("nan")]})
    detail = "'m' holds nan, which JSON cannot represent; use null"
    assert refusal(file) == f"p.parquet:row 1: {detail}{HINT}"


def test_a_value_that_python_cannot_hold_spoils_its_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\xff", b"c"], pa.binary()).cast(pa.string(), safe=False)
    year = pa.array([0, 0, 10**15], pa.int64()).cast(pa.timestamp("ms"))
    file = table_file(tmp_path / "p.parquet", {"prompt": texts, "when": year})
    first, second, third = read(file, skip_bad_rows=True)
    assert first.where == f"{file}:row 1"
    assert getattr(second, "detail", "") == "a text is not UTF-8 (invalid start byte)"
    assert getattr(third, "detail", "").startswith("a value cannot be read: ")


def test_a_missing_column(tmp_path: Path) -> None:
    file = table_file(tmp_path / "p.parquet", {"text": ["a"], "id": [1]})
    assert refusal(file) == (
        "p.parquet: no column 'prompt' (columns: text, id); name the prompts' column with --column"
    )
    assert contents(file, column="text") == ["a"]


def test_many_columns_are_not_all_named(tmp_path: Path) -> None:
    file = table_file(tmp_path / "p.parquet", {f"c{n}": [n] for n in range(100)})
    assert "c10, c11, ...)" in refusal(file)


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    file.write_bytes(b"PAR1 and then nothing")
    assert refusal(file).startswith("p.parquet: cannot be read as Parquet: ")


def test_no_rows(tmp_path: Path) -> None:
    file = table_file(tmp_path / "p.parquet", {"prompt": pa.array([], pa.string())})
    assert refusal(file) == "p.parquet: holds no prompts"


def test_a_bad_row_has_a_bounded_excerpt(tmp_path: Path) -> None:
    file = table_file(tmp_path / "p.parquet", {"prompt": [3], "m": ["x" * 10_000]})
    assert len(bad_row(file).raw) <= 200
