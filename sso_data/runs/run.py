"""A run directory: run.json, the journal of rows, the failures; one writer at a time."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import orjson

from sso_data.core.errors import RunError
from sso_data.core.records import Failure, Row
from sso_data.runs.columns import row_key
from sso_data.runs.files import locked_file, make_dir, recover_dir
from sso_data.runs.journal import Journal, open_lines, read_lines, to_line
from sso_data.runs.jsonl_store import PeriodicSync
from sso_data.runs.ledger import DONE, FAILED, SEEN, Ledger, next_id
from sso_data.runs.pairs import section
from sso_data.runs.scores import Scores, load_scores
from sso_data.runs.workdir import (
    OVERWRITE,
    Manifest,
    WorkDir,
    WorkKind,
    held,
    open_workdir,
    read_manifest,
    require_manifest,
)


def _is_manifest(content: Manifest) -> bool:
    """A run.json holds the run's configuration and the day on which it was started."""
    try:
        date.fromisoformat(content["date"])
    except (KeyError, TypeError, ValueError):
        return False
    is_whole = {"schema_version", "config"} <= content.keys()
    return is_whole and isinstance(content["config"], dict) and _is_count(content.get("prompts"))


def _is_count(value: object) -> bool:
    return isinstance(value, int | None)


RUN = WorkKind(
    noun="run",
    manifest="run.json",
    files=(
        *("pairs", ".pairs.old", ".pairs.new", "report.html"),
        *("rows", "failed.jsonl", "steering.jsonl"),
    ),
    orphans=("rows", "failed.jsonl"),
    is_valid=_is_manifest,
    how_to_make="make a run with `sso-data generate PROMPTS --out {path}`",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where the prompts that came in went: `prompts = rows + failed`."""

    prompts: int
    rows: int
    failed: int

    def check(self) -> None:
        """Assert that nothing was lost."""
        if self.prompts != self.rows + self.failed:
            raise AssertionError(
                f"{self.prompts} prompts came in, but {self.rows} rows + {self.failed} failed"
            )


def read_run(run: Path) -> Manifest | None:
    """run.json, or None where there is none; RunError where it cannot be read."""
    return read_manifest(run, RUN)


def require_run(run: Path) -> Manifest:
    """run.json of an existing run; RunError says how to make one, or why it is not readable."""
    return require_manifest(run, RUN)


def iterate_failures(run: Path) -> Iterator[Failure]:
    """Every line of failed.jsonl, in the order written; RunError names one that is no failure."""
    file = run / "failed.jsonl"
    if not file.exists():
        return
    for number, (_, line) in enumerate(read_lines(file), start=1):
        try:
            yield Failure.from_json(orjson.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file}:{number}: not a failure record; remove the line") from error


def read_failures(run: Path) -> dict[str, Failure]:
    """The newest failure of each id in failed.jsonl."""
    return {failure.id: failure for failure in iterate_failures(run)}


@contextmanager
def open_run(
    path: Path,
    *,
    identity: Mapping[str, Any],
    details: Mapping[str, Any],
    overwrite: bool = False,
    remedy: str = OVERWRITE,
) -> "Iterator[Run]":
    """Start the run, or continue it when `identity` is that of the run which is there.

    `identity` is everything that decides a row's content, flat; `details` goes into run.json.
    Raises RunError that names the first differences and the `remedy`, or says that another process
    holds the run.
    """
    make_dir(path)
    with locked(path), ExitStack() as stack:
        if overwrite:
            stack.enter_context(locked(path, "pairs"))
        opened = open_workdir(
            path, RUN, identity=identity, details=details, overwrite=overwrite, remedy=remedy
        )
        stack.close()
        with locked_file(path / ".pairs.lock") as is_ours:
            if is_ours:  # undo a swap of the pairs that died half-way
                recover_dir(path / "pairs")
        run = Run(path, opened.manifest)
        try:
            yield run
        except BaseException:
            with suppress(RunError):  # what went wrong first is what the user should read
                run.close()
            raise
        run.close()


def run_account(run: Path, scores: Scores) -> Account:
    """The books of a finished or interrupted run, from its files alone."""
    done = set[int]()
    failed = {row_key(failure.id) for failure in iterate_failures(run)}
    if failed:
        done = failed.intersection(scores.keys().tolist())
    only_failed = len(failed) - len(done)
    return Account(prompts=len(scores) + only_failed, rows=len(scores), failed=only_failed)


def expected_prompts(manifest: Manifest, account: Account) -> int:
    """How many prompts a run has when it is finished: what run.json says, or what is there."""
    given = manifest.get("prompts")
    return max(given if isinstance(given, int) else 0, account.prompts)


def unfinished(manifest: Manifest, account: Account) -> str | None:
    """How far a run is that was interrupted or is being made; None for a finished one."""
    expected = expected_prompts(manifest, account)
    if account.prompts == expected:
        return None
    return f"{account.prompts} of {expected} prompts are done"


def _ledger_of(run: Path) -> Ledger:
    """Which rows of a run are done and which failed."""
    ledger = Ledger()
    for key in load_scores(run, dry=False).keys().tolist():
        ledger.mark(key, DONE)
    for failure in iterate_failures(run):
        ledger.mark(row_key(failure.id), FAILED)
    return ledger


class Run(WorkDir):
    """A run directory opened by its one writer."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        super().__init__(path, RUN, manifest)
        with ExitStack() as opened:
            self._journal = opened.enter_context(closing(Journal(path)))
            self._failed = opened.enter_context(closing(open_lines(path / "failed.jsonl")))
            self.ledger = _ledger_of(path)
            self._opened = opened.pop_all()
        self._sync = PeriodicSync(self._journal, self._failed)

    def close(self) -> None:
        """Make everything durable and close the files."""
        self._opened.close()

    def admit(self, content: str) -> tuple[str, bool]:
        """The id of the next prompt with this content hash, and whether it still has to be done."""
        identity = next_id(self.ledger, content)
        return identity, self.is_open(identity)

    def is_open(self, identity: str) -> bool:
        """Whether the prompt is neither done nor failed."""
        key = row_key(identity)
        return not (self.ledger.has(key, DONE) or self.ledger.has(key, FAILED))

    def write_row(self, row: Row) -> bytes:
        """Append a finished row to the journal; returns its `columns.SCORES` record."""
        record = self._journal.append(row)
        self.ledger.mark(row_key(row.id), DONE)
        self._sync()
        return record

    def write_failure(self, failure: Failure) -> None:
        """Append a failed prompt to failed.jsonl."""
        self._failed.append(to_line(failure.to_json()))
        self.ledger.mark(row_key(failure.id), FAILED)
        self._sync()

    def account(self) -> Account:
        """The books of the prompts that were admitted."""
        return Account(
            prompts=self.ledger.count(SEEN),
            rows=self.ledger.count(SEEN | DONE),
            failed=self.ledger.count(SEEN | FAILED, without=DONE),
        )


@contextmanager
def locked(path: Path, what: Literal["rows", "pairs", "model"] = "rows") -> Iterator[None]:
    """Hold a run's rows or its pairs, or a training's model; a crash leaves no lock behind.

    Raises RunError where another process holds them.
    """
    with held(path, what, f"its {what}"):
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Prompts as one call of `generate` read them; `settings` are the `source.*` keys that it set.

    Those with their default values are not in it.
    """

    source: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "settings": dict(self.settings)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A run by the name of its directory: the runs merged in it, and what it was given itself.

    Directories of several machines may have the same name.
    """

    run: str
    given: tuple[Given, ...]
    merged: tuple["Origin", ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in the run.json of the run that it was merged into."""
        found: dict[str, Any] = {"run": self.run, "given": [one.to_json() for one in self.given]}
        return found | ({"merged": [part.to_json() for part in self.merged]} if self.merged else {})


def origin_of(manifest: Mapping[str, Any], run: str) -> Origin:
    """The origin of a run from its run.json; where that names sources alone, with its settings."""
    merged = tuple(origin_of(part, str(part.get("run"))) for part in _mappings(manifest, "merged"))
    given = tuple(
        Given(source=str(one.get("source")), settings=section(one, "settings"))
        for one in _mappings(manifest, "given")
    )
    if not given and not merged:
        settings = section(section(manifest, "config"), "source")
        sources = manifest.get("sources")
        listed = sources if isinstance(sources, list) else []
        given = tuple(Given(source=str(source), settings=settings) for source in listed)
    return Origin(run=run, given=given, merged=merged)


def _mappings(facts: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A part of run.json that is a list of mappings; what is something else is left out."""
    found = facts.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
