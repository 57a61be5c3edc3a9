"""The directory of an export: written next to `out`, swapped in whole, only over one of ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from sso_data.core.errors import ConfigError, RunError
from sso_data.core.paths import real_path
from sso_data.core.records import SCHEMA_VERSION, JsonRow
from sso_data.runs.files import (
    NewFile,
    locked_file,
    make_dir,
    recover_dir,
    remove_tree,
    swap_dir,
    write_new,
)

MARK = "export.json"
"""The file by which a directory is known for one of `export`; it names the other files."""


@contextmanager
def new_directory(out: Path, *, overwrite: bool, mark: str = MARK) -> Iterator[Path]:
    """A directory that takes the place of `out` when the context ends well; `mark`: as below.

    Raises RunError where `out` holds something that may not be replaced, or cannot be written.
    """
    final = real_path(out)
    if final == Path.cwd():
        raise ConfigError(f"--out {out}: is the directory you are in; name a new one")
    make_dir(final.parent)
    new = final.with_name(f".{final.name}.new")
    lock = final.with_name(f".{final.name}.lock")
    with locked_file(lock) as is_ours:
        if not is_ours:
            raise RunError(f"{out}: another process writes it; wait for it or end it")
        try:
            recover_dir(final)
            _refuse_strangers(out, final, mark, overwrite=overwrite)
            remove_tree(new)
            make_dir(new)
            yield new
            swap_dir(new, final)
        finally:
            with suppress(RunError):
                recover_dir(final)
                remove_tree(new)
            remove_tree(lock)


class RowsWriter:
    """Rows to a file of JSON lines or, for `.json`, one JSON array; a context manager."""

    def __init__(self, file: Path) -> None:
        self._stream = NewFile(file)
        self._is_array = file.suffix == ".json"
        self._before = b"[\n" if self._is_array else b""

    def __enter__(self) -> "RowsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_array:
            self._stream.write(b"\n]\n" if self._before == b",\n" else b"[]\n")
        self._stream.close()

    def write(self, row: JsonRow) -> None:
        """Add one row."""
        self._stream.write(self._before + orjson.dumps(row) + b"\n" * (not self._is_array))
        self._before = b",\n" if self._is_array else b""


def mark_as_ours(directory: Path, facts: Mapping[str, Any], mark: str = MARK) -> tuple[str, ...]:
    """Write `mark`, by which such a directory may be overwritten; returns the names of all others.

    Its stem says what the directory is: an export, a report.
    """
    files = sorted(path.name for path in directory.iterdir())
    content = {"schema_version": SCHEMA_VERSION, **facts, "files": files}
    write_new(directory / mark, orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    return tuple(files)


def _refuse_strangers(out: Path, final: Path, mark: str, *, overwrite: bool) -> None:
    """RunError for a file, for a directory that is not ours, and for ours without `overwrite`."""
    noun = Path(mark).stem
    if not final.exists():
        return
    if not final.is_dir():
        raise RunError(f"{out}: is a file; name a directory")
    names = {path.name for path in final.iterdir()}
    if not names:
        return
    try:
        ours = set(orjson.loads((final / mark).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{out}: not empty and not made by {noun} (it holds {min(names)}); use another --out"
        ) from error
    if not overwrite:
        raise RunError(
            f"{out}: holds an earlier {noun}; use another --out, or --overwrite to replace it"
        )
    strangers = names - ours - {mark}
    if strangers:
        raise RunError(
            f"{out}: holds {min(strangers)}, which {noun} did not write; move it, or use "
            "another --out"
        )
