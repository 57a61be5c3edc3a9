"""The directory of an iteration: its manifest, and how far each of its rounds has come.

OUT/iterate.json        identity, resolved config, the first policy, and the rounds that finished
OUT/round-K/round.json  the steps of round K that are done, each with its findings
OUT/round-K/...         prompts.jsonl (or pairs.jsonl), run/, model/, eval/; see docs/iterate.md
OUT/rounds.jsonl, report.html   the table over the rounds, as lines and page

A step is done when round.json names it; that file is replaced as a whole.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sso_data.core.errors import RunError
from sso_data.runs.files import make_dir
from sso_data.runs.workdir import (
    Manifest,
    WorkDir,
    WorkKind,
    locked,
    open_workdir,
    read_json,
    refuse_other_content,
    write_json,
)

LINES, PAGE = "rounds.jsonl", "report.html"
PLOT = "rounds.png"
"""A picture that versions before 0.2.0 drew; the page has its curves."""

ITERATION = WorkKind(
    noun="iteration",
    manifest="iterate.json",
    files=("round-*", PAGE, LINES, PLOT),
    is_valid=lambda manifest: isinstance(manifest.get("rounds", []), list),
    how_to_make="make an iteration with `sso-data iterate PROMPTS --model MODEL --out {path}`",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAt:
    """A policy: its directory or Hub id, and its fingerprint."""

    path: str
    fingerprint: str

    def to_json(self) -> dict[str, str]:
        """Its form in iterate.json and round.json."""
        return asdict(self)


class RoundDir:
    """The directory of one round; `facts` is the content of its round.json."""

    def __init__(self, path: Path, number: int) -> None:
        """Raises RunError where round.json is not readable."""
        self.path = path
        self.number = number
        self._file = path / "round.json"
        what = "the round.json of an iteration of sso-data"
        remedy = f"; restore it from a copy, or delete {path} to repeat the round"
        found = read_json(self._file, what=what, remedy=remedy)
        self.facts: Manifest = {"round": number, "steps": {}} if found is None else found
        if not isinstance(self.facts.get("steps"), dict):
            raise RunError(f"{self._file}: not {what}")

    def step(self, name: str) -> Any:
        """The findings of a step; None where it is not done."""
        return self.facts["steps"].get(name)

    def mark(self, name: str, found: Mapping[str, Any]) -> None:
        """Mark a step as done, with its findings."""
        self.facts["steps"][name] = dict(found)
        self.save()

    def save(self) -> None:
        """Replace round.json. Raises RunError."""
        make_dir(self.path)
        write_json(self._file, self.facts)


class IterationDir(WorkDir):
    """The directory of an iteration, held by this process alone."""

    def round(self, number: int) -> RoundDir:
        """The directory of a round, counted from 1."""
        return RoundDir(self.path / f"round-{number}", number)

    @property
    def finished(self) -> list[Manifest]:
        """The lineage: of each finished round its policy, its data and the model that came out."""
        found: list[Manifest] = self.manifest.get("rounds", [])
        return found

    def finish_round(self, facts: Manifest) -> None:
        """Mark the next round as finished: it will not be done again."""
        self.set(rounds=[*self.finished, facts])


@contextmanager
def open_iteration(
    path: Path, *, identity: Mapping[str, Any], details: Mapping[str, Any], overwrite: bool
) -> Iterator[IterationDir]:
    """Start the iteration in `path`, or continue it when `identity` is that of the one there.

    Raises RunError that names the first differences, refuses a directory of something else, or says
    that another process works there.
    """
    refuse_other_content(path, ITERATION)
    make_dir(path)
    with locked(path, "iterate", "its rounds"):
        opened = open_workdir(
            path, ITERATION, identity=identity, details=details, overwrite=overwrite
        )
        if "rounds" not in opened.manifest:
            opened.set(rounds=[])
        yield IterationDir(path, ITERATION, opened.manifest)
