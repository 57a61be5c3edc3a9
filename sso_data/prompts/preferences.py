"""Preference rows to train on: a run's pairs, an exported directory, any file, a Hub dataset."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError
from sso_data.prompts import raw_rows
from sso_data.prompts.rows import BadRow, listed
from sso_data.prompts.tables import read_parquet

_NEEDED = ("chosen", "rejected")


def read_preferences(
    source: str, *, split: str = "train", limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a preference set, each with `chosen` and `rejected`; at most `limit` of them.

    Raises InputError, of one line, for a source that is missing, malformed or without such rows.
    """
    config = SourceConfig(split=split, column="")
    found = 0
    for place in _places(source, split):
        if place.endswith(".parquet"):
            rows = read_parquet(Path(place), config)
        else:
            rows = raw_rows(place, config)
        for row in itertools.islice(rows, None if limit is None else limit - found):
            if isinstance(row, BadRow):
                raise InputError(f"{row.where}: {row.detail}; correct the row")
            missing = [name for name in _NEEDED if row.fields.get(name) is None]
            if missing:
                raise InputError(
                    f"{row.where}: no column {missing[0]!r} (columns: {listed(row.fields)}); "
                    "a preference set has chosen and rejected, and prompt"
                )
            found += 1
            yield dict(row.fields)
    if not found:
        raise InputError(f"{source}: holds no preference pairs")


def _places(source: str, split: str) -> list[str]:
    """The files that hold the rows of `source`; `source` itself if it is a file or a Hub id.

    A directory of pairs holds the same rows as JSONL and as Parquet: one of the two is read.
    """
    folder = Path(source)
    if not source.strip() or not folder.is_dir():
        return [source]
    if (folder / "run.json").is_file():
        if split != "train":
            raise InputError(
                f"{source}: a run directory has only the split 'train', not {split!r}; "
                "leave out --split"
            )
        pairs = folder / "pairs" / "train.jsonl"
        if not pairs.is_file():
            raise InputError(
                f"{folder}: no pairs in it; decide on them with `sso-data filter {folder}`"
            )
        return [_not_empty(pairs, folder)]
    lines = folder / f"{split}.jsonl"
    if lines.is_file():
        return [_not_empty(lines, folder.parent if folder.name == "pairs" else folder)]
    tables = sorted(folder.glob(f"{split}.parquet")) or sorted(folder.glob(f"{split}-*.parquet"))
    return [str(file) for file in tables] or [source]


def _not_empty(pairs: Path, run: Path) -> str:
    """The name of a file of pairs; raises InputError where the filter kept nothing."""
    if not pairs.stat().st_size:
        raise InputError(
            f"{pairs}: empty, the filter kept nothing; `sso-data filter {run} --dry-run` says why, "
            "and what would keep more"
        )
    return str(pairs)
