"""`export`: a run's pairs, or its answers, as files that other programs read, with a recipe."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sso_data.core.errors import InputError, RunError
from sso_data.core.naming import public_name
from sso_data.core.records import JsonRow, Row
from sso_data.exporting.formats import DataFile, ExportJob, Format, format_of
from sso_data.exporting.job import job_of
from sso_data.exporting.output import mark_as_ours, new_directory, open_writers, write_texts
from sso_data.exporting.tally import ExportCounts, Exported
from sso_data.runs.decided import not_a_row, read_decided, read_pairs, section
from sso_data.runs.run import require_run, run_account
from sso_data.runs.scores import load_scores

Progress = Callable[[int, int, str], None]
"""Called with (rows looked at, rows to look at, what they are)."""

_PROGRESS_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The rows to export, one after the other, and how many there are.

    `missing` counts the prompts that have no row: they failed, or are still to be done.
    """

    total: int
    rows: Iterator[Row]
    missing: int = 0


def export(
    run: Path,
    to: str,
    out: Path,
    *,
    drawn: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Exported:
    """Write the rows of `run` in the format `to` into the new directory `out`.

    `drawn` (plain, good, bad) and `name` (of the model) are for the formats that hold answers.
    Raises SsoDataError for what the user can put right; `out` is then as it was.
    """
    wanted = format_of(to)
    manifest = require_run(run)
    decided = read_decided(run) if wanted.holds == "pairs" else None
    job = job_of(run, out, manifest, decided, wanted, drawn=drawn, name=name)
    source = _answers(run, manifest) if decided is None else _pairs(run, decided)
    tally = ExportCounts(wanted, job.drawn)
    with new_directory(out, overwrite=overwrite) as directory:
        _write(directory, job, wanted, source, tally, on_progress)
        if tally.rows != source.total:
            raise RunError(f"{run}: changed while it was read; run the same command again")
        if not tally.exported:
            raise InputError(tally.nothing(run))
        write_texts(directory, wanted.texts(job))
        files = tuple(sorted(path.name for path in directory.iterdir()))
        mark_as_ours(directory, _facts(manifest, wanted, job, tally))
    missing = [f"{source.missing} prompts have no answer: they failed, or are still to be done"]
    return Exported(
        directory=out,
        format=to,
        holds=wanted.holds,
        rows=tally.rows,
        exported=tally.exported,
        skipped=dict(tally.skipped),
        files=files,
        notes=(*tally.notes(), *(missing if source.missing else ())),
        next=wanted.command(job),
    )


def _write(
    directory: Path,
    job: ExportJob,
    wanted: Format,
    source: Source,
    tally: ExportCounts,
    on_progress: Progress | None,
) -> None:
    files = wanted.files(job)
    with ExitStack() as stack:
        writers = open_writers(stack, directory, files)
        for row in source.rows:
            for writer, converted in zip(writers, _converted(row, files, tally), strict=False):
                writer.write(converted)
            done = tally.rows
            if on_progress and (done % _PROGRESS_ROWS == 0 or done == source.total):
                on_progress(done, source.total, wanted.holds)


def _converted(row: Row, files: tuple[DataFile, ...], tally: ExportCounts) -> list[JsonRow]:
    """The row for each file; nothing where the format cannot hold it.

    RunError for a row whose metadata or template arguments are no JSON.
    """
    try:
        return [file.convert(row) for file in files] if tally.takes(row) else []
    except (ValueError, TypeError, AttributeError) as error:
        raise not_a_row(f"row {row.id}", error) from error


def _pairs(run: Path, decided: Mapping[str, Any]) -> Source:
    """The rows that `filter` kept; InputError where it kept none."""
    if not decided["kept"]:
        raise InputError(
            f"{run}: the filter kept nothing to export; loosen it, e.g. `sso-data filter {run} "
            "--set filter.closeness=q0.8 --set filter.gap=q0.2`"
        )
    return Source(total=decided["kept"], rows=(_row(row, where) for where, row in read_pairs(run)))


def _answers(run: Path, manifest: Mapping[str, Any]) -> Source:
    """Every row of the journal, kept or not: an answer needs no other one to be a good pair."""
    scores = load_scores(run, dry=True)
    if not len(scores):
        raise InputError(f"{run}: no row is finished yet; there is nothing to export")
    account = run_account(run, scores)
    lines = scores.lines(np.arange(len(scores)))
    return Source(
        total=len(scores),
        rows=(_row(orjson.loads(line), str(run / "rows")) for line in lines),
        missing=max(_prompts(manifest), account.prompts) - account.rows,
    )


def _prompts(manifest: Mapping[str, Any]) -> int:
    given = manifest.get("prompts")
    return given if isinstance(given, int) else 0


def _row(row: JsonRow, where: str) -> Row:
    try:
        return Row.from_json(row)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise not_a_row(where, error) from error


def _facts(
    manifest: Mapping[str, Any], wanted: Format, job: ExportJob, tally: ExportCounts
) -> dict[str, Any]:
    """export.json: what was exported, of which run."""
    facts: dict[str, Any] = {
        "sso_data": manifest.get("sso_data"),
        "format": wanted.name,
        "model": public_name(job.recipe.config.model),
        "model_fingerprint": section(manifest, "identity").get("model"),
        wanted.holds: tally.rows,
        "exported": tally.exported,
        "skipped": dict(tally.skipped),
    }
    return facts | ({"drawn": job.drawn, "name": job.name} if wanted.holds == "answers" else {})
