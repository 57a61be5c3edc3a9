"""The directory that `export` writes: made beside, swapped in whole, and only over one of ours."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from sso_data.core.errors import ConfigError, RunError
from sso_data.core.records import SCHEMA_VERSION, JsonRow
from sso_data.exporting.formats import DataFile
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
"""Stands in a directory that `export` wrote, and names its files."""


@contextmanager
def new_directory(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A directory that takes the place of `out` when the context ends well.

    Raises RunError where something stands there that may not be replaced, or cannot be written.
    """
    final = out.resolve()
    if final == Path.cwd():
        raise ConfigError(f"--out {out}: is the directory you are in; name a new one")
    make_dir(final.parent)
    new = final.with_name(f".{final.name}.new")
    lock = final.with_name(f".{final.name}.lock")
    with locked_file(lock) as is_ours:
        if not is_ours:
            raise RunError(f"{out}: another process exports to it; wait for it or end it")
        try:
            recover_dir(final)
            _refuse_strangers(out, final, overwrite=overwrite)
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
    """Rows to one file, one at a time; used as a context manager, which ends the file."""

    def __init__(self, directory: Path, file: DataFile) -> None:
        self._file = file
        self._stream = NewFile(directory / file.name)
        self._separator = b"[\n" if file.layout == "array" else b""

    def __enter__(self) -> "RowsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file.layout == "array":
            self._stream.write(b"\n]\n" if self._separator == b",\n" else b"[]\n")
        self._stream.close()

    def write(self, row: JsonRow) -> None:
        """Add one row."""
        line = orjson.dumps(row)
        if self._file.layout == "array":
            self._stream.write(self._separator + line)
            self._separator = b",\n"
        else:
            self._stream.write(line + b"\n")


def open_writers(
    stack: ExitStack, directory: Path, files: tuple[DataFile, ...]
) -> list[RowsWriter]:
    """A writer for each file, closed with `stack`."""
    return [stack.enter_context(RowsWriter(directory, file)) for file in files]


def write_texts(directory: Path, texts: Mapping[str, str]) -> None:
    """Small files that nobody reads yet."""
    for name, text in texts.items():
        write_new(directory / name, text.encode())


def mark_as_ours(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write export.json, which names every file; the directory may be overwritten from then on."""
    files = sorted(path.name for path in directory.iterdir())
    content = {"schema_version": SCHEMA_VERSION, **facts, "files": files}
    write_new(directory / MARK, orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


def _refuse_strangers(out: Path, final: Path, *, overwrite: bool) -> None:
    """RunError for a file, for a directory that is not ours, and for ours without `overwrite`."""
    if not final.exists():
        return
    if not final.is_dir():
        raise RunError(f"{out}: is a file; name a directory")
    names = {path.name for path in final.iterdir()}
    if not names:
        return
    ours = _files_of(final)
    if ours is None:
        raise RunError(
            f"{out}: not empty and not made by export (it holds {min(names)}); use another --out"
        )
    if not overwrite:
        raise RunError(f"{out}: holds an export; use another --out, or --overwrite to replace it")
    strangers = names - ours - {MARK}
    if strangers:
        raise RunError(
            f"{out}: holds {min(strangers)}, which export did not write; move it, or use "
            "another --out"
        )


def _files_of(directory: Path) -> set[str] | None:
    """The files that an export wrote there; None where none did."""
    try:
        return set(orjson.loads((directory / MARK).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
