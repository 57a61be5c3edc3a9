"""Shorthand for the tests of this folder: write a source, read it whole, or expect its refusal."""

import gzip
import json
from pathlib import Path

import pytest

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError
from sso_data.prompts import BadRow, Candidate, read_prompts

COLUMN_HINT = (
    "; name the prompts' column with --column, or leave such rows out with --skip-bad-rows"
)
HINT = "; correct the row, or leave such rows out with --skip-bad-rows"


def write(path: Path, content: bytes | str) -> Path:
    """`path` with `content`, compressed when its name ends in .gz."""
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_jsonl(path: Path, rows: list[object]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def read(source: Path | str, **options: object) -> list[Candidate | BadRow]:
    return list(read_prompts(str(source), SourceConfig.model_validate(options)))


def good(source: Path | str, **options: object) -> list[Candidate]:
    """All rows of a source, none of which is bad."""
    rows = read(source, **options)
    assert all(isinstance(row, Candidate) for row in rows)
    return [row for row in rows if isinstance(row, Candidate)]


def contents(source: Path | str, **options: object) -> list[str]:
    """The contents of the messages, of all rows in one list."""
    return [message.content for row in good(source, **options) for message in row.messages]


def refusal(source: Path | str, **options: object) -> str:
    """The one line that a source is refused with; a file's own name stands for its path."""
    with pytest.raises(InputError) as caught:
        read(source, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 900
    return line.replace(str(source), Path(source).name)


def bad_row(source: Path | str, **options: object) -> BadRow:
    """The only bad row of a source that is read with skip_bad_rows."""
    found = [row for row in read(source, skip_bad_rows=True, **options) if isinstance(row, BadRow)]
    assert len(found) == 1
    return found[0]
