"""What `filter` last decided, read back: filter.json and the kept rows of `RUN/pairs`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from sso_data.core.errors import RunError, one_line
from sso_data.core.records import JsonRow
from sso_data.runs.journal import read_lines


def read_decided(run: Path) -> dict[str, Any]:
    """filter.json of a run; RunError says how to make it."""
    file = run / "pairs" / "filter.json"
    try:
        content = orjson.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise RunError(
            f"{run}: no pairs in it; decide on them with `sso-data filter {run}`"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: not readable: {one_line(error, 200)}; {_anew(run)}") from error
    if not _is_decided(content):
        raise RunError(f"{file}: not the filter.json of a run; {_anew(run)}")
    return dict(content)


def section(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of run.json that is a mapping; an empty one where it is missing or something else."""
    found = facts.get(key)
    return found if isinstance(found, dict) else {}


def read_pairs(run: Path) -> Iterator[tuple[str, JsonRow]]:
    """(where, the outside row) of each kept row; RunError names a line that is no row of ours."""
    file = run / "pairs" / "train.jsonl"
    if not file.is_file():
        raise RunError(f"{run}: no pairs in it; decide on them with `sso-data filter {run}`")
    for number, (_, line) in enumerate(read_lines(file), start=1):
        try:
            row = orjson.loads(line)
        except ValueError as error:
            raise RunError(f"{file}:{number}: not JSON; {_anew(run)}") from error
        if not isinstance(row, dict):
            raise RunError(f"{file}:{number}: not a row; {_anew(run)}")
        yield f"{file}:{number}", row


def not_a_row(where: str, error: Exception) -> RunError:
    """The failure of a line that lacks what a row of ours has."""
    what = f"{type(error).__name__}: {one_line(error, 100)}"
    return RunError(f"{where}: not a row of ours ({what}); write it anew with `sso-data filter`")


def _is_decided(content: Any) -> bool:
    """Whether this is what `filter` writes, as far as readers rely on it."""
    try:
        stages = [stage["dropped"] + stage["left"] for stage in content["funnel"]]
        named = [stage["reason"] for stage in content["funnel"]]
        counts = [*stages, content["rows"], content["kept"], *content["dropped"].values()]
        return (
            bool(named)
            and all(isinstance(name, str) for name in (content["preset"], *named))
            and all(isinstance(count, int) for count in counts)
            and isinstance(content["thresholds"]["resolved"], dict)
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _anew(run: Path) -> str:
    return f"write it anew with `sso-data filter {run}`"
