"""`retry`: run the prompts of failed.jsonl again, and nothing else."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sso_data.config.run import RunConfig
from sso_data.core.errors import RunError
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import Failure, Prompt, Row, content_hash
from sso_data.filtering.refilter import Refiltered, filter_again, last_decision, refilter
from sso_data.generation.generate import make_rows, prepare, run_guide
from sso_data.generation.pipeline import RowCounts
from sso_data.prompts import Candidate
from sso_data.prompts.rows import unanswerable
from sso_data.runs.columns import Rows, row_key
from sso_data.runs.journal import load_scores
from sso_data.runs.run import Run, open_run, read_failures, require_run
from sso_data.steering.counts import SteeringCounts

_REMEDY = "`retry` uses the run's own settings: leave these out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """The result of `retry`; `no_prompts` failed rows were malformed, and left out.

    `again`: prompts that failed again, by reason.
    """

    refiltered: Refiltered
    counts: RowCounts
    seconds: float
    no_prompts: int
    again: Mapping[str, int] = field(default_factory=dict)
    steering: SteeringCounts | None = None


class _FailedPrompts:
    """A run's failed prompts as a source, and the sink for their results, under the same ids."""

    def __init__(self, run: Run, failures: Mapping[str, Failure]) -> None:
        self._run = run
        self._failures = failures
        self._ids: dict[str, deque[str]] = defaultdict(deque)
        self.again: Counter[str] = Counter()

    def candidates(self) -> Iterator[Candidate]:
        """Yield the prompts, in the order in which they failed first."""
        for identity, failure in self._failures.items():
            self._ids[content_hash(failure.messages)].append(identity)
            yield Candidate(
                messages=failure.messages,
                source_id=failure.source_id,
                metadata=failure.metadata,
                where=f"{self._run.path / 'failed.jsonl'}: {identity}",
            )

    def prompts(self) -> Iterator[Prompt]:
        """Yield the prompts that can be steered, with their ids."""
        for identity, failure in self._failures.items():
            if unanswerable(failure.messages) is None:
                yield Prompt(id=identity, messages=failure.messages)

    def admit(self, content: str, samples: int) -> list[tuple[str, bool]]:
        return [(self._ids[content].popleft(), True)]  # each failed sample is a candidate

    def write_row(self, row: Row, record: Rows | None = None) -> bytes:
        return self._run.write_row(row, record)

    def write_failure(self, failure: Failure) -> None:
        self.again[failure.reason] += 1
        attempts = self._failures[failure.id].attempts + 1
        self._run.write_failure(replace(failure, attempts=attempts))


def _failed_in(run: Path) -> tuple[dict[str, Failure], int]:
    """Return the failures by id that are not rows by now, and the number of malformed rows.

    Malformed rows of the source are left out: they cannot be run. Raises RunError when the files
    are not readable.
    """
    newest = read_failures(run)
    keys = np.array([row_key(identity) for identity in newest], np.uint64)
    is_done = np.isin(keys, load_scores(run, dry=True).keys())
    failures = [one for one, done in zip(newest.values(), is_done, strict=True) if not done]
    prompts = {failure.id: failure for failure in failures if failure.reason != "malformed"}
    return prompts, len(failures) - len(prompts)


def retry(
    out: Path, config: RunConfig, progress: Progress | None = None, *, asked: bool = False
) -> Retried:
    """Run the failed prompts of `out` with the run's own settings; then filter it again.

    Of the configuration, speed, filter and output may differ from the run's; unless the user
    `asked` for the filter's, a decision of `filter` stays in force. If no prompt failed, nothing is
    done. A prompt that fails again gets another line in failed.jsonl, with one more attempt.
    Raises ConfigError, ModelError, EngineError or RunError.
    """
    started = time.monotonic()
    progress = progress or NullProgress()
    manifest = require_run(out)
    last_decision(out)  # raises, before any work, for one that was changed
    with suppress(RunError):  # files damaged by a crash are repaired when the run is opened
        failed, no_prompts = _failed_in(out)
        if not failed:
            return Retried(
                refiltered=refilter(out, config, dry_run=True),
                counts=RowCounts(),
                seconds=time.monotonic() - started,
                no_prompts=no_prompts,
            )
    progress.phase("checking the model and its chat template")
    setup = prepare(config, date=manifest["date"], progress=progress)
    details = {key: manifest[key] for key in ("config", "date")}
    now = config.model_dump(mode="json")
    opened = open_run(out, identity=setup.identity, details=details, remedy=_REMEDY, config=now)
    with opened as run:
        failed, no_prompts = _failed_in(out)
        prompts = _FailedPrompts(run, failed)
        total = len(failed)
        progress.note(f"{total} failed prompts")
        with run_guide(setup, run, prompts.prompts, total) as guide:
            candidates = prompts.candidates()
            counts = make_rows(candidates, setup, prompts, run, progress, guide=guide, total=total)
    progress.phase("filtering")
    refiltered = filter_again(out, config, progress, asked=asked, by_filter=asked)
    return Retried(
        refiltered=refiltered,
        counts=counts,
        seconds=time.monotonic() - started,
        no_prompts=no_prompts,
        again=prompts.again,
        steering=guide.counts if guide else None,
    )
