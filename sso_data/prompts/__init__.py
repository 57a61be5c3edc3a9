"""Prompt files, directories and Hub datasets as one stream of prompts and bad rows.

Everything is streamed: memory does not grow with the source. A path that exists is read as what its
suffix says; a name that is no path is a dataset on the Hub. The user documentation is
`docs/sources.md`.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from sso_data.config.run import SourceConfig, shard_of
from sso_data.core.errors import InputError, one_line
from sso_data.core.paths import is_meant_as_path
from sso_data.core.records import content_hash
from sso_data.prompts.rows import BadRow, Candidate, RawRow, candidate_of
from sso_data.prompts.tables import is_hub_id, read_directory, read_hub, read_parquet
from sso_data.prompts.textfiles import read_csv, read_json_array, read_jsonl, read_lines

__all__ = ["BadRow", "Candidate", "count_prompts", "read_prompts"]

_TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
_KNOWN = f"known: {' '.join(_TEXT_SUFFIXES)} (each also with .gz), .parquet"


def read_prompts(source: str, config: SourceConfig) -> Iterator[Candidate | BadRow]:
    """The prompts of a file, a directory or a Hub dataset, in their order.

    With `config.skip_bad_rows` a malformed row is yielded as a BadRow. Both kinds of row count
    toward `config.limit`: it means a prefix of the source, of which `config.shard` takes its share.
    Raises InputError, of one line, for a malformed row otherwise, and for a source that is missing,
    unreadable or without prompts.
    """
    found = False
    for raw in itertools.islice(raw_rows(source, config), config.limit):
        row = candidate_of(raw, config) if isinstance(raw, RawRow) else raw
        if isinstance(row, BadRow) and not config.skip_bad_rows:
            lacks = isinstance(raw, RawRow) and config.column not in raw.fields
            remedy = "name the prompts' column with --column" if lacks else "correct the row"
            raise InputError(
                f"{row.where}: {row.detail}; {remedy}, or leave such rows out with --skip-bad-rows"
            )
        found = True
        if config.shard is not None:  # by content, so that equal prompts stay together
            which, count = shard_of(config.shard)
            if int(content_hash(row.messages), 16) % count != which - 1:
                continue
        yield row
    if not found:
        raise InputError(f"{source}: holds no prompts")


def count_prompts(source: str, config: SourceConfig) -> int:
    """The number of rows that `read_prompts` yields, each validated; raises as it does."""
    return sum(1 for _ in read_prompts(source, config))


def raw_rows(source: str, config: SourceConfig) -> Iterator[RawRow | BadRow]:
    """The rows of a source as its format gives them; raises InputError for an unknown source."""
    if not source.strip():
        raise InputError("no prompts given: name a file, a directory or a dataset on the Hub")
    path = Path(source)
    try:
        exists, is_directory, is_file = path.exists(), path.is_dir(), path.is_file()
        size = path.stat().st_size if is_file else 0
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(one_line(f"{source}: cannot be read: {reason}")) from error
    if is_directory:
        return read_directory(path, config)
    suffix = path.suffix.lower()
    kind = Path(path.stem).suffix.lower() if suffix == ".gz" else suffix
    if kind not in _TEXT_SUFFIXES and suffix != ".parquet":
        kind = ""
    if not is_file:
        if exists:
            raise InputError(
                f"{source}: not a regular file (prompts are read more than once, so a pipe does "
                "not work)"
            )
        if is_hub_id(source) and not kind and not is_meant_as_path(source):
            return read_hub(source, config)
        where = path.expanduser().absolute()
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
