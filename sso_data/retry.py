"""`retry`: the prompts of failed.jsonl once more, and nothing else."""

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sso_data.columns import row_key
from sso_data.config import RunConfig
from sso_data.generate import Listener, Summary, make_rows, prepare, run_guide
from sso_data.pipeline import unanswerable
from sso_data.records import Failure, Prompt, Row, content_hash
from sso_data.refilter import refilter
from sso_data.sources import Candidate
from sso_data.store.ledger import DONE
from sso_data.store.run import Run, open_run, read_failures, require_manifest

_MALFORMED = "malformed"


class _FailedPrompts:
    """A run's failed prompts as a source, and the sink for what becomes of them.

    A prompt keeps the id under which it failed. Rows of the input that were no prompts at all are
    left out: there is nothing to ask.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._failures = {
            identity: failure
            for identity, failure in read_failures(run.path).items()
            if failure.reason != _MALFORMED and not run.ledger.has(row_key(identity), DONE)
        }
        self._ids: dict[str, deque[str]] = defaultdict(deque)

    def __len__(self) -> int:
        return len(self._failures)

    def candidates(self) -> Iterator[Candidate]:
        """The prompts, in the order in which they failed first."""
        for identity, failure in self._failures.items():
            self._ids[content_hash(failure.messages)].append(identity)
            yield Candidate(
                messages=failure.messages,
                source_id=failure.source_id,
                metadata=failure.metadata,
                where=f"{self._run.path / 'failed.jsonl'}: {identity}",
            )

    def prompts(self) -> Iterator[Prompt]:
        """Those that can be steered, under the ids that they have."""
        for identity, failure in self._failures.items():
            if unanswerable(failure.messages) is None:
                yield Prompt(id=identity, messages=failure.messages)

    def admit(self, content: str) -> tuple[str, bool]:
        return self._ids[content].popleft(), True

    def write_row(self, row: Row) -> None:
        self._run.write_row(row)

    def write_failure(self, failure: Failure) -> None:
        attempts = self._failures[failure.id].attempts + 1
        self._run.write_failure(replace(failure, attempts=attempts))


def retry(out: Path, config: RunConfig, listener: Listener) -> Summary:
    """Run what failed in `out` with the run's own settings; then filter and write its pairs anew.

    Of the configuration, speed and output may differ from the run's. Raises SsoDataError; a prompt
    that fails again stands in failed.jsonl once more, with one more attempt.
    """
    started = time.monotonic()
    manifest = require_manifest(out)
    listener.phase("checking the model and its chat template")
    setup = prepare(config, date=manifest["date"])
    details = {key: manifest[key] for key in ("config", "date")}
    with open_run(out, identity=setup.identity, details=details) as run:
        failed = _FailedPrompts(run)
        listener.total(len(failed))
        with run_guide(setup, run, failed.prompts) as guide:
            prompts = failed.candidates()
            progress = make_rows(prompts, setup, failed, run, listener, guide=guide)
    listener.phase("filtering")
    refiltered = refilter(out, config, on_progress=listener.written)
    return Summary(
        account=refiltered.account,
        progress=progress,
        seconds=time.monotonic() - started,
        decision=refiltered.decision,
        steering=guide.tally if guide else None,
    )
