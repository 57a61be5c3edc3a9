"""Outside rows as Parquet, with a schema that does not depend on the rows."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sso_data.core.errors import RunError, one_line
from sso_data.core.records import (
    ALL_CELLS,
    OPTIONAL_SCORE,
    SIDE_OF,
    STEERED_VIEWS,
    VIEWS,
    JsonRow,
)
from sso_data.runs.files import NewFile

PART_BYTES = 512 << 20
"""A Parquet file holds at most about this many bytes of JSON lines."""

_BATCH_ROWS = 1000
_BATCH_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20


OPTIONAL = (
    *("sample", "placement", "user_good", "user_bad", "rest_not_asked"),
    "logp_{}_{}".format(*OPTIONAL_SCORE),
)
"""Columns that are left out where no row has them."""


def schema(present: Collection[str] = OPTIONAL) -> pa.Schema:
    """Return the columns of an outside row, in its order; of OPTIONAL ones those in `present`.

    Numbers have 64 bits, as in what readers of the JSON lines make of them.
    """
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    texts = pa.list_(pa.string())
    fields: list[tuple[str, pa.DataType]] = [
        ("schema_version", pa.int64()),
        ("id", pa.string()),
        ("source_id", pa.string()),
        ("sample", pa.int64()),
        ("prompt", pa.list_(message)),
    ]
    fields += [(side, pa.list_(message)) for side in SIDE_OF.values()]
    fields += [("principles", texts), ("chosen_by", pa.string())]
    fields += [(f"principles_{view}", texts) for view in ("good", "bad")]
    fields += [("written_by", texts)]
    fields += [(f"paraphrase_{view}", pa.list_(pa.int64())) for view in ("good", "bad")]
    fields += [("system_template", pa.string()), ("placement", pa.string())]
    fields += [
        (f"{part}_{view}", pa.string()) for part in ("system", "user") for view in STEERED_VIEWS
    ]
    fields += [(f"logp_{seen}_{drawn}", pa.float64()) for seen, drawn in ALL_CELLS]
    for side in SIDE_OF.values():
        fields += [
            (f"{side}_num_tokens", pa.int64()),
            (f"{side}_finish_reason", pa.string()),
            (f"{side}_token_ids", pa.list_(pa.int64())),
        ]
    for view in VIEWS:
        fields += [(f"seed_{view}", pa.int64()), (f"prompt_hash_{view}", pa.string())]
    words = ("model", "model_fingerprint", "template_fingerprint", "template_kwargs", "metadata")
    fields += [(word, pa.string()) for word in (*words, "rest_not_asked")]
    fields += [("chosen_message", message), ("rejected_message", message)]
    return pa.schema([one for one in fields if one[0] not in OPTIONAL or one[0] in present])


def part_names(total_bytes: int) -> list[str]:
    """Return the file names for `total_bytes` of JSON lines: train.parquet, or equal parts."""
    count = max(1, -(-total_bytes // PART_BYTES))
    if count == 1:
        return ["train.parquet"]
    return [f"train-{number:05}-of-{count:05}.parquet" for number in range(count)]


class ParquetWriter:
    """Writes rows whose JSON lines have `total_bytes` in all to Parquet files in `directory`.

    `present` are the OPTIONAL columns that a row has.
    Its `with` block ends with finishing the files; after an error they stay incomplete. `add`
    raises RunError when a row does not fit the columns.
    """

    def __init__(self, directory: Path, total_bytes: int, *, present: Collection[str]) -> None:
        self._schema = schema(present)
        self._paths = [directory / name for name in part_names(total_bytes)]
        self._share = total_bytes / len(self._paths)
        self._done_bytes = 0
        self._batch: list[JsonRow] = []
        self._batch_bytes = 0
        self._open(0)

    def add(self, row: JsonRow, line_bytes: int) -> None:
        """Add one row, whose JSON line has `line_bytes`."""
        last = self._part == len(self._paths) - 1
        if not last and self._done_bytes >= self._share * (self._part + 1):
            self._finish()
            self._open(self._part + 1)
        self._batch.append(row)
        self._batch_bytes += line_bytes
        self._done_bytes += line_bytes
        if len(self._batch) >= _BATCH_ROWS or self._batch_bytes >= _BATCH_BYTES:
            self._write_batch()

    def __enter__(self) -> "ParquetWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self._finish()
        else:
            self._abandon()

    def _open(self, part: int) -> None:
        self._part = part
        self._file = NewFile(self._paths[part])
        try:
            self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        except BaseException:
            self._file.abandon()
            raise

    def _finish(self) -> None:
        """Complete the current file."""
        try:
            self._write_batch()
            with _named(self._file.path):
                self._writer.close()
            self._file.close()
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        self._writer.is_open = False  # else its finalizer would write the footer
        self._file.abandon()

    def _write_batch(self) -> None:
        if not self._batch:
            return
        with _named(self._file.path):
            batch = pa.RecordBatch.from_pylist(self._batch, schema=self._schema)
            self._writer.write_batch(batch)
        self._batch, self._batch_bytes = [], 0


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn a value that does not fit its column into a RunError."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        reason = one_line(error)
        raise RunError(
            f"{path}: a row does not fit the columns ({reason}); "
            "repair the journal, or set output.parquet=false"
        ) from error


_MESSAGES = ("chosen_message", "rejected_message")
_NAMES = {"double": "float64"}


def card_features(*files: Path, journal: bool) -> list[dict[str, Any]]:
    """Return the columns of pairs or journal files as `features` of a card's dataset_info.

    OPTIONAL ones are there if any row has them.
    """
    present = set().union(*map(_columns_in, files))
    fields = [field for field in schema(present) if not (journal and field.name in _MESSAGES)]
    return [{"name": field.name, **_feature(field.type)} for field in fields]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """Return a type in the notation of `datasets`."""
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype") or inner["struct"]}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **_feature(field.type)} for field in kind]}
    return {"dtype": _NAMES.get(str(kind), str(kind))}


def _columns_in(file: Path) -> set[str]:
    """Return the OPTIONAL columns that a row has; inside of a text their quotes were escaped."""
    missing, found, end = {f'"{name}":'.encode(): name for name in OPTIONAL}, set[str](), b""
    longest = max(map(len, missing))
    with file.open("rb") as stream:
        while missing and (piece := stream.read(_PIECE_BYTES)):
            piece = end + piece
            found |= {missing.pop(key) for key in tuple(missing) if key in piece}
            end = piece[-longest:]
    return found
