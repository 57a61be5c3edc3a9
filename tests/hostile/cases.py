"""A hostile or broken input as data: how it is made, and how the command must end."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import Result

from sso_data.world import catalogue_dir, policy_dir

ADDRESS = ":".join(("https", "//me", "geheim@host/x"))
"""An address with a password, in parts: the scan for secrets would take it for a real one."""
QUESTION = '{"prompt": "What is 2 plus 3?"}\n'


@dataclass(frozen=True, slots=True)
class Refused:
    """One `error:` line that the patterns match, and the exit code of a user's mistake."""

    patterns: tuple[str, ...]
    code: int = 1
    outcome = "refused in one line"

    def check(self, done: Result, place: "Place") -> None:
        assert done.exit_code == self.code, (done.exit_code, done.output, done.exception)
        lines = done.stderr.splitlines()
        if self.code == 1:
            [line] = [line for line in lines if line.startswith("error: ")]
            assert lines[-1] == line, "nothing is said after the error"
            assert len(line) <= 1300, len(line)
            assert all(char.isprintable() for char in line), line
            for pattern in self.patterns:
                assert re.search(pattern, line), line


@dataclass(frozen=True, slots=True)
class Accepted:
    """Exit code 0, and the prompts' contents in the journal are exactly these, in any order."""

    contents: tuple[str, ...] | None
    outcome = "accepted exactly as it is"

    def check(self, done: Result, place: "Place") -> None:
        assert done.exit_code == 0, (done.output, done.exception)
        if self.contents is not None:
            assert sorted(place.contents()) == sorted(self.contents)


@dataclass(frozen=True, slots=True)
class RowsFail:
    """Exit code 3: so many prompts fail for each reason, the others become rows."""

    reasons: Mapping[str, int]
    rows: int = 0
    detail: str = ""
    outcome = "its rows fail with a reason"

    def check(self, done: Result, place: "Place") -> None:
        assert done.exit_code == 3, (done.output, done.exception)
        failures = place.failures()
        found: dict[str, int] = {}
        for failure in failures:
            found[failure["reason"]] = found.get(failure["reason"], 0) + 1
            assert re.search(self.detail, failure["detail"]), failure["detail"]
        assert found == dict(self.reasons)
        assert len(place.rows()) == self.rows
        total = self.rows + len(failures)
        assert f"prompts {total} = rows {self.rows} + failed {len(failures)}" in done.stdout


@dataclass(frozen=True, slots=True)
class FailsAgain(RowsFail):
    """As RowsFail, where each failure stands in failed.jsonl for the second time."""

    def check(self, done: Result, place: "Place") -> None:
        assert done.exit_code == 3, (done.output, done.exception)
        [failure] = place.failures()[1:]
        assert failure["reason"] in self.reasons
        assert failure["attempts"] == 2


Outcome = Refused | Accepted | RowsFail


def refused(*patterns: str, code: int = 1) -> Refused:
    return Refused(patterns, code)


def accepted(*contents: str) -> Accepted:
    return Accepted(contents or None)


def rows_fail(rows: int = 0, detail: str = "", **reasons: int) -> RowsFail:
    return RowsFail(reasons, rows, detail)


@dataclass(slots=True)
class Place:
    """Where a case makes its input, and what came out there."""

    folder: Path
    run: Path = field(init=False)

    def __post_init__(self) -> None:
        self.run = self.folder / "run"

    def write(self, name: str, content: bytes | str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def rows(self) -> list[dict[str, Any]]:
        lines = [line for part in (self.run / "rows").glob("*.jsonl") for line in part.open("rb")]
        return [json.loads(line) for line in lines]

    def contents(self) -> list[str]:
        return [turn["content"] for row in self.rows() for turn in row["prompt"]]

    def failures(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run / "failed.jsonl").open("rb")]

    def model(self) -> Path:
        """A copy of the tiny policy, to be broken."""
        return Path(shutil.copytree(policy_dir(), self.folder / "model"))

    def generate(self, *options: object, prompts: object = None, model: object = None) -> list[str]:
        """Arguments of `generate` with what the case does not choose by itself."""
        source = self.write("q.jsonl", QUESTION) if prompts is None else prompts
        given = [str(option) for option in options]
        chosen = ["--model", str(model or policy_dir())]
        words = ["generate", str(source), "--out", str(self.run), "--engine=transformers"]
        words += ["--set=engine.isolation=inline", "--set=sampling.max_tokens=16"]
        if not any(option.startswith("--principles") for option in given):
            words.append(f"--principles={catalogue_dir()}")
        return [*words, *chosen, *given]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`make` builds the input and gives the command line; `engine`: the real one runs."""

    name: str
    area: str
    make: Callable[[Place], Sequence[str]]
    outcome: Outcome
    engine: bool = False
    as_nobody: bool = False
    slow: bool = False

    def surroundings(self) -> AbstractContextManager[None]:
        return _Nobody() if self.as_nobody else nullcontext()


class _Nobody:
    """Without root's right to read and write everything, where the tests run as root."""

    def __enter__(self) -> None:
        self._root = os.geteuid() == 0
        if self._root:
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        if self._root:
            os.seteuid(0)


def prompts(
    name: str, content: bytes | str, outcome: Outcome, *options: object, title: str = ""
) -> Case:
    """A case that is one prompt file, called `name`."""

    def make(place: Place) -> list[str]:
        file = place.write(name, content)
        return place.generate(*options, prompts=file)

    return Case(name=title or name, area="prompt files", make=make, outcome=outcome)


def row(title: str, content: object, outcome: Outcome, *options: object) -> Case:
    """A case that is one JSONL row, given as its text or as the value that it holds."""
    line = content if isinstance(content, str) else json.dumps(content)
    return prompts("rows.jsonl", line + "\n", outcome, *options, title=title)
