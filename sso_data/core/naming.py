"""Names as the public may see them: of what lies on this machine, the last part of its path."""

import re
import shlex
from pathlib import Path

from sso_data.core.errors import without_secrets

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?(?::[\w.-]+)?", re.ASCII)
_FILE_SUFFIXES = frozenset(
    (".arrow", ".csv", ".gz", ".json", ".jsonl", ".md", ".parquet", ".tsv", ".txt", ".yaml", ".yml")
)


def is_local(name: str) -> bool:
    """Whether the name is a path: one that exists here, may have existed, or is no Hub id."""
    if not name or name.startswith(("/", "~", ".")) or not _HUB_ID.fullmatch(name):
        return True
    return Path(name).suffix.lower() in _FILE_SUFFIXES or Path(name).exists()


def public_name(name: str) -> str:
    """A model's or a dataset's name as a card may print it: of a local path, the last part."""
    return _last_part(name) if is_local(name) else name


def shown_command(command: str) -> str:
    """A shell command as a card may print it: no directories of this machine, no tokens."""
    try:
        words = shlex.split(command)
    except ValueError:  # an unbalanced quote
        words = command.split()
    return without_secrets(shlex.join(_shown_word(word) for word in words))


def _shown_word(word: str) -> str:
    """One word of a command; `--option=PATH` and `key=PATH` keep what stands before the sign."""
    before, sign, value = word.rpartition("=")
    is_path = "/" in value or value.startswith("~") or value in (".", "..")
    return f"{before}{sign}{public_name(value)}" if is_path else word


def _last_part(name: str) -> str:
    path = Path(name)
    return path.name if path.name not in ("", "..") else path.resolve().name
