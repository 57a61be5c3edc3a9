"""`RUN/pairs/`: the kept rows for the outside world, as JSON lines and Parquet, and filter.json.

All of it is written to a new directory, which then replaces the old one; memory does not grow with
the number of rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, cast

import jsonlines
import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.core.errors import RunError, one_line
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import OPTIONAL_SCORE, SCHEMA_VERSION, VIEWS, JsonRow
from sso_data.runs.checksums import changed, recorded_in, sha256_of
from sso_data.runs.columns import row_key
from sso_data.runs.files import NewFile, make_dir, recover_dir, remove_tree, swap_dir, write_new
from sso_data.runs.journal import Scores, load_scores
from sso_data.runs.jsonl import read_lines, read_objects
from sso_data.runs.workdir import read_json, refuse_later_format, sealed_json

_PROGRESS_ROWS = 256
_NO_PAIRS = "{run}: no pairs in it; decide on them with `sso-data filter {run}`"
_REWRITE = "write it again with `sso-data filter {run}`"
CHECKSUMS = "sha256"
"""Key of filter.json: the checksums of the files beside it, as `sha256sum` prints them."""


def write_pairs(
    run: Path,
    scores: Scores,
    kept: NDArray[np.intp],
    summary: Mapping[str, Any],
    *,
    parquet: bool = True,
    progress: Progress | None = None,
) -> None:
    """Replace `run/pairs` by the rows at the ascending positions `kept` of `scores`.

    `summary` becomes filter.json. Raises RunError when the journal is not what `scores` describe,
    or the pairs cannot be written; the old directory is kept then.
    """
    final, new = run / "pairs", run / ".pairs.new"
    recover_dir(final)
    remove_tree(new)
    try:
        make_dir(new)
        _write_rows(new, scores, kept, parquet=parquet, progress=progress or NullProgress())
        files = sorted(path.name for path in new.iterdir())
        sums = {path.name: digest for path, digest in sha256_of(new / f for f in files).items()}
        content = {"schema_version": SCHEMA_VERSION, **summary, "files": files, CHECKSUMS: sums}
        write_new(new / "filter.json", sealed_json(content))
        swap_dir(new, final)
    except BaseException:
        with suppress(RunError):
            recover_dir(final)
            remove_tree(new)
        raise


def _write_rows(
    directory: Path, scores: Scores, kept: NDArray[np.intp], *, parquet: bool, progress: Progress
) -> None:
    with ExitStack() as stack:
        stream = stack.enter_context(NewFile(directory / "train.jsonl"))
        lines = jsonlines.Writer(cast(IO[bytes], stream), dumps=orjson.dumps)
        table = None
        if parquet:
            from sso_data.runs.parquet import ParquetWriter

            total_bytes = int(scores.rows["length"][kept].sum(dtype=np.uint64))
            present = _optional_columns(scores, kept)
            table = stack.enter_context(ParquetWriter(directory, total_bytes, present=present))
        for done, line in enumerate(scores.lines(kept), start=1):
            row = outside_row(orjson.loads(line))
            lines.write(row)
            if table:
                table.add(row, len(line))
            if done % _PROGRESS_ROWS == 0 or done == len(kept):
                progress.count(done, len(kept), "pairs written")


def _optional_columns(scores: Scores, kept: NDArray[np.intp]) -> set[str]:
    """Return the names of columns that not every run has, as far as a kept row has them.

    The placement of a run's principles is the same in all rows.
    """
    present = set[str]().union(*(orjson.loads(line) for line in scores.lines(kept[:1])))
    seen, drawn = (VIEWS.index(view) for view in OPTIONAL_SCORE)
    if np.isfinite(scores.rows["logp"][kept, seen, drawn]).any():
        present.add(f"logp_{VIEWS[seen]}_{VIEWS[drawn]}")
    if scores.rows["sample"][kept].any():
        present.add("sample")
    return present


def outside_row(row: JsonRow) -> JsonRow:
    """Return a journal row with chosen and rejected also as single messages, for other programs."""
    return row | {
        "chosen_message": row["chosen"][0],
        "rejected_message": row["rejected"][0],
    }


def read_pairs(run: Path) -> Iterator[tuple[str, JsonRow]]:
    """Yield ("FILE:LINE", outside row) of each kept row.

    Raises RunError when there are no pairs, they are not those that `filter` wrote, or a line of
    them is not a JSON object.
    """
    file = run / "pairs" / "train.jsonl"
    if not file.is_file():
        raise RunError(_NO_PAIRS.format(run=run))
    check_pairs(file.parent, file.name)
    yield from read_objects(file, _REWRITE.format(run=run))


def check_pairs(directory: Path, *names: str) -> None:
    """Raise RunError where files of pairs are not as `filter` wrote them; all, or those named.

    Pairs of versions before 0.2.0 have no checksums and are taken as they are.
    """
    rewrite = f"; {_REWRITE.format(run=directory.parent)}"
    content = read_json(directory / "filter.json", what="a filter.json", remedy=rewrite) or {}
    recorded = recorded_in(content, CHECKSUMS)
    wanted = {name: one for name, one in recorded.items() if not names or name in names}
    for name in changed(directory, wanted):
        run, line = directory.parent, ""
        if name == "train.jsonl" and (directory / name).is_file() and (run / "rows").is_dir():
            line = _first_changed(directory / name, run)
        raise RunError(
            f"{directory / name}{line}: is not as `filter` wrote it; "
            f"{_REWRITE.format(run=run)}; to train on edited pairs, copy {name} out of "
            f"{directory} and give the copy's path"
        )


def check_source(source: str) -> None:
    """Raise RunError where `source` is a run or pairs of one, and they were changed."""
    path = Path(source)
    if not source.strip():
        return
    if (path / "run.json").is_file():
        check_pairs(path / "pairs", "train.jsonl")
    elif path.is_dir():
        check_pairs(path)
    elif path.is_file():
        check_pairs(path.parent, path.name)


def _first_changed(file: Path, run: Path) -> str:
    """Return ":LINE" of the first pair that is not the journal's row; "" where each of them is."""
    scores = load_scores(run, dry=True)
    places = {key: position for position, key in enumerate(scores.keys().tolist())}
    for number, (_, line) in enumerate(read_lines(file), start=1):
        try:
            row = orjson.loads(line)
            place = np.array([places[row_key(row["id"])]])
            if row != outside_row(orjson.loads(next(scores.lines(place)))):
                return f":{number}"
        except (ValueError, KeyError, TypeError, AttributeError):
            return f":{number}"
    return ""


def not_a_row(where: str, error: Exception) -> RunError:
    """Return the error of a line of pairs that lacks a field of a row, or has it malformed."""
    what = f"{type(error).__name__}: {one_line(error, 100)}"
    return RunError(f"{where}: not a row ({what}); write it again with `sso-data filter`")


def read_decided(run: Path) -> dict[str, Any]:
    """Return the content of a run's filter.json.

    Raises RunError when there is none, or it is not what `filter` writes.
    """
    file, rewrite = run / "pairs" / "filter.json", _REWRITE.format(run=run)
    content = read_json(file, what="the filter.json of a run", remedy=f"; {rewrite}")
    if content is None:
        raise RunError(_NO_PAIRS.format(run=run))
    refuse_later_format(file, content, known=SCHEMA_VERSION)
    try:
        stages = [stage["dropped"] + stage["left"] for stage in content["funnel"]]
        named = [stage["reason"] for stage in content["funnel"]]
        counts = [*stages, content["rows"], content["kept"], *content["dropped"].values()]
        is_valid = (
            bool(named)
            and all(isinstance(name, str) for name in (content["preset"], *named))
            and all(isinstance(count, int) for count in counts)
            and isinstance(content["thresholds"]["resolved"], dict)
        )
    except (KeyError, TypeError, AttributeError):
        is_valid = False
    if not is_valid:
        raise RunError(f"{file}: not the filter.json of a run; {rewrite}")
    return content
