"""The directory of an evaluation: whose it is, and what of it may be continued."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sso_data import __version__
from sso_data.core.errors import RunError, one_line
from sso_data.core.records import SCHEMA_VERSION
from sso_data.generation.generate import Setup
from sso_data.runs.files import locked_file, make_dir, remove_tree, write_atomic
from sso_data.runs.workdir import differences

SETUP = "setup.json"
"""Stands in the directory of an evaluation from its start: how the answers are made."""

RESULT = "eval.json"
"""What came out: of the judge that was asked last."""

MODEL, AGAINST, JUDGES, EXPORTS = "model", "against", "judges", "exports"
COMMANDS = "commands.sh"

_OURS = (RESULT, COMMANDS, EXPORTS, JUDGES, AGAINST, MODEL, SETUP)
"""What --overwrite deletes, setup.json last: until then the directory is known for ours."""
_OF_A_MODEL = ("model", "tokenizer", "chat_template")


def read_setup(out: Path) -> dict[str, Any] | None:
    """setup.json, or None where there is none; RunError where it cannot be read."""
    file = out / SETUP
    try:
        content = json.loads(file.read_bytes())
        if {"identity", "date"} <= content.keys():
            return dict(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise RunError(f"{file}: not readable: {one_line(error)}; use another --out") from error
    raise RunError(f"{file}: not the setup.json of an evaluation; use another --out")


def identity_of(model: Setup, against: Setup) -> dict[str, Any]:
    """Everything that decides the answers, flat."""
    found = dict(model.identity)
    return found | {f"against.{key}": against.identity[key] for key in _OF_A_MODEL}


@contextmanager
def open_eval_dir(
    out: Path, identity: Mapping[str, Any], details: Mapping[str, Any], *, overwrite: bool
) -> Iterator[None]:
    """Hold the directory of a new evaluation, or of one that goes on.

    Raises RunError where it is another one's, naming the first differences, or another process
    holds it.
    """
    make_dir(out)
    with locked_file(out / ".eval.lock") as is_ours:
        if not is_ours:
            raise RunError(f"{out}: another process evaluates there; wait for it or end it")
        if overwrite and (out / SETUP).exists():
            for name in _OURS:
                remove_tree(out / name)
        _agree(out, identity, details)
        yield


def _agree(out: Path, identity: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    there = read_setup(out)
    if there is None:
        names = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))
        if names:
            raise RunError(
                f"{out}: not empty and not an evaluation (it holds {names[0]}); use another --out"
            )
        content = {
            "schema_version": SCHEMA_VERSION,
            "sso_data": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": dict(identity),
            **details,
        }
        write_json(out / SETUP, content)
        return
    changed = differences(there["identity"], identity)
    if changed:
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise RunError(
            f"{out}: holds another evaluation: {'; '.join(changed[:3])}{more}; use another --out, "
            "or --overwrite to start it anew"
        )


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """A file for people and scripts, replaced in one piece."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    write_atomic(file, text.encode())
