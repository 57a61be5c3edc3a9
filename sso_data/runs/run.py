"""A run directory: run.json, the journal of rows, the failures; one writer at a time."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from sso_data import __version__
from sso_data.core.errors import RunError, one_line
from sso_data.core.records import SCHEMA_VERSION, Failure, Row
from sso_data.runs.columns import row_key
from sso_data.runs.files import locked_file, make_dir, recover_dir, remove_tree, write_atomic
from sso_data.runs.journal import Journal, open_lines, read_lines, to_line
from sso_data.runs.ledger import DONE, FAILED, SEEN, Ledger, next_id
from sso_data.runs.scores import Scores, load_scores

_SYNC_SECONDS = 2.0
_OURS = (
    *("pairs", ".pairs.old", ".pairs.new", "report.html"),
    *("rows", "failed.jsonl", "steering.jsonl", "run.json"),
)
"""What --overwrite deletes, run.json last: until then the directory is known for a run."""
_ROWS_OF_OURS = ("run.json", "rows", "failed.jsonl")

_ANOTHER_RUN = "use another --out, or --overwrite to start it anew"
_MANIFEST_REMEDY = "put it back from a copy, or use another --out (the rows are untouched)"
_PROMISED = {"schema_version", "identity", "config", "date"}

Manifest = dict[str, Any]


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


def read_manifest(run: Path) -> Manifest | None:
    """run.json, or None where there is none; RunError when it is not readable."""
    file = run / "run.json"
    try:
        content: Manifest = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise RunError(f"{run}: is a file, not a run directory") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(error)
        raise RunError(f"{file}: not readable: {reason}; {_MANIFEST_REMEDY}") from error
    if not _is_manifest(content):
        raise RunError(f"{file}: not the run.json of a run of sso-data; {_MANIFEST_REMEDY}")
    return content


def _is_manifest(content: object) -> bool:
    """Whether the content of a run.json is what the commands take it for."""
    if not isinstance(content, dict) or not content.keys() >= _PROMISED:
        return False
    try:
        date.fromisoformat(content["date"])
    except (TypeError, ValueError):
        return False
    sections = isinstance(content["identity"], dict) and isinstance(content["config"], dict)
    return sections and isinstance(content.get("prompts"), int | None)


def require_manifest(run: Path) -> Manifest:
    """run.json of an existing run; RunError says how to make one."""
    manifest = read_manifest(run)
    if manifest is None:
        what = "no run.json in it" if run.is_dir() else "no such directory"
        raise RunError(f"{run}: {what}; make a run with `sso-data generate PROMPTS --out {run}`")
    return manifest


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


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between a run's identity and the one asked for, one phrase a key."""
    found = []
    for key in sorted(there.keys() | here.keys()):
        old, new = there.get(key, "absent"), here.get(key, "absent")
        if old != new:
            found.append(f"{key} is {json.dumps(old)} there and {json.dumps(new)} here")
    return found


@contextmanager
def open_run(
    path: Path,
    *,
    identity: Mapping[str, Any],
    details: Mapping[str, Any],
    overwrite: bool = False,
    remedy: str = _ANOTHER_RUN,
) -> "Iterator[Run]":
    """Start the run, or continue it when `identity` is that of the run which is there.

    `identity` is everything that decides a row's content, flat; `details` goes into run.json.
    Raises RunError that names the first differences and the `remedy`, or says that another process
    holds the run.
    """
    make_dir(path)
    with locked(path):
        if overwrite and any((path / name).exists() for name in _ROWS_OF_OURS):
            _clear(path)
        else:
            _refuse_strangers(path)
            _recover_pairs(path)
        run = Run(path, _agreed_manifest(path, identity, details, remedy))
        try:
            yield run
        except BaseException:
            with suppress(RunError):  # what went wrong first is what the user should read
                run.close()
            raise
        run.close()


def _clear(path: Path) -> None:
    """Delete the run in `path`, unless another process writes its pairs."""
    with locked(path, "pairs"):
        for name in _OURS:
            remove_tree(path / name)


def _recover_pairs(path: Path) -> None:
    """Undo a swap of the pairs that died half-way; one that is being made is let be."""
    with locked_file(path / ".pairs.lock") as is_ours:
        if is_ours:
            recover_dir(path / "pairs")


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


class Run:
    """A run directory opened by its one writer; use it as a context manager."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._synced = time.monotonic()
        with ExitStack() as opened:
            self._journal = opened.enter_context(closing(Journal(path)))
            self._failed = opened.enter_context(closing(open_lines(path / "failed.jsonl")))
            self.ledger = _ledger_of(path)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Make everything durable and close the files."""
        self._opened.close()

    def get(self, key: str) -> Any:
        """A finding from run.json, or None."""
        return self.manifest.get(key)

    def set(self, key: str, value: object) -> None:
        """Put a finding into run.json."""
        if self.manifest.get(key) != value:
            self.manifest[key] = value
            _write_manifest(self.path, self.manifest)

    def admit(self, content: str) -> tuple[str, bool]:
        """The id of the next prompt with this content hash, and whether it still has to be done."""
        identity = next_id(self.ledger, content)
        return identity, self.is_open(identity)

    def is_open(self, identity: str) -> bool:
        """Whether the prompt is neither done nor failed."""
        key = row_key(identity)
        return not (self.ledger.has(key, DONE) or self.ledger.has(key, FAILED))

    def write_row(self, row: Row) -> None:
        """Append a finished row to the journal."""
        self._journal.append(row)
        self.ledger.mark(row_key(row.id), DONE)
        self._sync_now_and_then()

    def write_failure(self, failure: Failure) -> None:
        """Append a failed prompt to failed.jsonl."""
        self._failed.append(to_line(failure.to_json()))
        self.ledger.mark(row_key(failure.id), FAILED)
        self._sync_now_and_then()

    def account(self) -> Account:
        """The books of the prompts that were admitted."""
        return Account(
            prompts=self.ledger.count(SEEN),
            rows=self.ledger.count(SEEN | DONE),
            failed=self.ledger.count(SEEN | FAILED, without=DONE),
        )

    def _sync_now_and_then(self) -> None:
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._journal.sync()
            self._failed.sync()
            self._synced = time.monotonic()


def _agreed_manifest(
    path: Path, identity: Mapping[str, Any], details: Mapping[str, Any], remedy: str
) -> Manifest:
    """The run's manifest, written when the run is new; RunError when it is another run's."""
    manifest = read_manifest(path)
    if manifest is None:
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "sso_data": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": dict(identity),
            **details,
        }
        _write_manifest(path, manifest)
        return manifest
    changed = differences(manifest["identity"], identity)
    if changed:
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise RunError(f"{path}: holds another run: {'; '.join(changed[:3])}{more}; {remedy}")
    if any(manifest.get(key) != value for key, value in details.items()):
        manifest |= details
        _write_manifest(path, manifest)
    return manifest


def _write_manifest(path: Path, manifest: Manifest) -> None:
    text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"
    write_atomic(path / "run.json", text.encode())


def _refuse_strangers(path: Path) -> None:
    """RunError for a directory that is no run and not empty: it is somebody else's."""
    if (path / "run.json").exists():
        return
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    if names & {"rows", "failed.jsonl"}:
        raise RunError(f"{path}: holds rows but no run.json; use another --out or --overwrite")
    if names:
        raise RunError(
            f"{path}: not empty and not a run (it holds {sorted(names)[0]}); use another --out"
        )


@contextmanager
def locked(path: Path, what: Literal["rows", "pairs", "model"] = "rows") -> Iterator[None]:
    """Hold a run's rows or its pairs, or a training's model; a crash leaves no lock behind.

    Raises RunError when another process holds them.
    """
    with locked_file(path / f".{what}.lock") as is_ours:
        if not is_ours:
            raise RunError(f"{path}: another process is writing its {what}; wait for it or end it")
        yield
