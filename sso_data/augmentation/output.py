"""The files of an augmentation: new queries, rejected attempts, the report, pending answers.

Every attempt ends as one line of the first or of the second file, in the order of the attempts, so
that what a crash left is a prefix of both. Answers that arrived before their turn are kept in a
third file until the attempts before them are decided. The report is the manifest of the work.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from sso_data import __version__
from sso_data.augmentation.attempts import OPERATIONS
from sso_data.chat.interface import Completion
from sso_data.config.migration import FORMAT
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.paths import real_path
from sso_data.core.records import JsonRow, Message, content_hash, messages_from_json, row_id
from sso_data.engines.interface import Refused
from sso_data.runs.files import closing_on_error, make_dir, remove_tree
from sso_data.runs.journal import NOT_A_ROW
from sso_data.runs.jsonl import (
    PeriodicSync,
    open_lines,
    read_lines,
    read_objects,
    sealed,
    to_line,
    unsealed,
)
from sso_data.runs.workdir import (
    OVERWRITE,
    WorkKind,
    locked,
    read_manifest,
    refuse_another,
    require_manifest,
    stored_defaults,
    write_json,
)

ModelAnswer = Completion | Refused
_Counted = tuple[str, str | None, str | None]
"""(operation, reason or None, benchmark file or None) of an attempt."""
_SUFFIXES = (".jsonl", ".ndjson")
_REPORT = ".report.json"


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of an augmentation: `queries` is the user's, the others' names derive from it."""

    queries: Path

    @property
    def rejected(self) -> Path:
        return self.queries.with_name(f"{self.queries.name}.rejected.jsonl")

    @property
    def report(self) -> Path:
        return self.queries.with_name(f"{self.queries.name}{_REPORT}")

    @property
    def waiting(self) -> Path:
        """Answers that arrived before their turn; removed when none is left."""
        return self.queries.with_name(f".{self.queries.name}.waiting.jsonl")

    @property
    def kind(self) -> WorkKind:
        """The report as the manifest of a work directory: the one that the files are in."""
        return WorkKind(noun="augmentation", manifest=self.report.name, files=())


@dataclass(slots=True)
class AttemptCounts:
    """Counts of the attempts decided so far; `idle` is how many since the last accepted query."""

    accepted: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, Counter[str]] = field(default_factory=dict)
    files: Counter[str] = field(default_factory=Counter)
    idle: int = 0

    @property
    def num_accepted(self) -> int:
        return self.accepted.total()

    @property
    def num_attempts(self) -> int:
        return self.num_accepted + sum(reasons.total() for reasons in self.rejected.values())

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected attempts by reason, the most frequent first."""
        return _by_count(sum(self.rejected.values(), Counter[str]()))

    def add(self, operation: str, reason: str | None, file: str | None) -> None:
        """Count an attempt: accepted, or rejected for `reason`; `file` is the benchmark."""
        if reason is None:
            self.accepted[operation] += 1
            self.idle = 0
            return
        self.rejected.setdefault(operation, Counter())[reason] += 1
        self.idle += 1
        if file is not None:
            self.files[file] += 1

    def to_json(self) -> dict[str, Any]:
        """The counts of the report."""
        return {
            "accepted": self.num_accepted,
            "attempts": self.num_attempts,
            "rejected": self.reasons,
            "operations": {
                operation: {
                    "accepted": self.accepted[operation],
                    "rejected": _by_count(self.rejected.get(operation, {})),
                }
                for operation in OPERATIONS
                if self.accepted[operation] or operation in self.rejected
            },
        }


def _by_count(reasons: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def check_name(out: Path, source: str) -> None:
    """Raise ConfigError for an output that is no name of prompts, or that is its own source."""
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--out {out}: must end in .jsonl, so that it can be read as prompts")
    with suppress(OSError, ValueError):
        if real_path(Path(source)) == real_path(out):
            raise ConfigError(f"--out {out}: is the file of the seeds; name a new one")
        if out.is_dir():
            raise RunError(f"{out}: is a directory; name a file that ends in .jsonl")


def kept_defaults(out: Path) -> dict[str, Any]:
    """The defaults that the augmentation in `out` keeps since its first start; {} for a new one.

    Raises RunError where its report is not readable or is of a later format.
    """
    paths = Paths(out)
    return stored_defaults(out.parent, paths.kind)


@contextmanager
def open_output(
    out: Path, identity: Mapping[str, Any], defaults: Mapping[str, Any], *, overwrite: bool
) -> "Iterator[Output]":
    """Start the augmentation, or continue the one that is there when it has this identity.

    Raises RunError that names the first differences, refuses files that augment did not write, or
    says that another process is writing there.
    """
    paths = Paths(out)
    make_dir(out.parent)
    with locked(out.parent, out.name, out.name):
        try:
            report = read_manifest(out.parent, paths.kind)
            if report is None:
                for path in (out, paths.rejected):
                    if path.exists():
                        raise RunError(
                            f"{path}: already exists and was not made by augment (no "
                            f"{paths.report.name}); use another --out"
                        )
            elif overwrite:  # the report goes last: until then it says whose files these are
                for path in (paths.queries, paths.rejected, paths.waiting, paths.report):
                    remove_tree(path)
                report = None
            else:
                refuse_another(out, paths.kind.noun, report["identity"], identity)
            output = Output(paths, report, identity=identity, defaults=defaults)
            with closing_on_error(output.close):
                yield output
            output.close()
        finally:
            with suppress(RunError):
                remove_tree(out.with_name(f".{out.name}.lock"))


class Output:
    """The files opened by their one writer; `num_decided` attempts are in them."""

    def __init__(
        self,
        paths: Paths,
        report: Mapping[str, Any] | None,
        *,
        identity: Mapping[str, Any],
        defaults: Mapping[str, Any],
    ) -> None:
        """`report` is the earlier one, None for a new augmentation."""
        self.paths = paths
        self.tally = AttemptCounts()
        self._head = {
            "schema_version": FORMAT,
            "sso_data": __version__,
            "identity": dict(identity),
            "defaults": dict(defaults),
        }
        if report is None:
            remove_tree(paths.waiting)
            self.write_report(state="unfinished")
        with ExitStack() as opened:
            self._queries = opened.enter_context(closing(open_lines(paths.queries)))
            self._rejected = opened.enter_context(closing(open_lines(paths.rejected)))
            self._waiting = opened.enter_context(closing(open_lines(paths.waiting)))
            self._recover(promised=int((report or {}).get("attempts", 0)))
            self._opened = opened.pop_all()
        self.sync_if_due = PeriodicSync(self._queries.sync, self._rejected.sync, self._waiting.sync)

    @property
    def num_decided(self) -> int:
        """The number of attempts that are decided: accepted or rejected."""
        return self.tally.num_attempts

    def close(self) -> None:
        """Make everything durable and close the files."""
        nothing_waits = not self._waiting.size
        self._opened.close()
        if nothing_waits:
            remove_tree(self.paths.waiting)

    def sync(self) -> None:
        """Make all lines so far survive a power failure."""
        for file in (self._queries, self._rejected, self._waiting):
            file.sync()

    def write(self, line: JsonRow) -> None:
        """Append the line of the next attempt: a new query, or a rejected one with its `reason`."""
        if "reason" in line:
            self._rejected.append(sealed(line))
        else:  # its id is that of its prompt
            self._queries.append(to_line(line))
        self.tally.add(*_attempt_of(line)[1])

    def write_report(self, **content: Any) -> None:
        """Replace the report; RunError where it cannot be written."""
        write_json(self.paths.report, {**self._head, **content})

    def keep(self, answers: Mapping[int, ModelAnswer]) -> None:
        """Write down answers that arrived before their turn."""
        lines = []
        for answer in answers.values():
            if isinstance(answer, Refused):
                rest = {"refused": answer.reason, "detail": answer.detail}
            else:
                rest = {"text": answer.text, "finish_reason": answer.finish_reason}
            lines.append(sealed({"key": answer.key, **rest}))
        self._waiting.append(b"".join(lines))

    def kept(self) -> dict[int, ModelAnswer]:
        """Return the undecided answers that were kept earlier, by attempt. Raises RunError."""
        found: dict[int, ModelAnswer] = {}
        for where, line in read_objects(self.paths.waiting):
            row = unsealed(line, where)
            try:
                number = int(row["key"])
                if number < self.num_decided:
                    continue
                if "refused" in row:
                    found[number] = Refused(
                        key=row["key"], detail=row["detail"], reason=row["refused"]
                    )
                else:
                    found[number] = Completion(
                        key=row["key"], text=row["text"], finish_reason=row["finish_reason"]
                    )
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(f"{where}: invalid line; remove it") from error
        return found

    def clear_pending(self) -> None:
        """Remove the kept answers, which are all decided or not needed. Raises RunError."""
        if self._waiting.size:
            self._waiting.cut(0)

    def accepted(self) -> Iterator[tuple[tuple[Message, ...], str]]:
        """(messages, id) of every query in the file. Raises RunError for one that was changed."""
        return _accepted(self.paths.queries)

    def _recover(self, promised: int) -> None:
        """Count the attempts 0, 1, 2, ... that both files hold, and cut what is after a gap.

        A power failure may keep lines of one file and lose earlier ones of the other. Raises
        RunError when some of the `promised` attempts, which the report counts, are gone.
        """
        files = (self._queries, self._rejected)
        sizes = [file.size for file in files]
        lines = [_decided(file.path, which) for which, file in enumerate(files)]
        is_broken = False
        for number, counted, which, offset in heapq.merge(*lines, key=lambda line: line[0]):
            is_broken = is_broken or number != self.num_decided
            if is_broken:
                sizes[which] = min(sizes[which], offset)
            else:
                self.tally.add(*counted)
        _refuse_missing(self.paths.queries, self.num_decided, promised)
        for file, size in zip(files, sizes, strict=True):
            if size < file.size:
                file.cut(size)


def is_report(file: Path) -> bool:
    """Return True for the name of an augmentation's report."""
    return file.name.endswith(tuple(f"{suffix}{_REPORT}" for suffix in _SUFFIXES))


def check_output(report: Path) -> str:
    """Say what the files of the augmentation with this report hold.

    Raises RunError that names the file, and the line where one is known, that is not as augment
    wrote it.
    """
    paths = Paths(report.with_name(report.name.removesuffix(_REPORT)))
    promised = int(require_manifest(report.parent, paths.kind).get("attempts", 0))
    lines = [_decided(file, which) for which, file in enumerate((paths.queries, paths.rejected))]
    merged = heapq.merge(*lines, key=lambda line: line[0])
    whole = sum(1 for expected, (number, *_) in enumerate(merged) if number == expected)
    _refuse_missing(paths.queries, whole, promised)
    queries = sum(1 for _ in _accepted(paths.queries))
    return f"{queries} queries of {whole} attempts, each as it was written"


def _accepted(queries: Path) -> Iterator[tuple[tuple[Message, ...], str]]:
    """(messages, id) of every query in the file. Raises RunError for one that was changed."""
    for where, row in read_objects(queries):
        try:
            said = row["prompt"]
            turns = [{"role": "user", "content": said}] if isinstance(said, str) else said
            messages = messages_from_json(turns)
            is_own = row["id"] == row_id(content_hash(messages), 0)
        except NOT_A_ROW:
            is_own = False
        if not is_own:
            raise RunError(
                f"{where}: its prompt is not that of its id; restore the file, or {OVERWRITE}"
            )
        yield messages, row["id"]


def _refuse_missing(queries: Path, whole: int, promised: int) -> None:
    """RunError where fewer attempts are `whole` in the two files than the report counts."""
    if whole < promised:
        raise RunError(
            f"{queries}: lines of this file or of the rejected ones are missing or changed after "
            f"attempt {whole} of {promised}; restore them, or {OVERWRITE}"
        )


def _attempt_of(line: JsonRow) -> tuple[int, _Counted]:
    """The attempt of a line of either file, and what is counted of it."""
    if "provenance" in line:
        return line["provenance"]["attempt"], (line["provenance"]["operation"], None, None)
    return line["attempt"], (line["operation"], line["reason"], line["file"])


def _decided(path: Path, which: int) -> Iterator[tuple[int, _Counted, int, int]]:
    """(attempt, counted, which file, offset in bytes) of every line.

    Raises RunError that names a line which augment did not write.
    """
    for number, (offset, line) in enumerate(read_lines(path), start=1):
        try:
            content = unsealed(orjson.loads(line), f"{path}:{number}")
            attempt, counted = _attempt_of(content)
            attempt = int(attempt)
        except (ValueError, KeyError, TypeError, AttributeError, RunError) as error:
            raise RunError(
                f"{path}:{number}: invalid line; restore the file, or {OVERWRITE}"
            ) from error
        yield attempt, counted, which, offset
