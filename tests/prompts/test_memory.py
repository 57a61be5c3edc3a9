"""Memory does not grow with the source: at most 6 MiB more at any time, for files of 20 MB."""

import gc
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from sso_data.config.run import SourceConfig
from sso_data.prompts import read_prompts
from tests.prompts.reading import write

ROWS = 5000
TEXT = "Explain why the sky is blue. " * 140
MOST_BYTES = 6 * 2**20


def _rows() -> Iterator[dict[str, object]]:
    for number in range(ROWS):
        yield {"prompt": f"{number} {TEXT}", "id": number}


WRITERS: dict[str, Callable[[], bytes]] = {
    "p.jsonl": lambda: b"".join(json.dumps(row).encode() + b"\n" for row in _rows()),
    "p.jsonl.gz": lambda: b"".join(json.dumps(row).encode() + b"\n" for row in _rows()),
    "p.json": lambda: json.dumps(list(_rows())).encode(),
    "p.csv": lambda: b"prompt\n" + b"".join(f"{row['prompt']}\n".encode() for row in _rows()),
    "p.txt": lambda: b"".join(f"{row['prompt']}\n".encode() for row in _rows()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_text_formats(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, WRITERS[name]())
    gc.collect()
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_prompts(str(file), SourceConfig()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == ROWS
    assert peak < MOST_BYTES


def test_parquet_with_one_row_group(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    table = pa.Table.from_pylist(list(_rows()))
    parquet.write_table(table, file, row_group_size=ROWS, compression="none", use_dictionary=False)
    assert file.stat().st_size > 3 * MOST_BYTES
    del table
    gc.collect()
    before = pa.total_allocated_bytes()
    peak = 0
    for place, _ in enumerate(read_prompts(str(file), SourceConfig())):
        if place % 100 == 0:
            peak = max(peak, pa.total_allocated_bytes() - before)
    assert place == ROWS - 1
    assert peak < MOST_BYTES
