"""A training's directory: who it is (train.json), where it goes on from, what it holds.

OUT/train.json        identity, resolved config, data, references, versions, how it ended
OUT/metrics.jsonl     one line per logged step
OUT/checkpoints/      what a continued training goes on from; gone when it has finished
OUT/references.npz    references that had to be scored
OUT/*.safetensors ... the trained model, its tokenizer and template, a card, loss.png
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from sso_data.core.errors import RunError
from sso_data.models.directory import SAVED_FILES
from sso_data.runs.files import make_dir, remove_tree, write_atomic
from sso_data.runs.journal import read_lines
from sso_data.runs.workdir import differences

MANIFEST = "train.json"
COMPLETE = "complete.json"
"""Stands in a checkpoint that was written to its end."""

_OURS = (
    *("metrics.jsonl", "loss.png", "README.md", "references.npz", "checkpoints", "logs", ".model"),
    *SAVED_FILES,
    MANIFEST,
)

Manifest = dict[str, Any]


class TrainingDir:
    """The directory of one training; `manifest` is the content of train.json."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def is_finished(self) -> bool:
        """Whether the trained model stands there."""
        return "finished" in self.manifest

    def note(self, **findings: object) -> None:
        """Put findings into train.json."""
        self.manifest |= findings
        write_manifest(self.path, self.manifest)

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end; the others are removed."""
        found = checkpoints(self.path)
        for folder in found:
            if not (folder / COMPLETE).is_file():
                remove_tree(folder)
        whole = [folder for folder in found if folder.exists()]
        return whole[-1] if whole else None

    def cut_metrics(self, step: int) -> None:
        """Drop the metrics after `step`: a continued training makes them again."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        try:
            lines = [line for _, line in read_lines(file) if orjson.loads(line)["step"] <= step]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file}: holds a line that is no metric; remove the file") from error
        write_atomic(file, b"".join(lines))


def checkpoints(path: Path) -> list[Path]:
    """The checkpoint directories of a training, oldest first."""
    found = [
        folder
        for folder in (path / "checkpoints").glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", folder.name)
    ]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was written after."""
    return int(checkpoint.name.rpartition("-")[2])


def read_training(path: Path) -> Manifest | None:
    """train.json, or None where there is none; RunError when it is not readable."""
    file = path / MANIFEST
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise RunError(f"{path}: is a file, not a directory") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: not readable: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("identity"), dict):
        raise RunError(f"{file}: not the train.json of a training of sso-data")
    return content


def open_training(
    path: Path, *, identity: Mapping[str, Any], details: Mapping[str, Any], overwrite: bool
) -> TrainingDir:
    """Start the training in `path`, or continue it when `identity` is that of the one there.

    Raises RunError that names the first differences, or refuses a directory of something else.
    """
    make_dir(path)
    manifest = read_training(path)
    if overwrite and manifest is not None:
        clear(path)
        manifest = None
    elif manifest is None:
        _refuse_strangers(path)
    if manifest is None:
        manifest = {"identity": dict(identity), **details}
        write_manifest(path, manifest)
    elif changed := differences(manifest["identity"], identity):
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise RunError(
            f"{path}: holds another training: {'; '.join(changed[:3])}{more}; "
            "use another --out, or --overwrite to start it anew"
        )
    return TrainingDir(path, manifest)


def clear(path: Path) -> None:
    """Remove what a training writes into its directory."""
    for pattern in _OURS:
        for found in path.glob(pattern):
            remove_tree(found)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace train.json."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"
    write_atomic(path / MANIFEST, text.encode())


def refuse_strangers(path: Path) -> None:
    """RunError where `path` is a file, or a directory of something else; changes nothing."""
    try:
        if path.is_dir():
            if read_training(path) is None:
                _refuse_strangers(path)
        elif path.exists():
            raise RunError(f"{path}: is a file, not a directory; use another --out")
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error


def _refuse_strangers(path: Path) -> None:
    """RunError for a directory that is no training and not empty: it is somebody else's."""
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if names:
        raise RunError(
            f"{path}: not empty and not a training (it holds {names[0]}); use another --out"
        )
