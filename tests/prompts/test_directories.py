"""Directories: what `save_to_disk` wrote, and folders of data files."""

from pathlib import Path
from typing import Any

import pytest

from sso_data.world import policy_dir
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


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("b.csv", b"prompt,x\nq,1\nq,1,2,3\n", "b.csv:3: the header has 2 columns, this row 4"),
        ("b.csv", b"prompt\ncaf\xe9\n", "b.csv:2: not UTF-8"),
        ("b.parquet", b"PAR1 no", "b.parquet: cannot be read as Parquet"),
        ("b.parquet", b"version https://git-lfs", "b.parquet: is a Git LFS pointer"),
    ],
)
def test_the_file_of_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, datasets: Any, name: str, data: bytes, said: str
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(data)
    assert refusal(tmp_path / "d").startswith(f"d/{said}")


def test_a_folder_that_is_none_of_prompts(tmp_path: Path, datasets: Any) -> None:
    (tmp_path / "data [1]").mkdir()
    write(tmp_path / "data [1]" / "a.jsonl", '{"prompt": "q"}\n')
    assert refusal(tmp_path / "data [1]").endswith("for patterns: rename the directory")
    assert "policy: is a model; it is named with --model" in refusal(policy_dir())
    (tmp_path / "run.json").write_text("{}")
    assert refusal(tmp_path).endswith("is a run; give a file, a directory or a dataset of prompts")


def test_tables_of_other_types_are_told_as_such(tmp_path: Path, datasets: Any) -> None:
    (tmp_path / "d").mkdir()
    for name, x in (("a", 1), ("b", "one")):
        table = datasets.Dataset.from_dict({"prompt": ["q"], "x": [x]})
        table.to_parquet(tmp_path / "d" / f"{name}.parquet")
    assert refusal(tmp_path / "d").startswith("d: its files have other columns or types than one")
