"""A training's directory: its manifest train.json, its checkpoints, its metrics.

OUT/train.json        identity, resolved config, data, references, versions, how it ended
OUT/metrics.jsonl     one line per logged step
OUT/checkpoints/      what a continued training goes on from; removed when it has finished
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
from sso_data.runs.checksums import changed, recorded_in, sha256_of
from sso_data.runs.files import remove_tree, write_atomic
from sso_data.runs.jsonl import read_lines
from sso_data.runs.workdir import (
    Manifest,
    WorkDir,
    WorkKind,
    open_workdir,
    read_json,
    read_manifest,
)

MANIFEST, METRICS = "train.json", "metrics.jsonl"
COMPLETE = "complete.json"
"""A checkpoint holds this file once every process has written its part: the others' checksums."""

TRAINING = WorkKind(
    noun="training",
    manifest=MANIFEST,
    files=(
        *(METRICS, "loss.png", "README.md", "references.npz", "checkpoints", "logs"),
        ".model",
        *SAVED_FILES,
    ),
    how_to_make="train one with `sso-data train DATA --model MODEL --out {path}`",
)


class TrainingDir(WorkDir):
    """The directory of one training, written by its first process."""

    @property
    def is_finished(self) -> bool:
        """True when the trained model is there."""
        return "finished" in self.manifest

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; removes those that are not.

        Raises RunError for one whose files are not as the training wrote them.
        """
        found = checkpoints(self.path)
        for folder in found:
            if not (folder / COMPLETE).is_file():
                remove_tree(folder)
        whole = [folder for folder in found if folder.exists()]
        if whole:
            check_checkpoint(whole[-1])
        return whole[-1] if whole else None

    def cut_metrics(self, step: int) -> None:
        """Remove the metrics after `step`: a continued training makes them again.

        Raises RunError for a file that holds anything else.
        """
        file = self.path / METRICS
        if not file.exists():
            return
        try:
            lines = [line for _, line in read_lines(file) if orjson.loads(line)["step"] <= step]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file}: has an invalid line; remove the file") from error
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


def mark_whole(checkpoint: Path, step: int) -> None:
    """Mark a checkpoint as whole, with the checksums of its files. Raises RunError."""
    files = sha256_of(file for file in checkpoint.rglob("*") if file.is_file())
    sums = {str(file.relative_to(checkpoint)): digest for file, digest in sorted(files.items())}
    mark = json.dumps({"step": step, "files": sums}) + "\n"
    write_atomic(checkpoint / COMPLETE, mark.encode())


def check_checkpoint(checkpoint: Path) -> None:
    """Raise RunError for a file that is not as the training wrote it.

    Checkpoints of versions before 0.2.0 have no checksums and are taken as they are.
    """
    what, remedy = "the mark of a checkpoint", f"; remove {checkpoint} to continue without it"
    mark = read_json(checkpoint / COMPLETE, what=what, remedy=remedy) or {}
    for name in changed(checkpoint, recorded_in(mark, "files")):
        raise RunError(
            f"{checkpoint / name}: is not as the training wrote it (its checksum in {COMPLETE} "
            f"differs); restore it from a copy, or remove {checkpoint}: the same command then "
            "continues from an earlier checkpoint, or starts over"
        )


def saved_files(path: Path) -> list[Path]:
    """The files of the model in a training's directory."""
    return sorted({file for pattern in SAVED_FILES for file in path.glob(pattern)})


def check_model(path: Path, manifest: Mapping[str, Any], *names: str) -> None:
    """Raise RunError for a file that is not as the finished training wrote it; all, or those named.

    They are those of the model, and its metrics.
    """
    recorded = recorded_in(manifest, "files")
    for name in changed(path, {n: d for n, d in recorded.items() if not names or n in names}):
        raise RunError(
            f"{path / name}: is not as the training wrote it (its checksum in {MANIFEST} differs); "
            f"restore it from a copy; if you changed it, take {name} out of `files`, and "
            f"`crc`, in {path / MANIFEST}"
        )


def read_training(path: Path) -> Manifest | None:
    """train.json in this version's format, or None where there is none.

    Raises RunError when it is not readable, or of a later version of sso-data.
    """
    return read_manifest(path, TRAINING)


def open_training(
    path: Path,
    *,
    identity: Mapping[str, Any],
    details: Mapping[str, Any],
    overwrite: bool,
    config: Mapping[str, Any] | None = None,
) -> TrainingDir:
    """Start the training in `path`, or continue it when `identity` is that of the one there.

    The caller holds the directory's lock. Raises RunError that names the first differences, or
    refuses a directory of something else.
    """
    found = open_workdir(
        path, TRAINING, identity=identity, details=details, overwrite=overwrite, config=config
    )
    return TrainingDir(path, TRAINING, found.manifest)
