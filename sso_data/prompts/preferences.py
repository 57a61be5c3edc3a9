"""Preference rows to train on: a run's pairs, an exported directory, any file, a Hub dataset."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError, one_line
from sso_data.prompts import raw_rows, unused_split
from sso_data.prompts.layouts import PAIR, pair_of, prompt_beside, used_columns
from sso_data.prompts.rows import CORRECT_OR_SKIP, BadRow, RawRow, RowError, listed


def read_preferences(
    source: str,
    *,
    split: str = "train",
    limit: int | None = None,
    skip: Callable[[str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows of a preference set, each with `chosen` and `rejected`; at most `limit` of them.

    Layouts of other programs become messages; our own rows, with token ids, are as they are. A
    malformed row is told to `skip` and left out. Raises InputError, of one line, for one without
    `skip`, and for a source that is missing or without pairs.
    """
    config = SourceConfig(split=split, column="")
    taken = found = 0
    first_bad = ""
    for place in _places(source, split):
        most = None if limit is None else limit - taken
        for row in itertools.islice(raw_rows(place, config), most):
            taken += 1
            try:
                pair = _pair(row)
            except RowError as error:
                detail = one_line(f"{row.where}: {error}")
                if skip is None:
                    raise InputError(f"{detail}; {CORRECT_OR_SKIP}") from error
                skip(detail)
                first_bad = first_bad or f"; first malformed row: {detail}"
                continue
            found += 1
            yield pair
    if not found:
        raise InputError(f"{source}: holds no preference pairs{first_bad}")


def pairs_layout(source: str, split: str) -> str:
    """How the first row of a preference set is read, in one line; "" for our own rows.

    Says, too, where the split chooses nothing.
    """
    config = SourceConfig(split=split, column="")
    raw = (row for place in _places(source, split) for row in raw_rows(place, config))
    row = next(raw, None)
    said = [
        _layout_of(row.fields) if isinstance(row, RawRow) else "",
        unused_split(source, split),
    ]
    parts = "; ".join(filter(None, said))
    return f"{source}: {parts}" if parts else ""


def _layout_of(fields: Mapping[str, Any]) -> str:
    if "chosen_token_ids" in fields or not {*PAIR} <= fields.keys():
        return ""
    try:
        beside = prompt_beside(fields)
    except RowError:  # told when the rows are read
        return ""
    if beside is None:
        return "the prompt is what chosen and rejected begin with"
    layout, column = beside
    prompt = [name for name in used_columns(layout, column, fields) if name in fields]
    return f"read as {layout.name} (prompt: {listed(sorted(prompt))})"


def _pair(row: RawRow | BadRow) -> dict[str, Any]:
    """The row's columns, with its pair as messages; RowError for a row that holds none."""
    if isinstance(row, BadRow):
        raise RowError(row.detail)
    missing = [name for name in PAIR if row.fields.get(name) is None]
    if missing and missing[0] in row.fields:
        raise RowError(f"{missing[0]} is null")
    if missing:
        raise RowError(
            f"no column {missing[0]!r} (columns: {listed(row.fields)}); a preference set has "
            "chosen and rejected, and prompt"
        )
    if row.fields.get("chosen_token_ids") is not None:
        return dict(row.fields)
    return {**row.fields, **pair_of(row.fields)}


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
