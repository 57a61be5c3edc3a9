"""Prompt files, directories and Hub datasets as one stream of prompts and bad rows.

Everything is streamed: memory does not grow with the source. A path that exists is read as what its
suffix says; a name that is no path is a dataset on the Hub. The user documentation is
`docs/sources.md`.
"""

import functools
import itertools
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sso_data.config.run import SourceConfig, shard_of
from sso_data.core.errors import InputError, one_line
from sso_data.core.paths import is_meant_as_path
from sso_data.core.records import content_hash
from sso_data.prompts.layouts import LAYOUTS, candidates_of, layout_of, used_columns
from sso_data.prompts.rows import BadRow, Candidate, RawRow, RowError, listed
from sso_data.prompts.tables import is_hub_id, lines_files, read_directory, read_hub, read_parquet
from sso_data.prompts.textfiles import (
    COMPRESSIONS,
    read_csv,
    read_json_array,
    read_jsonl,
    read_lines,
    starts_with,
)

__all__ = ["BadRow", "Candidate", "count_prompts", "layouts_in", "open_prompts", "read_prompts"]

_TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
_KNOWN = f"known: {' '.join(_TEXT_SUFFIXES)} (each also with {', '.join(COMPRESSIONS)}), .parquet"
_FIRST_ROWS = 64
_PEOPLES_CHATS = re.compile(r"wildchat|lmsys|sharegpt|chatbot.?arena", re.IGNORECASE)


def read_prompts(source: str, config: SourceConfig) -> Iterator[Candidate | BadRow]:
    """The prompts of a file, a directory or a Hub dataset, in their order.

    With `config.skip_bad_rows` a malformed row is yielded as a BadRow. Both kinds of row count
    toward `config.limit`: it means a prefix of the source, of which `config.shard` takes its share.
    Raises InputError, of one line, for a malformed row otherwise, and for a source that is missing,
    unreadable or without prompts.
    """
    yield from _prompts_of(source, config, raw_rows(source, config))


def open_prompts(
    source: str, config: SourceConfig
) -> tuple[str, bool, Iterator[Candidate | BadRow]]:
    """Open a source once: how its first rows are read, and the prompts of `read_prompts`.

    Returns (a line about the layouts, whether the prompts are people's chats, the prompts). Raises
    InputError as `read_prompts` for a source that cannot be read, or of no known layout.
    """
    rows = raw_rows(source, config)
    first = list(itertools.islice(rows, min(_FIRST_ROWS, config.limit or _FIRST_ROWS)))
    prompts = _prompts_of(source, config, itertools.chain(first, rows))
    if (found := _layouts_of(source, config, first)) is None:
        prompts = itertools.chain(list(itertools.islice(prompts, 1)), prompts)
    line, chats = found or (f"{source}: none of the first rows is a prompt", False)
    return line, chats, prompts


def layouts_in(source: str, config: SourceConfig) -> tuple[str, bool]:
    """The first two results of `open_prompts`; raises as it does."""
    return open_prompts(source, config)[:2]


def _prompts_of(
    source: str, config: SourceConfig, raws: Iterable[RawRow | BadRow]
) -> Iterator[Candidate | BadRow]:
    """The prompts of a source's rows; see `read_prompts`."""
    found = False
    for raw in itertools.islice(raws, config.limit):
        rows = candidates_of(raw, config) if isinstance(raw, RawRow) else [raw]
        for row in rows:
            if isinstance(row, BadRow) and not config.skip_bad_rows:
                remedy = "correct the row"
                if row.detail.startswith("no column"):
                    remedy = "name the prompts' column with --column"
                raise InputError(
                    f"{row.where}: {row.detail}; {remedy}, or leave such rows out with "
                    "--skip-bad-rows"
                )
            found = True
            if config.shard is not None:  # by content, so that equal prompts stay together
                which, count = shard_of(config.shard)
                if int(content_hash(row.messages), 16) % count != which - 1:
                    continue
            yield row
    if not found:
        raise InputError(f"{source}: holds no prompts")


def _layouts_of(
    source: str, config: SourceConfig, first: Sequence[RawRow | BadRow]
) -> tuple[str, bool] | None:
    """How the first rows of a source are read, in one line; and whether they are people's chats.

    None where none of them is of a known layout.
    """
    names: Counter[str] = Counter()
    prompt: dict[str, None] = {}
    beside: dict[str, None] = {}
    answered = several = False
    for raw in first:
        if not isinstance(raw, RawRow):
            continue
        try:
            layout, column = layout_of(raw.fields, config)
        except RowError:
            continue
        names[layout.name] += 1
        used = used_columns(layout, column, raw.fields) | {config.id_column}
        prompt |= dict.fromkeys(name for name in raw.fields if name in used - {config.id_column})
        beside |= dict.fromkeys(name for name in raw.fields if name not in used)
        answered = answered or layout.answered
        value = raw.fields.get(column)
        several = several or (
            isinstance(value, list) and all(isinstance(one, str) for one in value)
        )
    if not names:
        return None
    take = config.take or ("last-user" if answered else None)
    parts = [
        f"{source}: read as {' and '.join(names)} (prompt: {listed(prompt)})",
        {
            "last-user": "up to the last user turn",
            "first-user": "up to the first user turn",
            "every-user": "a prompt up to each user turn",
            None: "",
        }[take],
        "of several questions in a row the first (--take every-user: each)"
        if several and not take
        else "",
        f"metadata: {listed(beside)}" if beside else "",
        unused_split(source, config.split),
    ]
    chats = any(layout.real_people for layout in LAYOUTS if layout.name in names)
    return one_line("; ".join(filter(None, parts))), bool(_PEOPLES_CHATS.search(source)) or chats


def unused_split(source: str, split: str) -> str:
    """Say that a file has no splits, where one is named that is not the default; else ""."""
    if split == SourceConfig().split or not Path(source).is_file():
        return ""
    return f"one file has no splits: {split!r} chooses nothing, every row is read"


def count_prompts(source: str, config: SourceConfig) -> int:
    """The number of rows that `read_prompts` yields, each validated; raises as it does."""
    return sum(1 for _ in read_prompts(source, config))


def raw_rows(source: str, config: SourceConfig) -> Iterator[RawRow | BadRow]:
    """The rows of a source as its format gives them; raises InputError for an unknown source."""
    if not source.strip():
        raise InputError("no prompts given: name a file, a directory or a dataset on the Hub")
    if source == "-":
        return _stdin_rows(config)
    path = Path(source)
    try:
        exists, is_directory, is_file = path.exists(), path.is_dir(), path.is_file()
        size = path.stat().st_size if is_file else 0
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(one_line(f"{source}: cannot be read: {reason}")) from error
    if is_directory:
        is_model = (path / "config.json").is_file() and any(path.glob("*.safetensors"))
        if is_model or (path / "run.json").is_file():
            what = "a model; it is named with --model" if is_model else "a run"
            raise InputError(
                f"{source}: is {what}; give a file, a directory or a dataset of prompts"
            )
        if files := lines_files(path, config.split):
            return itertools.chain.from_iterable(map(read_jsonl, files))
        return read_directory(path, config)
    suffix = path.suffix.lower()
    kind = Path(path.stem).suffix.lower() if suffix in COMPRESSIONS else suffix
    if kind not in _TEXT_SUFFIXES and suffix != ".parquet":
        kind = ""
    if not is_file:
        if exists:
            raise InputError(
                f"{source}: not a regular file; prompts are read more than once: pipe them in and "
                "give - as the file"
            )
        if is_hub_id(source) and not kind and not is_meant_as_path(source):
            return read_hub(source, config)
        if "://" in source:
            raise InputError(
                f"{source}: no such file, and addresses are not read; download it, or name a "
                "dataset of the Hub as NAMESPACE/NAME"
            )
        where = path.absolute()
        raise InputError(one_line(f"{where}: no such file, and not the name of a Hub dataset"))
    if not size:
        raise InputError(f"{source}: the file is empty")
    match kind:
        case ".jsonl" | ".ndjson":
            return read_jsonl(path)
        case ".json":
            return read_json_array(path)
        case ".csv":
            return read_csv(path, config, delimiter=",")
        case ".tsv":
            return read_csv(path, config, delimiter="\t")
        case ".txt":
            return read_lines(path, config)
        case ".parquet":
            return read_parquet(path, config)
        case _:
            suffix = "".join(path.suffixes[-2:]) or "no suffix"
            raise InputError(f"{path}: unknown file format ({suffix}); {_KNOWN}")


def _stdin_rows(config: SourceConfig) -> Iterator[RawRow | BadRow]:
    """The rows of stdin: JSONL or a JSON array where it begins like one, else a prompt a line."""
    path = Path(_stdin_copy().name)
    if not path.stat().st_size:
        raise InputError("-: stdin is empty")
    readers = {b"{": read_jsonl, b"[": read_json_array}
    try:
        read = readers.get(starts_with(path), functools.partial(read_lines, config=config))
        for row in read(path):
            yield replace(row, where=row.where.replace(str(path), "stdin", 1))
    except InputError as error:
        detail = str(error).replace(str(path), "stdin", 1)
        detail = re.sub(r"; rename it to .*", "; unpack it on the way in, or name the file", detail)
        raise InputError(detail) from error


@functools.cache
def _stdin_copy() -> "tempfile._TemporaryFileWrapper[bytes]":
    """A copy of stdin for the length of the process: prompts are read more than once."""
    try:
        copy = tempfile.NamedTemporaryFile(prefix="sso-data-stdin-")  # noqa: SIM115 - ends with us
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: cannot hold stdin ({error.strerror or error}); set TMPDIR "
            "to another directory, or name a file"
        ) from error
    return copy
