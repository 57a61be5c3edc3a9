"""Directories: what `save_to_disk` wrote, and folders of data files."""

from pathlib import Path
from typing import Any

import pytest

from tests.prompts.reading import HINT, contents, good, refusal, write


@pytest.fixture(scope="module")
def datasets() -> Any:
    return pytest.importorskip("datasets")


def test_a_saved_dataset(tmp_path: Path, datasets: Any) -> None:
    texts = [f"a{n}" for n in range(600)]
    whole = datasets.Dataset.from_dict({"prompt": texts, "id": list(range(600))})
    whole.select(range(599, -1, -1)).save_to_disk(tmp_path / "saved")
    rows = good(tmp_path / "saved", split="anything")
    assert [row.messages[0].content for row in rows] == texts[::-1]
    assert (rows[0].source_id, rows[0].where) == ("599", f"{tmp_path / 'saved'}:row 1")


def test_a_saved_dataset_of_chats(tmp_path: Path, datasets: Any) -> None:
    turns = [{"role": "user", "content": "ä"}]
    datasets.Dataset.from_dict({"prompt": [turns], "m": [[1, 2]]}).save_to_disk(tmp_path / "saved")
    [row] = good(tmp_path / "saved")
    assert [message.to_json() for message in row.messages] == turns
    assert row.metadata == '{"m":[1,2]}'


def test_splits_of_a_saved_dataset(tmp_path: Path, datasets: Any) -> None:
    splits = {name: datasets.Dataset.from_dict({"prompt": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert contents(tmp_path / "saved", split="test") == ["test"]
    assert good(tmp_path / "saved")[0].where == f"{tmp_path / 'saved'}:train:row 1"
    assert refusal(tmp_path / "saved", split="dev") == (
        "saved: no split 'dev' (splits: train, test); set source.split to one"
    )


def test_missing_column_and_bad_row(tmp_path: Path, datasets: Any) -> None:
    datasets.Dataset.from_dict({"text": ["a", None]}).save_to_disk(tmp_path / "saved")
    assert refusal(tmp_path / "saved") == (
        "saved: no column 'prompt' (columns: text); name the prompts' column with --column"
    )
    assert refusal(tmp_path / "saved", column="text") == (
        f"saved:row 2: 'text' is null, not a text or a list of chat messages{HINT}"
    )


def test_a_folder_of_data_files(tmp_path: Path, datasets: Any) -> None:
    folder = tmp_path / "json"  # also the name of a format of the library
    folder.mkdir()
    write(folder / "train-1.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n')
    write(folder / "train-2.jsonl", '{"prompt": "c"}\n')
    write(folder / "test.jsonl", '{"prompt": "d"}\n')
    assert contents(folder) == ["a", "b", "c"]
    assert contents(folder, split="test") == ["d"]
    assert contents(folder, limit=2) == ["a", "b"]


def test_a_folder_without_data(tmp_path: Path, datasets: Any) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == (
        "empty: holds no data files that `datasets` can read (JSONL, Parquet, CSV, ...)"
    )


def test_a_saved_dataset_that_is_broken(tmp_path: Path, datasets: Any) -> None:
    datasets.Dataset.from_dict({"prompt": ["a"]}).save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"nothing")
    assert refusal(tmp_path / "saved").startswith("saved: `datasets` cannot read it: ")
