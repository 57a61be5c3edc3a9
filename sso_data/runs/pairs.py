"""`RUN/pairs/`: the kept rows for the outside world, as JSON lines and Parquet, and filter.json.

Everything is written beside and swapped in whole; memory does not grow with the number of rows.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import jsonlines
import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.core.errors import RunError, one_line
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import OPTIONAL_SCORE, SCHEMA_VERSION, VIEWS, JsonRow
from sso_data.runs.files import NewFile, make_dir, recover_dir, remove_tree, swap_dir, write_new
from sso_data.runs.journal import read_lines
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


def read_decided(run: Path) -> dict[str, Any]:
    """filter.json of a run; RunError says how to make it."""
    file = run / "pairs" / "filter.json"
    try:
        content = orjson.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise RunError(
            f"{run}: no pairs in it; decide on them with `sso-data filter {run}`"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: not readable: {one_line(error, 200)}; {_anew(run)}") from error
    if not _is_decided(content):
        raise RunError(f"{file}: not the filter.json of a run; {_anew(run)}")
    return dict(content)


def section(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of run.json that is a mapping; an empty one where it is missing or something else."""
    found = facts.get(key)
    return found if isinstance(found, dict) else {}


def read_pairs(run: Path) -> Iterator[tuple[str, JsonRow]]:
    """(where, the outside row) of each kept row; RunError names a line that is no row of ours."""
    file = run / "pairs" / "train.jsonl"
    if not file.is_file():
        raise RunError(f"{run}: no pairs in it; decide on them with `sso-data filter {run}`")
    for number, (_, line) in enumerate(read_lines(file), start=1):
        try:
            row = orjson.loads(line)
        except ValueError as error:
            raise RunError(f"{file}:{number}: not JSON; {_anew(run)}") from error
        if not isinstance(row, dict):
            raise RunError(f"{file}:{number}: not a row; {_anew(run)}")
        yield f"{file}:{number}", row


def not_a_row(where: str, error: Exception) -> RunError:
    """The failure of a line that lacks what a row of ours has."""
    what = f"{type(error).__name__}: {one_line(error, 100)}"
    return RunError(f"{where}: not a row of ours ({what}); write it anew with `sso-data filter`")


def _is_decided(content: Any) -> bool:
    """Whether this is what `filter` writes, as far as readers rely on it."""
    try:
        stages = [stage["dropped"] + stage["left"] for stage in content["funnel"]]
        named = [stage["reason"] for stage in content["funnel"]]
        counts = [*stages, content["rows"], content["kept"], *content["dropped"].values()]
        return (
            bool(named)
            and all(isinstance(name, str) for name in (content["preset"], *named))
            and all(isinstance(count, int) for count in counts)
            and isinstance(content["thresholds"]["resolved"], dict)
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _anew(run: Path) -> str:
    return f"write it anew with `sso-data filter {run}`"
