"""Folders of the shipped files, and names for output that contain no path of this machine."""

import os
import re
import shlex
from contextlib import suppress
from functools import cache
from pathlib import Path

from sso_data.core.errors import without_secrets

_PACKAGE = Path(__file__).resolve().parents[1]
LFS_POINTER = b"version https://git-lfs"
FETCH_LFS = "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?(?::[\w.-]+)?", re.ASCII)
_FILE_SUFFIXES = frozenset(
    (".arrow", ".csv", ".gz", ".json", ".jsonl", ".md", ".parquet", ".tsv", ".txt", ".yaml", ".yml")
)


def is_lfs_pointer(file: Path) -> bool:
    """Return True for what Git leaves in place of a large file that LFS did not fetch."""
    with suppress(OSError), file.open("rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER
    return False


@cache
def _shipped(name: str) -> Path:
    """Return the folder `name`: `sso_data/_shipped/<name>` in a wheel, else at the top level."""
    in_wheel = _PACKAGE / "_shipped" / name
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / name


CATALOGUES = ("long", "short", "checkable")
"""The shipped principle catalogues: folders of `principles`, one YAML file per principle pair.

The first is the default.
"""


def principles_dir(name: str = CATALOGUES[0]) -> Path:
    """Return the folder of a shipped principle catalogue, one of CATALOGUES."""
    return _shipped("principles") / name


def templates_dir() -> Path:
    """Return the folder of the shipped Jinja templates."""
    return _shipped("templates")


def examples_dir() -> Path:
    """Return the folder of the shipped examples: `recipes`, and launch files in `accelerate`."""
    return _shipped("examples")


def world_dir() -> Path:
    """Return the folder of the tiny world: its `policy`, `principles`, `templates` and `data`."""
    return _PACKAGE / "world"


def is_local(name: str) -> bool:
    """Return True for a path: one that exists here, has a file's suffix, or is not a Hub id."""
    if not name or name.startswith(("/", "~", ".")) or not _HUB_ID.fullmatch(name):
        return True
    return Path(name).suffix.lower() in _FILE_SUFFIXES or Path(name).exists()


def real_path(path: Path) -> Path:
    """Return the absolute path without links; of a loop of links what there is of it."""
    return Path(os.path.realpath(path))


def is_meant_as_path(name: str) -> bool:
    """Return True for a name that is no Hub id by its form, or whose folder exists here."""
    path = Path(name)
    if name.startswith((".", "/", "~")) or path.suffix.lower() in _FILE_SUFFIXES:
        return True
    try:
        return len(path.parts) > 1 and path.parent.is_dir()
    except (OSError, ValueError):
        return False


def public_name(name: str) -> str:
    """Return a model's or dataset's name for a card: of a local path, the last part."""
    if not is_local(name):
        return name
    path = Path(name)
    return path.name if path.name not in ("", "..") else real_path(path).name


def shell_command(*words: str) -> str:
    """Return a command for a shell; the tilde of a home directory is left to be expanded."""
    return " ".join(
        f"~/{shlex.quote(word[2:])}" if word[:2] == "~/" and word[2:] else shlex.quote(word)
        for word in words
    )


def shown_command(command: str) -> str:
    """Return a shell command for a card: without directories of this machine and tokens.

    `--option=PATH` and `key=PATH` keep what is before the sign.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # an unbalanced quote
        words = command.split()
    shown = []
    for word in words:
        before, sign, value = word.rpartition("=")
        is_path = "/" in value or value.startswith("~") or value in (".", "..")
        shown.append(f"{before}{sign}{public_name(value)}" if is_path else word)
    return without_secrets(shlex.join(shown))
