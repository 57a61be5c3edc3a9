"""The columns of pushed JSON lines as a dataset card declares them, so that no reader has to guess.

Without that, `datasets` takes the types from the first rows: a column that is null there and a text
later ends the loading.
"""

import mmap
from pathlib import Path
from typing import Any

import pyarrow as pa

from sso_data.core.records import ALL_CELLS, OPTIONAL_SCORE
from sso_data.runs.parquet import schema

_MESSAGES = ("chosen_message", "rejected_message")
_NAMES = {"double": "float64"}


def card_features(*files: Path, journal: bool) -> list[dict[str, Any]]:
    """The columns of files of pairs, or of journal parts, as `features` in a card's dataset_info.

    The ninth log-prob is a column where a row has it.
    """
    spare = "logp_{}_{}".format(*OPTIONAL_SCORE)
    is_there = any(_has_column(file, spare) for file in files)
    cells = [cell for cell in ALL_CELLS if is_there or cell != OPTIONAL_SCORE]
    fields = [field for field in schema(cells) if not (journal and field.name in _MESSAGES)]
    return [{"name": field.name, **_feature(field.type)} for field in fields]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """One type in the words of `datasets`."""
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype") or inner["struct"]}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **_feature(field.type)} for field in kind]}
    return {"dtype": _NAMES.get(str(kind), str(kind))}


def _has_column(file: Path, name: str) -> bool:
    """Whether a row of the file has the column; in a text its quotes would be escaped."""
    if not file.stat().st_size:
        return False
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(f'"{name}":'.encode()) >= 0
