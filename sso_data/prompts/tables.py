"""Prompts from Arrow data: Parquet files, and the batches that `datasets` gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError, one_line
from sso_data.prompts.rows import BadRow, RawRow, check_header, excerpt

BATCH_ROWS = 256
_READ_AHEAD_BYTES = 2**18


def read_parquet(path: Path, config: SourceConfig) -> Iterator[RawRow | BadRow]:
    """The rows of a Parquet file, in batches; a column chunk is never held as a whole."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, buffer_size=_READ_AHEAD_BYTES, pre_buffer=False) as file:
            check_header(str(path), file.schema_arrow.names, config)
            start = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield from batch_rows(batch, f"{path}:row", start)
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(one_line(f"{path}: cannot be read as Parquet: {reason}", 300)) from error


def batch_rows(batch: Any, label: str, start: int) -> Iterator[RawRow | BadRow]:
    """The rows of an Arrow batch or table, `start` rows into its source.

    A value that Python cannot hold (text that is not UTF-8, a year 10000) spoils its row only.
    """
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError, TypeError):
        for place in range(batch.num_rows):
            yield _row_alone(batch.slice(place, 1), f"{label} {start + place + 1}")
    else:
        for place, fields in enumerate(rows):
            yield RawRow(where=f"{label} {start + place + 1}", fields=fields)


def _row_alone(batch: Any, where: str) -> RawRow | BadRow:
    try:
        return RawRow(where=where, fields=batch.to_pylist()[0])
    except UnicodeDecodeError as error:
        detail, raw = f"a text is not UTF-8 ({error.reason})", error.object
        return BadRow(where=where, raw=excerpt(raw[:200]), detail=detail)
    except (ValueError, OverflowError, TypeError) as error:
        detail = f"a value cannot be read: {excerpt(str(error))}"
        return BadRow(where=where, raw="", detail=detail)
