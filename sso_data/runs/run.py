"""A run directory: run.json, the journal of rows, the failures, and the count of prompts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.core.errors import RunError, one_line
from sso_data.core.records import Failure, Row, content_hash, split_sample
from sso_data.runs.columns import Rows, prompt_keys, row_key
from sso_data.runs.files import closing_on_error, locked_file, make_dir, recover_dir, write_atomic
from sso_data.runs.journal import Journal, Scores, load_scores
from sso_data.runs.jsonl import PeriodicSync, open_lines, read_lines, to_line
from sso_data.runs.ledger import DONE, ELSEWHERE, FAILED, SEEN, Ledger
from sso_data.runs.tokens import TOKENS
from sso_data.runs.workdir import (
    OVERWRITE,
    Manifest,
    WorkDir,
    WorkKind,
    locked,
    open_workdir,
    read_manifest,
    require_manifest,
    section,
)


def _is_manifest(content: Manifest) -> bool:
    """Return True for a run.json with the run's configuration and the day of its start."""
    try:
        date.fromisoformat(content["date"])
        is_whole = isinstance(content["config"], dict) and "schema_version" in content
        return is_whole and isinstance(content.get("prompts"), int | None)
    except (KeyError, TypeError, ValueError):
        return False


COMPLETED = "completed"
"""The directory of whole rows that `complete` puts into the journal when all are there."""
ELSEWHERE_FILE = "elsewhere.npz"
"""Samples that other runs have made: array [sample, 2] of keys, its own and its first sample's.

An archive, because it has a checksum, which is compared where it is read.
"""

DRY_PUSH = "push-dry-run"
"""The directory of what `push --dry-run` makes for the repository: no run, though it has a
run.json."""

RUN = WorkKind(
    noun="run",
    manifest="run.json",
    files=(
        *("pairs", ".pairs.old", ".pairs.new", "report.html", DRY_PUSH),
        *("rows", "failed.jsonl", "steering.jsonl", COMPLETED, TOKENS, ELSEWHERE_FILE),
    ),
    orphans=("rows", "failed.jsonl"),
    is_valid=_is_manifest,
    how_to_make="make a run with `sso-data generate PROMPTS --out {path}`",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Counts of a run: `prompts x samples = rows + failed + elsewhere`.

    `samples`: rows wanted of each prompt; None where prompts have different numbers of them.
    `elsewhere`: those that other runs have made (`generate --except`).
    """

    prompts: int
    rows: int
    failed: int
    samples: int | None = 1
    elsewhere: int = 0

    @property
    def done(self) -> int:
        """Samples that are rows or failed here."""
        return self.rows + self.failed

    @property
    def unit(self) -> str:
        """What is counted by `done`, in a word."""
        return "prompts" if self.samples == 1 else "samples"

    @property
    def times(self) -> str:
        """What stands after the number of prompts in the balance: nothing, or the samples."""
        if self.samples == 1:
            return ""
        several = f" with {self.done + self.elsewhere} samples"
        return f" x samples {self.samples}" if self.samples else several

    @property
    def balance(self) -> str:
        """The accounting of the prompts, one phrase."""
        there = f" + made elsewhere {self.elsewhere}" if self.elsewhere else ""
        return (
            f"prompts {self.prompts}{self.times} = rows {self.rows} + failed {self.failed}{there}"
        )

    def check(self) -> None:
        """Raise AssertionError if a prompt was lost."""
        if self.samples and self.prompts * self.samples != self.done + self.elsewhere:
            raise AssertionError(f"prompts were lost: {self.balance}")


def read_run(run: Path) -> Manifest | None:
    """Return run.json, or None if there is none; raises RunError if it cannot be read."""
    return read_manifest(run, RUN)


def require_run(run: Path) -> Manifest:
    """Return run.json; raises RunError if it cannot be read, or with how to make a run."""
    return require_manifest(run, RUN)


def iterate_failures(run: Path) -> Iterator[Failure]:
    """Yield every line of failed.jsonl, in the order written.

    Raises RunError that names a line which is not a failure.
    """
    file = run / "failed.jsonl"
    if not file.exists():
        return
    for number, (_, line) in enumerate(read_lines(file), start=1):
        try:
            failure = Failure.from_json(orjson.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file}:{number}: not a failure record; remove the line") from error
        content = split_sample(failure.id)[0].rpartition("-")[0]
        if failure.messages and content != content_hash(failure.messages):
            raise RunError(
                f"{file}:{number}: its prompt is not the one of its id; restore the line from a "
                "copy, or remove it and run `generate` again, which does the prompt anew"
            )
        yield failure


def read_failures(run: Path) -> dict[str, Failure]:
    """Return the newest failure of each id in failed.jsonl; raises as `iterate_failures`."""
    return {failure.id: failure for failure in iterate_failures(run)}


def failed_reasons(run: Path) -> Counter[str]:
    """Return how many samples failed by reason, those that are rows by now apart.

    Raises RunError as `iterate_failures`.
    """
    rows = set(load_scores(run, dry=True).keys().tolist())
    newest = read_failures(run).items()
    return Counter(failure.reason for name, failure in newest if row_key(name) not in rows)


def read_elsewhere(run: Path) -> NDArray[np.uint64]:
    """Return the content of ELSEWHERE_FILE, empty without one. Raises RunError."""
    file = run / ELSEWHERE_FILE
    try:
        if not file.exists():
            return np.empty((0, 2), np.uint64)
        with np.load(file, allow_pickle=False) as archive:
            found: NDArray[np.uint64] = archive["keys"]
        if found.dtype != np.uint64 or found.ndim != 2 or found.shape[1] != 2:
            raise ValueError("not an array of keys")
    except (OSError, ValueError, EOFError, TypeError, KeyError, BadZipFile) as error:
        raise RunError(
            f"{file}: not readable; delete it and give --except again: {one_line(error, 200)}"
        ) from error
    return found


@contextmanager
def open_run(
    path: Path,
    *,
    identity: Mapping[str, Any],
    details: Mapping[str, Any],
    overwrite: bool = False,
    remedy: str = OVERWRITE,
    config: Mapping[str, Any] | None = None,
) -> "Iterator[Run]":
    """Start the run, or continue it when `identity` is that of the run which is there.

    `identity` is everything that decides a row's content, flat; `details` goes into run.json, and
    `config` is what is asked for now, where these hold the run's own.
    Raises RunError that names the first differences and the `remedy`, or when another process
    writes the run.
    """
    make_dir(path)
    with locked(path, "rows"), ExitStack() as stack:
        if overwrite:
            stack.enter_context(locked(path, "pairs"))
        opened = open_workdir(
            path,
            RUN,
            identity=identity,
            details=details,
            overwrite=overwrite,
            remedy=remedy,
            config=config,
        )
        stack.close()
        with locked_file(path / ".pairs.lock") as is_ours:
            if is_ours:  # undo an interrupted swap of the pairs
                recover_dir(path / "pairs")
        run = Run(path, opened.manifest)
        with closing_on_error(run.close):
            yield run
        run.close()


def run_account(run: Path, scores: Scores) -> Account:
    """Return the counts of a finished or interrupted run, from its files alone. Raises RunError."""
    ids = (failure.id for failure in iterate_failures(run))
    failed = {row_key(identity): row_key(split_sample(identity)[0]) for identity in ids}
    if failed:
        for key in scores.keys().tolist():  # done later
            failed.pop(key, None)
    there = read_elsewhere(run)
    is_here = np.isin(there[:, 0], scores.keys()) | np.isin(there[:, 0], _keys(failed))
    there = there[~is_here]
    prompts = np.concatenate([prompt_keys(scores.rows), _keys(failed.values()), there[:, 1]])
    found, samples = np.unique(prompts, return_counts=True)
    least, most = (int(samples.min()), int(samples.max())) if len(found) else (1, 1)
    return Account(
        prompts=len(found),
        rows=len(scores),
        failed=len(failed),
        samples=least if least == most else None,
        elsewhere=len(there),
    )


def _keys(keys: Iterable[int]) -> NDArray[np.uint64]:
    return np.fromiter(keys, np.uint64)


def expected_rows(manifest: Manifest, account: Account) -> int:
    """Return how many rows and failures the finished run will have, by run.json or its files."""
    given = manifest.get("prompts")
    return max(given if isinstance(given, int) else 0, account.done)


def unfinished(manifest: Manifest, account: Account) -> str | None:
    """Return "M of N prompts are done" for an unfinished run, None for a finished one."""
    expected = expected_rows(manifest, account)
    if account.done == expected:
        return None
    return f"{account.done} of {expected} {account.unit} are done"


class Run(WorkDir):
    """A run directory opened by its one writer; `ledger` knows which prompts are done or failed."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        super().__init__(path, RUN, manifest)
        with ExitStack() as opened:
            self._journal = opened.enter_context(closing(Journal(path)))
            self._failed = opened.enter_context(closing(open_lines(path / "failed.jsonl")))
            self.ledger = Ledger()
            for key in load_scores(path, dry=False, whole=True).keys().tolist():
                self.ledger.mark(key, DONE)
            for failure in iterate_failures(path):
                self.ledger.mark(row_key(failure.id), FAILED)
            for key in read_elsewhere(path)[:, 0].tolist():
                self.ledger.mark(key, ELSEWHERE)
            self._opened = opened.pop_all()
        self._sync = PeriodicSync(self._journal.sync, self._failed.sync)

    def close(self) -> None:
        """Make everything durable and close the files."""
        self._opened.close()

    def admit(self, content: str, samples: int = 1) -> list[tuple[str, bool]]:
        """Return the ids of the next prompt with this hash, each with True if it is to be done."""
        return [(one, self.is_open(one)) for one in self.ledger.next_ids(content, samples)]

    def is_open(self, identity: str) -> bool:
        """Return True for a prompt that is neither done nor failed, nor made elsewhere."""
        return not self.ledger.has(row_key(identity), DONE | FAILED | ELSEWHERE)

    def leave(self, keys: NDArray[np.uint64]) -> None:
        """Leave samples to other runs for good; `keys` as in ELSEWHERE_FILE."""
        stored = read_elsewhere(self.path)
        new = keys[~np.isin(keys[:, 0], stored[:, 0])]
        if len(new):
            content = BytesIO()
            np.savez(content, keys=np.concatenate([stored, new]))
            write_atomic(self.path / ELSEWHERE_FILE, content.getvalue())
        for key in new[:, 0].tolist():
            self.ledger.mark(key, ELSEWHERE)

    def write_row(self, row: Row, record: Rows | None = None) -> bytes:
        """Append a finished row to the journal, as `Journal.append` does."""
        stored = self._journal.append(row, record)
        self.ledger.mark(row_key(row.id), DONE)
        self._sync()
        return stored

    def write_failure(self, failure: Failure) -> None:
        """Append a failed prompt to failed.jsonl."""
        self._failed.append(to_line(failure.to_json()))
        self.ledger.mark(row_key(failure.id), FAILED)
        self._sync()

    def account(self, samples: int = 1) -> Account:
        """Return the counts of the prompts that were admitted, `samples` times each."""
        return Account(
            samples=samples,
            prompts=self.ledger.count(SEEN) // samples,
            rows=self.ledger.count(SEEN | DONE),
            failed=self.ledger.count(SEEN | FAILED, without=DONE),
            elsewhere=self.ledger.count(SEEN | ELSEWHERE, without=DONE | FAILED),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A prompt source of one `generate` call, with its `source.*` settings other than defaults."""

    source: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "settings": dict(self.settings)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The sources of a run, and of the runs merged in it, by the name of its directory.

    Directories of several machines may have the same name.
    """

    run: str
    given: tuple[Given, ...]
    merged: tuple["Origin", ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return its form in the run.json of a merged run."""
        found: dict[str, Any] = {"run": self.run, "given": [one.to_json() for one in self.given]}
        return found | ({"merged": [part.to_json() for part in self.merged]} if self.merged else {})


def origin_of(manifest: Mapping[str, Any], run: str) -> Origin:
    """Return the origin of a run from its run.json.

    Where that only lists `sources`, their settings are those of its `config`.
    """
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
    """Return the mappings in a list of run.json; [] if it is missing or not a list."""
    found = facts.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
