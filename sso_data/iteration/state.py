"""An iteration's directory: who it is (iterate.json), and how far each of its rounds has come.

OUT/iterate.json        identity, resolved config, the first policy, and the rounds that finished
OUT/round-K/round.json  the steps of round K that are done, each with what it found
OUT/round-K/...         prompts.jsonl (or pairs.jsonl), run/, model/, eval/; see docs/iterate.md
OUT/rounds.jsonl, rounds.png, report.html   the table over the rounds, as lines, picture and page

A step is done when its mark stands in round.json, which is replaced as a whole.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sso_data import __version__
from sso_data.core.errors import RunError, one_line
from sso_data.core.records import SCHEMA_VERSION
from sso_data.runs.files import locked_file, make_dir, remove_tree, write_atomic
from sso_data.runs.workdir import differences

MANIFEST, ROUND_FILE = "iterate.json", "round.json"
_OURS = ("report.html", "rounds.jsonl", "rounds.png")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAt:
    """A policy: where it lies (a directory or Hub id), and its fingerprint."""

    path: str
    fingerprint: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


class RoundDir:
    """The directory of one round; `facts` is the content of its round.json."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self.facts: Manifest = _read(path / ROUND_FILE) or {"round": number, "steps": {}}

    def step(self, name: str) -> Any:
        """What a step found; None where it is not done."""
        return self.facts["steps"].get(name)

    def mark(self, name: str, found: Mapping[str, Any]) -> None:
        """A step is done: keep what it found."""
        self.facts["steps"][name] = dict(found)
        self.save()

    def save(self) -> None:
        """Replace round.json."""
        make_dir(self.path)
        _write(self.path / ROUND_FILE, self.facts)


class IterationDir:
    """The directory of an iteration, held by this process alone; `manifest` is iterate.json."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def note(self, **findings: object) -> None:
        """Put findings into iterate.json."""
        if any(self.manifest.get(key) != value for key, value in findings.items()):
            self.manifest |= findings
            _write(self.path / MANIFEST, self.manifest)

    def round(self, number: int) -> RoundDir:
        """The directory of a round, counted from 1."""
        return RoundDir(self.path / f"round-{number}", number)

    @property
    def finished(self) -> list[Manifest]:
        """The lineage: of each finished round its policy, its run and the model that came out."""
        found: list[Manifest] = self.manifest["rounds"]
        return found

    def finish_round(self, facts: Manifest) -> None:
        """A round is done: it will not be done again."""
        self.note(rounds=[*self.finished, facts])


@contextmanager
def open_iteration(
    path: Path, *, identity: Mapping[str, Any], details: Mapping[str, Any], overwrite: bool
) -> Iterator[IterationDir]:
    """Start the iteration in `path`, or continue it when `identity` is that of the one there.

    Raises RunError that names the first differences, refuses a directory of something else, or says
    that another process works there.
    """
    refuse_strangers(path)
    make_dir(path)
    with locked_file(path / ".iterate.lock") as is_ours:
        if not is_ours:
            raise RunError(f"{path}: another process iterates there; wait for it or end it")
        if overwrite:
            _clear(path)
        yield IterationDir(path, _agreed(path, identity, details))


def read_iteration(path: Path) -> Manifest | None:
    """iterate.json, or None where there is none; RunError when it is not readable."""
    content = _read(path / MANIFEST)
    if content is None:
        return None
    if not isinstance(content.get("identity"), dict) or not isinstance(content.get("rounds"), list):
        raise RunError(f"{path / MANIFEST}: not the iterate.json of an iteration of sso-data")
    return content


def refuse_strangers(path: Path) -> None:
    """RunError where `path` is a file, or a directory of something else; changes nothing."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file, not a directory; use another --out")
    if not path.is_dir() or read_iteration(path) is not None:
        return
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if names:
        raise RunError(
            f"{path}: not empty and not an iteration (it holds {names[0]}); use another --out"
        )


def _agreed(path: Path, identity: Mapping[str, Any], details: Mapping[str, Any]) -> Manifest:
    """The manifest, written when the iteration is new; RunError when it is another one's."""
    manifest = read_iteration(path)
    if manifest is None:
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "sso_data": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": dict(identity),
            **details,
            "rounds": [],
        }
        _write(path / MANIFEST, manifest)
        return manifest
    changed = differences(manifest["identity"], identity)
    if changed:
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise RunError(
            f"{path}: holds another iteration: {'; '.join(changed[:3])}{more}; "
            "use another --out, or --overwrite to start it anew"
        )
    manifest |= details
    _write(path / MANIFEST, manifest)
    return manifest


def _clear(path: Path) -> None:
    """Remove what an iteration writes into its directory, iterate.json last."""
    for found in (*sorted(path.glob("round-*")), *(path / name for name in _OURS)):
        remove_tree(found)
    remove_tree(path / MANIFEST)


def _read(file: Path) -> Manifest | None:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: not readable: {one_line(error, 200)}") from error
    if not isinstance(content, dict):
        raise RunError(f"{file}: not a file of an iteration of sso-data")
    return content


def _write(file: Path, content: Manifest) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(file, text.encode())
