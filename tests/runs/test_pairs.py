"""RUN/pairs: what stands in the files, that they load, and that they are swapped whole."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonlines
import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from sso_data.core.errors import RunError
from sso_data.core.progress import NullProgress
from sso_data.core.records import Row
from sso_data.filtering.filters import decide
from sso_data.runs import files
from sso_data.runs import parquet as parquet_module
from sso_data.runs.journal import load_scores
from sso_data.runs.pairs import outside_row, write_pairs
from tests.factories import make_row, strict, to_line, write_part

CONFIG = strict()
RESERVED = {
    "ref_chosen_logps",
    "ref_rejected_logps",
    "margin",
    "messages",
    "tools",
    "images",
    "image",
    "prompt_ids",
    "chosen_ids",
    "rejected_ids",
    "chat_template_kwargs",
}


def make_pairs(run: Path, rows: list[Row], **options: Any) -> Path:
    """Write and filter a run of these rows; return the directory of its pairs."""
    write_part(run, rows)
    scores = load_scores(run, dry=False)
    decision = decide(scores.rows, CONFIG)
    write_pairs(run, scores, decision.kept, decision.summary(CONFIG), **options)
    return run / "pairs"


def files_of(pairs: Path) -> list[str]:
    """Return the names of the data files as filter.json lists them."""
    found: list[str] = json.loads((pairs / "filter.json").read_text())["files"]
    assert sorted([*found, "filter.json"]) == sorted(path.name for path in pairs.iterdir())
    return found


def read(file: Path) -> list[dict[str, Any]]:
    with jsonlines.open(file) as reader:
        return list(reader)


def mixed_rows() -> list[Row]:
    """Rows 0, 2 and 4 are kept."""
    return [make_row(i, texts={"good": ""} if i % 2 else {}) for i in range(5)]


def test_outside_row_is_the_journal_row_and_two_messages(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, mixed_rows())
    assert len(read(pairs / "train.jsonl")) == 3
    assert files_of(pairs) == ["train.jsonl", "train.parquet"]
    rows = read(pairs / "train.jsonl")
    assert [row["source_id"] for row in rows] == ["source-0", "source-2", "source-4"]
    journal = orjson.loads(to_line(make_row(2)))
    message = {"role": "assistant", "content": "A good answer to question 2."}
    other = {"role": "assistant", "content": "A bad answer to question 2."}
    assert rows[1] == journal | {"chosen_message": message, "rejected_message": other}
    assert list(rows[1])[:-2] == list(journal)
    assert not RESERVED & rows[1].keys()
    assert "logp_good_plain" not in rows[1]
    assert Row.from_json(rows[1]) == make_row(2)


def test_filter_json(tmp_path: Path) -> None:
    make_pairs(tmp_path, mixed_rows())
    content = json.loads((tmp_path / "pairs" / "filter.json").read_text())
    assert content["schema_version"] == 1
    assert content["preset"] == "closeness"
    assert (content["rows"], content["kept"], content["dropped"]["empty"]) == (5, 3, 2)
    assert content["thresholds"] == {
        "requested": {"closeness": 0.3, "closeness_offset": 0.0, "gap": 0.05},
        "resolved": {"min_tokens": 1, "closeness": 0.3, "gap": 0.05},
    }
    assert [s["left"] for s in content["funnel"] if s["dropped"] or s["reason"] == "rows"] == [5, 3]
    assert content["files"] == ["train.jsonl", "train.parquet"]
    assert len(content["leakage_fingerprint"]) == 16


def test_the_ninth_cell_is_a_column_where_it_was_scored(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, [make_row(0), make_row(1, means={("good", "plain"): -1.25})])
    first, second = pq.read_table(pairs / "train.parquet").to_pylist()
    assert (first["logp_good_plain"], second["logp_good_plain"]) == (None, -10.0)
    assert ["logp_good_plain" in row for row in read(pairs / "train.jsonl")] == [
        False,
        True,
    ]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    """`datasets.load_dataset` that caches in the test's directory."""
    from datasets import load_dataset

    def load(kind: str, file: Path) -> Any:
        return load_dataset(
            kind, data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
        )

    return load


def test_both_files_load_with_equal_rows(tmp_path: Path, load: Callable[..., Any]) -> None:
    """Metadata of different shapes does no harm: it is JSON text."""
    odd: dict[str, Any] = {"metadata": '{"tags": [1, {"deep": null}]}', "template_kwargs": "{}"}
    rows = [make_row(0), make_row(1, **odd), make_row(2, texts={"good": "Ünïcode \u2028 \0 🪁"})]
    pairs = make_pairs(tmp_path, rows)
    lines = load("json", pairs / "train.jsonl")
    table = load("parquet", pairs / "train.parquet")
    assert lines.features == table.features
    assert lines.to_list() == table.to_list() == read(pairs / "train.jsonl")


def test_rows_without_source_id_load(tmp_path: Path, load: Callable[..., Any]) -> None:
    pairs = make_pairs(tmp_path, [make_row(i, source_id=None) for i in range(2)])
    table = load("parquet", pairs / "train.parquet")
    assert table["source_id"] == [None, None]
    assert table.to_list() == load("json", pairs / "train.jsonl").to_list()


def test_several_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [make_row(i) for i in range(10, 30)]  # lines of one length
    size = sum(len(to_line(row)) for row in rows)
    monkeypatch.setattr(parquet_module, "PART_BYTES", size // 4 + 1)
    pairs = make_pairs(tmp_path, rows)
    names = [f"train-{i:05}-of-00004.parquet" for i in range(4)]
    assert files_of(pairs) == [*names, "train.jsonl"]
    tables = [pq.read_table(pairs / name).to_pylist() for name in names]
    assert [len(table) for table in tables] == [5, 5, 5, 5]
    expected = [{"logp_good_plain": None, **row} for row in read(pairs / "train.jsonl")]
    assert [{"logp_good_plain": None, **row} for table in tables for row in table] == expected


@pytest.mark.parametrize(
    ("size", "names"),
    [
        (0, ["train.parquet"]),
        (512 << 20, ["train.parquet"]),
        ((512 << 20) + 1, ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]),
    ],
)
def test_part_names(size: int, names: list[str]) -> None:
    assert parquet_module.part_names(size) == names


def test_nothing_kept(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, [make_row(texts={"good": ""})])
    assert (pairs / "train.jsonl").read_bytes() == b""
    assert pq.read_table(pairs / "train.parquet").num_rows == 0
    assert "prompt" in pq.read_schema(pairs / "train.parquet").names


def test_without_parquet_the_old_file_goes(tmp_path: Path) -> None:
    make_pairs(tmp_path, mixed_rows())
    pairs = make_pairs(tmp_path, mixed_rows()[:1], parquet=False)
    assert sorted(p.name for p in pairs.iterdir()) == ["filter.json", "train.jsonl"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pairs", "rows"]


class Counted(NullProgress):
    """Remembers the counts."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int | None, str]] = []

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        self.seen.append((done, total, unit))


def test_progress(tmp_path: Path) -> None:
    progress = Counted()
    make_pairs(tmp_path, [make_row(i) for i in range(600)], parquet=False, progress=progress)
    assert progress.seen == [(done, 600, "pairs written") for done in (256, 512, 600)]


def test_changed_journal_is_refused_and_old_pairs_stay(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, mixed_rows())
    old = (pairs / "train.jsonl").read_bytes()
    scores = load_scores(tmp_path, dry=True)
    part = tmp_path / "rows" / "00000.jsonl"
    part.write_bytes(part.read_bytes().replace(b"question 2", b"question 7"))
    with pytest.raises(RunError, match=r"00000\.jsonl:3: was changed"):
        write_pairs(tmp_path, scores, np.arange(5), {})
    assert (pairs / "train.jsonl").read_bytes() == old
    assert not (tmp_path / ".pairs.new").exists()


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "unlink", "rmdir"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("buffer", [1, 1 << 20])
def test_disk_full_at_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, nth: int, buffer: int
) -> None:
    """One line for the user; afterwards the old pairs or the new ones, whole, and no rubbish."""
    pairs = make_pairs(tmp_path, mixed_rows())
    new = make_pairs(tmp_path / "new", mixed_rows()[:1])
    whole = {(p / "train.jsonl").read_bytes() for p in (pairs, new)}
    real, calls = getattr(os, call), [0]

    def failing(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            raise OSError(28, os.strerror(28))
        return real(*args)

    scores = load_scores(tmp_path, dry=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        patch.setattr(files, "_NEW_FILE_BUFFER", buffer)
        try:
            write_pairs(tmp_path, scores, np.array([0]), {})
            assert calls[0] < nth
        except RunError as error:
            assert "the disk is full" in str(error)
    assert (tmp_path / "pairs" / "train.jsonl").read_bytes() in whole
    assert not (tmp_path / ".pairs.new").exists()


def test_a_value_that_fits_no_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"does not fit the columns .* output\.parquet=false"):
        make_pairs(tmp_path, [make_row(0, seed={"plain": 1, "good": 2, "bad": 2**63})])


@pytest.mark.parametrize("size", [1, 7, 19, 40, 1 << 20])
def test_columns_of_the_card_are_found_wherever_a_piece_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(parquet_module, "_PIECE_BYTES", size)
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first.write_bytes(orjson.dumps({"id": '"sample":', "user_good": '"placement":'}) + b"\n")
    second.write_bytes(orjson.dumps({"id": "b", "logp_good_plain": 0.5, "rest_not_asked": "gap"}))
    found = {one["name"] for one in parquet_module.card_features(first, second, journal=True)}
    assert found & {*parquet_module.OPTIONAL} == {"user_good", "logp_good_plain", "rest_not_asked"}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux")
def test_looking_for_them_takes_no_memory_of_the_files(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    with file.open("wb") as stream:
        for _ in range(64):
            stream.write(b'{"prompt":"' + b"a" * (1 << 20) + b'"}\n')
    before = resident("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")
    parquet_module.card_features(file, journal=False)
    assert resident("VmHWM:") - before < 16 << 20


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def test_outside_row_leaves_its_argument_alone() -> None:
    row = make_row().to_json()
    before = json.dumps(row)
    assert outside_row(row)["chosen_message"]["role"] == "assistant"
    assert json.dumps(row) == before
