"""The files of an augmentation: new queries, rejected attempts, the report, answers that wait.

Every attempt ends as one line of the first or of the second file, in the order of the attempts, so
that what a crash left is a prefix of both. Answers that came out of their turn wait in a third file
until the ones before them are decided.
"""

import heapq
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from sso_data import __version__
from sso_data.augmentation.tally import AttemptCounts
from sso_data.chat.interface import Completion
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.records import SCHEMA_VERSION, JsonRow, Message, messages_from_json
from sso_data.engines.interface import Refused
from sso_data.runs.files import Appender, locked_file, make_dir, remove_tree, write_atomic
from sso_data.runs.journal import open_lines, read_lines, to_line
from sso_data.runs.workdir import differences

Answer = Completion | Refused
_SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where an augmentation writes: `queries` is what the user named, the others lie beside it."""

    queries: Path

    @property
    def rejected(self) -> Path:
        return self._beside(".rejected.jsonl")

    @property
    def report(self) -> Path:
        return self._beside(".report.json")

    @property
    def waiting(self) -> Path:
        """Answers that came out of their turn; gone when nothing waits."""
        return self.queries.with_name(f".{self.queries.name}.waiting.jsonl")

    @property
    def lock(self) -> Path:
        return self.queries.with_name(f".{self.queries.name}.lock")

    def _beside(self, ending: str) -> Path:
        return self.queries.with_name(self.queries.name + ending)


def check_name(out: Path, source: str) -> None:
    """ConfigError for an output that `generate` could not read, or that is its own source."""
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--out {out}: must end in .jsonl, so that it can be read as prompts")
    with suppress(OSError, ValueError):
        if Path(source).resolve() == out.resolve():
            raise ConfigError(f"--out {out}: is the file of the seeds; name a new one")
        if out.is_dir():
            raise RunError(f"{out}: is a directory; name a file that ends in .jsonl")


@contextmanager
def open_output(out: Path, identity: Mapping[str, Any], *, overwrite: bool) -> "Iterator[Output]":
    """Start the augmentation, or continue the one that is there when it has this identity.

    Raises RunError that names the first differences, or says that another process writes there.
    """
    paths = Paths(out)
    make_dir(out.parent)
    with locked_file(paths.lock) as is_ours:
        if not is_ours:
            raise RunError(f"{out}: another process is writing it; wait for it or end it")
        try:
            promised = _agree(paths, identity, overwrite=overwrite)
            output = Output(paths, promised=promised)
            try:
                yield output
            except BaseException:
                with suppress(RunError):  # what went wrong first is what the user should read
                    output.close()
                raise
            output.close()
        finally:
            with suppress(RunError):
                remove_tree(paths.lock)


def _agree(paths: Paths, identity: Mapping[str, Any], *, overwrite: bool) -> int:
    """See to a report with this identity; returns how many attempts it counts.

    RunError where it is another augmentation's.
    """
    out, report = paths.queries, read_report(paths)
    if report is None:
        there = [path for path in (out, paths.rejected) if path.exists()]
        if there:
            raise RunError(
                f"{there[0]}: is in the way, and no {paths.report.name} says that augment made "
                "it; use another --out"
            )
    elif overwrite:
        for path in (paths.queries, paths.rejected, paths.waiting, paths.report):
            remove_tree(path)
    else:
        changed = differences(report["identity"], identity)
        if changed:
            more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
            raise RunError(
                f"{out}: holds another augmentation: {'; '.join(changed[:3])}{more}; "
                "use another --out, or --overwrite to start it anew"
            )
        return int(report.get("attempts", 0))
    remove_tree(paths.waiting)
    write_report(paths, {"identity": dict(identity), "state": "unfinished"})
    return 0


def read_report(paths: Paths) -> dict[str, Any] | None:
    """The report of an augmentation, or None where there is none; RunError if it is not one."""
    try:
        content = orjson.loads(paths.report.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{paths.report}: not readable: {error}; remove it or restore it") from error
    if not isinstance(content, dict) or not isinstance(content.get("identity"), dict):
        raise RunError(f"{paths.report}: not the report of an augmentation; use another --out")
    return content


def write_report(paths: Paths, content: Mapping[str, Any]) -> None:
    """Replace the report."""
    whole = {"schema_version": SCHEMA_VERSION, "sso_data": __version__, **content}
    write_atomic(paths.report, orjson.dumps(whole, option=orjson.OPT_INDENT_2) + b"\n")


class Output:
    """The files opened by their one writer; `num_decided` attempts are in them."""

    def __init__(self, paths: Paths, *, promised: int) -> None:
        """`promised` attempts were durable when the report was written."""
        self.paths = paths
        self.tally = AttemptCounts()
        with ExitStack() as opened:
            self._queries = opened.enter_context(closing(open_lines(paths.queries)))
            self._rejected = opened.enter_context(closing(open_lines(paths.rejected)))
            self._waiting = opened.enter_context(closing(open_lines(paths.waiting)))
            self.num_decided = self._cut(promised)
            self._count()
            self._opened = opened.pop_all()

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

    def accept(self, line: JsonRow) -> None:
        """Append a new query."""
        self._queries.append(to_line(line))
        self.tally.accept(line["provenance"]["operation"])
        self.num_decided += 1

    def reject(self, line: JsonRow) -> None:
        """Append a rejected attempt."""
        self._rejected.append(to_line(line))
        self.tally.reject(line["operation"], line["reason"], line["file"])
        self.num_decided += 1

    def keep(self, answers: Mapping[int, Answer]) -> None:
        """Write answers down that must wait for their turn."""
        self._waiting.append(b"".join(to_line(_waiting_line(one)) for one in answers.values()))

    def kept(self) -> dict[int, Answer]:
        """The answers that waited when the files were opened, by attempt."""
        found = {}
        for row in _rows(self.paths.waiting):
            answer = _answer_of(row, self.paths.waiting)
            if int(answer.key) >= self.num_decided:
                found[int(answer.key)] = answer
        return found

    def nothing_waits(self) -> None:
        """Forget the answers that waited: all of them are decided, or not needed."""
        if self._waiting.size:
            self._waiting.cut(0)

    def accepted(self) -> Iterator[tuple[tuple[Message, ...], str]]:
        """(messages, id) of every query in the file, in order."""
        for row in _rows(self.paths.queries):
            yield _messages(row["prompt"]), row["id"]

    def _cut(self, promised: int) -> int:
        """Drop what a crash left behind a gap; RunError when durable attempts are gone."""
        files = (self._queries, self._rejected)
        length, sizes = _whole_prefix(*files)
        if length < promised:
            raise RunError(
                f"{self.paths.queries}: only the first {length} of {promised} attempts are whole "
                "here and in the file of rejected ones: lines were changed or removed; restore "
                "them, use another --out, or --overwrite"
            )
        for file, size in zip(files, sizes, strict=True):
            if size < file.size:
                file.cut(size)
        return length

    def _count(self) -> None:
        """Count what is there, in the order of the attempts."""
        files = (self.paths.queries, self.paths.rejected)
        for row in heapq.merge(*(map(_short, _rows(file)) for file in files), key=_attempt):
            if "reason" in row:
                self.tally.reject(row["operation"], row["reason"], row["file"])
            else:
                self.tally.accept(row["operation"])


def _short(row: JsonRow) -> JsonRow:
    """What is counted of a line."""
    if "provenance" in row:
        return {key: row["provenance"][key] for key in ("attempt", "operation")}
    return {key: row[key] for key in ("attempt", "operation", "reason", "file")}


def _attempt(row: JsonRow) -> int:
    return int(row["provenance"]["attempt"] if "provenance" in row else row["attempt"])


def _rows(path: Path) -> Iterator[JsonRow]:
    """The lines of a file; RunError names one that is not ours."""
    for number, (_, line) in enumerate(read_lines(path), start=1):
        yield _row(line, path, number)


def _row(line: bytes, path: Path, number: int) -> JsonRow:
    try:
        row: JsonRow = orjson.loads(line)
        if "key" not in row:  # every line but an answer that waits tells of an attempt
            _short(row)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}:{number}: not a line that augment wrote; restore the file, or --overwrite"
        ) from error
    return row


def _whole_prefix(*files: Appender) -> tuple[int, list[int]]:
    """The longest run of attempts 0, 1, 2, ... that the files hold together: (length, file sizes).

    A power failure may keep lines of one file and lose earlier ones of the other.
    """
    sizes = [file.size for file in files]
    length, is_broken = 0, False
    for attempt, which, offset in heapq.merge(*map(_places, files, count())):
        is_broken = is_broken or attempt != length
        if is_broken:
            sizes[which] = min(sizes[which], offset)
        else:
            length += 1
    return length, sizes


def _places(file: Appender, which: int) -> Iterator[tuple[int, int, int]]:
    """(attempt, which file, offset in bytes) of every line, in order."""
    for number, (offset, line) in enumerate(read_lines(file.path), start=1):
        yield _attempt(_row(line, file.path, number)), which, offset


def _waiting_line(answer: Answer) -> JsonRow:
    if isinstance(answer, Refused):
        return {"key": answer.key, "refused": answer.reason, "detail": answer.detail}
    return {"key": answer.key, "text": answer.text, "finish_reason": answer.finish_reason}


def _answer_of(row: JsonRow, path: Path) -> Answer:
    try:
        if "refused" in row:
            return Refused(key=row["key"], detail=row["detail"], reason=row["refused"])
        return Completion(key=row["key"], text=row["text"], finish_reason=row["finish_reason"])
    except KeyError as error:
        raise RunError(f"{path}: holds a line that augment did not write; remove it") from error


def _messages(prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    return messages_from_json(prompt)
