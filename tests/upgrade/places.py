"""Where the fixtures stand, and a working directory in which one of them goes on."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

STORED = Path(__file__).parent / "stored"
POLICY = STORED / "policy"


def unpacked(name: str, folder: Path) -> Path:
    """A working directory in `folder` with what was begun, and the models that it names."""
    place = folder / name
    place.mkdir()
    with tarfile.open(STORED / name / "begun.tar.xz") as packed:
        packed.extractall(place, filter="data")
    shutil.copytree(POLICY, place / "policy")
    if "weaker" in command_of(name):
        weakened(place / "policy", place / "weaker")
    return place


def command_of(name: str) -> list[str]:
    """The words with which it was begun."""
    found: list[str] = _read(name, "command.json")["command"]
    return found


def before_of(name: str) -> list[list[str]]:
    """The words of the commands that had finished before."""
    found: list[list[str]] = _read(name, "command.json")["before"]
    return found


def expected_of(name: str) -> dict[str, Any]:
    """What the same command gave where nothing interrupted it."""
    return _read(name, "expected.json")


def weakened(policy: Path, to: Path) -> None:
    """A copy of the policy whose attention has half its weight: exact on every processor."""
    shutil.copytree(policy, to)
    file = to / "model.safetensors"
    weights = load_file(file)
    for name, weight in weights.items():
        if name.endswith("o_proj.weight"):
            weights[name] = weight / 2
    save_file(weights, file, metadata={"format": "pt"})


def _read(name: str, file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((STORED / name / file).read_text(encoding="utf-8"))
    return found
