"""`complete`: what `scoring.when=needed` did not ask for, for a filter that needs it."""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sso_data.config.run import FilterConfig, RunConfig
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import Failure, Row
from sso_data.filtering.filters import NotAskedError, decide
from sso_data.filtering.refilter import Refiltered, filter_again, last_decision
from sso_data.generation.generate import make_rows, prepare
from sso_data.runs.columns import Rows, lacking
from sso_data.runs.files import remove_tree
from sso_data.runs.journal import Journal, load_scores, replace_rows
from sso_data.runs.jsonl import PeriodicSync
from sso_data.runs.run import COMPLETED, RUN, require_run
from sso_data.runs.workdir import locked, open_workdir

_REMEDY = "`complete` uses the run's own settings: leave these out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The result of `complete`: rows made whole by this call, and those that the engine refused."""

    refiltered: Refiltered
    rows: int
    refused: tuple[Failure, ...]
    seconds: float


class _WholeRows:
    """A journal of its own for rows that are whole now, until all are: a sink of the pipeline."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self._sync = PeriodicSync(self._journal.sync)
        self.refused: list[Failure] = []

    def admit(self, content: str, samples: int) -> list[tuple[str, bool]]:
        raise NotImplementedError("no prompt comes in")

    def write_row(self, row: Row, record: Rows | None = None) -> bytes:
        stored = self._journal.append(row, record)
        self._sync()
        return stored

    def write_failure(self, failure: Failure) -> None:
        self.refused.append(failure)  # the row stays as it is

    def close(self) -> None:
        self._journal.close()


def complete(
    out: Path, config: RunConfig, progress: Progress | None = None, *, asked: bool = False
) -> Completed:
    """Make what was not asked for of the rows of `out`, then filter it again.

    That is of all rows; or, where the user `asked` for the filter of `config`, of those that it
    needs. Seeds are the rows' own, so that they end as with `scoring.when=all`. Whole rows are kept
    in a journal beside that of the run until all are there, then they take their places. A row that
    the engine refuses stays as it is. Raises ConfigError, ModelError, EngineError or RunError.
    """
    started = time.monotonic()
    progress = progress or NullProgress()
    manifest, made, refused = require_run(out), 0, list[Failure]()
    last_decision(out)  # raises, before any work, for one that was changed
    beside = out / COMPLETED
    if beside.exists() or len(_wanted(load_scores(out, dry=True).rows, config, asked=asked)):
        progress.phase("checking the model and its chat template")
        setup = prepare(config, date=manifest["date"], progress=progress)
        details = {key: manifest[key] for key in ("config", "date")}
        with locked(out, "rows"):
            work = open_workdir(
                out,
                RUN,
                identity=setup.identity,
                details=details,
                remedy=_REMEDY,
                config=config.model_dump(mode="json"),
            )
            scores = load_scores(out, dry=False, whole=True)
            with closing(_WholeRows(beside)) as sink:
                done = load_scores(beside, dry=True).keys()
                wanted = _wanted(scores.rows, config, asked=asked)
                todo = wanted[~np.isin(scores.keys()[wanted], done)]
                progress.note(f"{len(todo)} rows to complete")
                rows, total = scores.read(todo), len(todo)
                counts = make_rows(None, setup, sink, work, progress, total=total, lacking=rows)
                made, refused = counts.rows, sink.refused
            replace_rows(out, load_scores(beside, dry=True))
            remove_tree(beside)
    progress.phase("filtering")
    return Completed(
        refiltered=filter_again(out, config, progress, asked=asked, by_filter=asked),
        rows=made,
        refused=tuple(refused),
        seconds=time.monotonic() - started,
    )


def _wanted(rows: Rows, config: RunConfig, *, asked: bool) -> NDArray[np.intp]:
    """Return the positions of the rows to complete, ascending."""
    return undecided(rows, config.filter) if asked else np.flatnonzero(lacking(rows))


def undecided(rows: Rows, config: FilterConfig) -> NDArray[np.intp]:
    """Return the positions of the rows about which a filter cannot decide, ascending."""
    try:
        decide(rows, config)
    except NotAskedError as error:
        return error.positions
    return np.empty(0, np.intp)
