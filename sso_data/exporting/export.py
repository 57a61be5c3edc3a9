"""Write a run's pairs, or its answers, in the format of another program."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sso_data.config.loading import validated
from sso_data.config.run import RunConfig
from sso_data.config.training import TrainConfig
from sso_data.core.errors import ConfigError, InputError, RunError, one_line
from sso_data.core.paths import public_name, real_path
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import VIEWS, JsonRow, Row, View
from sso_data.exporting.formats import Format, format_of
from sso_data.exporting.output import RowsWriter, mark_as_ours, new_directory
from sso_data.exporting.recipes import FEW_STEPS, ExportJob
from sso_data.filtering.refilter import doubt_about, why_nothing
from sso_data.runs.files import write_new
from sso_data.runs.journal import NOT_A_ROW, load_scores
from sso_data.runs.pairs import not_a_row, read_decided, read_pairs
from sso_data.runs.run import expected_rows, require_run, run_account
from sso_data.runs.workdir import section

_PROGRESS_ROWS = 256
_LONGEST_NAME = 100
_NAME = re.compile(r"\w[\w. +-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The result of an export: `rows = exported + skipped by reason`.

    `holds` says what the rows are, pairs or answers; `files` are the data and recipe files in
    `directory`; `notes` are findings that the user should know; `next` is the command to run.
    """

    directory: Path
    format: str
    holds: str
    rows: int
    exported: int
    skipped: Mapping[str, int]
    files: tuple[str, ...]
    notes: tuple[str, ...]
    next: str

    def __post_init__(self) -> None:
        if self.rows != self.exported + sum(self.skipped.values()):
            raise AssertionError(f"{self.rows} rows, but {self.exported} + {dict(self.skipped)}")

    @property
    def account(self) -> str:
        """The counts in one line."""
        parts = "".join(f" + {count} {reason}" for reason, count in self.skipped.items())
        return f"{self.holds} {self.rows} = exported {self.exported}{parts}"


def export(
    run: Path,
    to: str,
    out: Path,
    *,
    drawn: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write the rows of `run` in the format `to` into the new directory `out`.

    `drawn` (plain, good, bad) and `name` (of the model) are for the formats that hold answers.
    Raises SsoDataError for a user's mistake; `out` is then as it was.
    """
    progress = progress or NullProgress()
    wanted = format_of(to)
    manifest = require_run(run)
    decided = read_decided(run) if wanted.holds == "pairs" else None
    job = _job_of(run, out, manifest, decided, wanted, drawn=drawn, name=name)
    source = _answers(run, manifest) if decided is None else _pairs(run, decided)
    counts = _Counts(wanted, job.drawn)
    doubt = doubt_about(str(run)) if decided else None
    with new_directory(out, overwrite=overwrite) as directory:
        progress.phase("exporting")
        _write(directory, job, wanted, source, counts, progress)
        if counts.rows != source.total:
            raise RunError(f"{run}: changed while it was read; run the same command again")
        if not counts.exported:
            parts = ", ".join(f"{count} {reason}" for reason, count in counts.skipped.items())
            raise InputError(
                f"{run}: none of its {counts.rows} {wanted.holds} can be exported ({parts}): "
                f"{wanted.name} accepts only {wanted.wants}"
            )
        job = replace(job, pairs=counts.exported)
        for file, text in wanted.texts(job).items():
            write_new(directory / file, text.encode())
        facts: dict[str, Any] = {
            "sso_data": manifest.get("sso_data"),
            "format": wanted.name,
            "model": public_name(job.config.model),
            "model_fingerprint": section(manifest, "identity").get("model"),
            wanted.holds: counts.rows,
            "exported": counts.exported,
            "skipped": dict(counts.skipped),
        }
        facts |= {"drawn": job.drawn, "name": job.name} if decided is None else {}
        files = mark_as_ours(directory, facts)
    return Exported(
        directory=out,
        format=to,
        holds=wanted.holds,
        rows=counts.rows,
        exported=counts.exported,
        skipped=dict(counts.skipped),
        files=files,
        notes=(
            *counts.notes(source.missing),
            *_steps(wanted, job),
            *([f"warning: {doubt}"] if doubt else []),
        ),
        next=wanted.command(job),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The rows to export, one after the other, and how many there are.

    `missing` counts the prompts that have no row: they failed, or are still to be done.
    """

    total: int
    rows: Iterator[Row]
    missing: int = 0


def _pairs(run: Path, decided: Mapping[str, Any]) -> _Source:
    """The rows that `filter` kept; InputError where it kept none."""
    if not decided["kept"]:
        raise InputError(f"{run}: the filter kept nothing to export; {why_nothing(run)}")
    return _Source(total=decided["kept"], rows=(_row(row, where) for where, row in read_pairs(run)))


def _answers(run: Path, manifest: dict[str, Any]) -> _Source:
    """Every row of the journal, kept or not: an answer needs no other one to be a good pair."""
    scores = load_scores(run, dry=True)
    if not len(scores):
        raise InputError(f"{run}: no row is finished yet; there is nothing to export")
    account = run_account(run, scores)
    lines = scores.lines(np.arange(len(scores)))
    return _Source(
        total=len(scores),
        rows=(_row(orjson.loads(line), str(run / "rows")) for line in lines),
        missing=expected_rows(manifest, account) - account.rows,
    )


def _row(row: JsonRow, where: str) -> Row:
    try:
        return Row.from_json(row)
    except NOT_A_ROW as error:
        raise not_a_row(where, error) from error


class _Counts:
    """Counts the rows of an export as they come."""

    def __init__(self, wanted: Format, drawn: View) -> None:
        self._format = wanted
        self._drawn = drawn
        self._seen = set[object]()
        self.rows = self.exported = 0
        self._doubtful = self._cut_off = 0
        self.skipped = Counter[str]()

    def takes(self, row: Row) -> bool:
        """Count a row; returns whether it is exported."""
        self.rows += 1
        reason = self._format.unfit(row) if self._drawn in row.responses else "not_asked_for"
        if not reason and self._format.once is not None:
            key = self._format.once(row)
            reason = "repeated_question" if key in self._seen else None
            self._seen.add(key)
        if reason:
            self.skipped[reason] += 1
            return False
        self.exported += 1
        self._doubtful += self._format.doubtful is not None and self._format.doubtful(row)
        self._cut_off += row.responses[self._drawn].finish_reason != "stop"
        return True

    def notes(self, missing: int) -> Iterator[str]:
        """Findings about rows that were left out, cut off or are doubtful in this format."""
        holds = self._format.holds
        if unfit := self.skipped.total() - self.skipped["not_asked_for"]:
            yield (
                f"{unfit} of {self.rows} {holds} were left out: "
                f"{self._format.name} accepts only {self._format.wants}"
            )
        if self.skipped["not_asked_for"]:
            yield (
                f"{self.skipped['not_asked_for']} of {self.rows} rows have no such answer, so that "
                "the others are no sample of all rows (scoring.when=needed); "
                "`sso-data complete` makes them"
            )
        if self._doubtful:
            yield f"{self._doubtful} of the exported {holds} {self._format.doubt}"
        if holds == "answers" and self._cut_off:
            yield f"{self._cut_off} of the exported answers were cut off (sampling.max_tokens)"
        if missing:
            yield f"{missing} prompts have no answer: they failed, or are still to be done"


def _steps(wanted: Format, job: ExportJob) -> Iterator[str]:
    """Say how many steps the recipe makes of the pairs, and when they are few."""
    if wanted.recipes and wanted.name != "autoalign":  # whose script has batches of its own
        rows = TrainConfig().optim.batch_size
        few = "few: the model will hardly change; make more pairs, or take a smaller batch"
        yield (
            f"{job.pairs} pairs are {job.steps} step{'s' * (job.steps != 1)} of {rows} rows on one "
            f"device{f' ({few})' if job.steps < FEW_STEPS else ''}"
        )


def _write(
    directory: Path,
    job: ExportJob,
    wanted: Format,
    source: _Source,
    counts: _Counts,
    progress: Progress,
) -> None:
    """Write each row to each file; RunError for one whose metadata or arguments are no JSON."""
    with ExitStack() as stack:
        files: list[tuple[RowsWriter, Callable[[Row], JsonRow]]] = [
            (stack.enter_context(RowsWriter(directory / file)), partial(convert, job))
            for file, convert in wanted.converters(job).items()
        ]
        for row in source.rows:
            try:
                converted = [convert(row) for _, convert in files] if counts.takes(row) else []
            except (ValueError, TypeError, AttributeError) as error:
                raise not_a_row(f"row {row.id}", error) from error
            for (writer, _), outside in zip(files, converted, strict=False):
                writer.write(outside)
            if counts.rows % _PROGRESS_ROWS == 0 or counts.rows == source.total:
                progress.count(counts.rows, source.total, wanted.holds)


def _job_of(
    run: Path,
    out: Path,
    manifest: Mapping[str, Any],
    decided: Mapping[str, Any] | None,
    wanted: Format,
    *,
    drawn: str | None,
    name: str | None,
) -> ExportJob:
    """The export that the options ask for; ConfigError for one that is wrong or has no effect."""
    if wanted.holds == "pairs" and (drawn or name):
        given = "--drawn" if drawn else "--name"
        raise ConfigError(f"{given} is for the formats of answers, not for {wanted.name}")
    view = next((view for view in VIEWS if view == (drawn or "plain")), None)
    if view is None:
        raise ConfigError(f"--drawn {drawn}: must be one of {', '.join(VIEWS)}")
    if name and (not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME):
        raise ConfigError(
            f"--name {one_line(name, 100)}: use letters, digits, '.', '-' and '_' only, at most "
            f"{_LONGEST_NAME} characters (it becomes a file name)"
        )
    config = validated(RunConfig, manifest["config"], origin=str(run / "run.json"), given={})
    if wanted.shows_system and config.steering.placement != "system":
        raise ConfigError(
            f"--to {wanted.name}: holds the principles as system messages only, and this run has "
            f"steering.placement={config.steering.placement}; train on it with `sso-data train`, "
            "or export the pairs alone, for example --to trl"
        )
    template = section(manifest, "template")
    try:
        made = datetime.fromisoformat(manifest["created"]).timestamp()
    except (KeyError, TypeError, ValueError):
        made = 0.0
    funnel = decided["funnel"][-1] if decided else {}
    lengths = (funnel.get(f"mean_tokens_{side}") for side in ("chosen", "rejected"))
    known = [float(length) for length in lengths if length is not None]
    return ExportJob(
        directory=real_path(out),
        config=config,
        drawn=view,
        name=name or model_name(config.model, view),
        template_kwargs=dict(section(template, "template_kwargs")),
        folded=template.get("system_role") == "folded",
        date=template.get("date"),
        made=made,
        mean_tokens=sum(known) / len(known) if known else 0.0,
    )


def model_name(model: str, drawn: View = "plain") -> str:
    """The last part of the model's name, in characters that a file name can have."""
    last = public_name(model).rpartition("/")[2].partition(":")[0]
    safe = re.sub(r"[^\w.+-]+", "-", last).strip("-.")[:_LONGEST_NAME] or "model"
    return safe if drawn == "plain" else f"{safe}-{drawn}"
