"""`RUN/pairs/`: the kept rows for the outside world, as JSON lines and Parquet, and filter.json.

Everything is written beside and swapped in whole; memory does not grow with the number of rows.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import jsonlines
import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.core.errors import RunError
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import OPTIONAL_SCORE, SCHEMA_VERSION, VIEWS, JsonRow
from sso_data.runs.files import NewFile, make_dir, recover_dir, remove_tree, swap_dir, write_new
from sso_data.runs.scores import Scores

_PROGRESS_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What stands in `directory`: how many rows, and the names of the data files."""

    directory: Path
    rows: int
    files: tuple[str, ...]


def write_pairs(
    run: Path,
    scores: Scores,
    kept: NDArray[np.intp],
    summary: Mapping[str, Any],
    *,
    parquet: bool = True,
    progress: Progress | None = None,
) -> Pairs:
    """Replace `run/pairs` by the rows at the ascending positions `kept` of `scores`.

    `summary` becomes filter.json. Raises RunError when the journal is not what `scores` describe,
    or cannot be written; the old directory then stands as it was.
    """
    final, new = run / "pairs", run / ".pairs.new"
    recover_dir(final)
    remove_tree(new)
    try:
        make_dir(new)
        _write_rows(new, scores, kept, parquet=parquet, progress=progress or NullProgress())
        files = tuple(sorted(path.name for path in new.iterdir()))
        content = {"schema_version": SCHEMA_VERSION, **summary, "files": list(files)}
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_new(new / "filter.json", text.encode())
        swap_dir(new, final)
    except BaseException:
        with suppress(RunError):
            recover_dir(final)
            remove_tree(new)
        raise
    return Pairs(directory=final, rows=len(kept), files=files)


def outside_row(row: JsonRow) -> JsonRow:
    """The row for the outside world: a journal row with each response as a plain message, too."""
    return row | {
        "chosen_message": row["chosen"][0],
        "rejected_message": row["rejected"][0],
    }


def _write_rows(
    directory: Path,
    scores: Scores,
    kept: NDArray[np.intp],
    *,
    parquet: bool,
    progress: Progress,
) -> None:
    with ExitStack() as stack:
        stream = stack.enter_context(NewFile(directory / "train.jsonl"))
        lines = jsonlines.Writer(cast(IO[bytes], stream), dumps=orjson.dumps)
        table = stack.enter_context(_table(directory, scores, kept)) if parquet else None
        for done, line in enumerate(scores.lines(kept), start=1):
            row = outside_row(orjson.loads(line))
            lines.write(row)
            if table:
                table.add(row, len(line))
            if done % _PROGRESS_ROWS == 0 or done == len(kept):
                progress.count(done, len(kept), "pairs written")


def _table(directory: Path, scores: Scores, kept: NDArray[np.intp]) -> Any:
    """A Parquet writer for the kept rows; the ninth log-prob is a column where a row has it."""
    from sso_data.runs.parquet import ParquetWriter

    seen, drawn = (VIEWS.index(view) for view in OPTIONAL_SCORE)
    return ParquetWriter(
        directory,
        int(scores.rows["length"][kept].sum(dtype=np.uint64)),
        spare_cell=bool(np.isfinite(scores.rows["logp"][kept, seen, drawn]).any()),
    )
