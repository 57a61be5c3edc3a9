"""Prompts from Arrow tables: Parquet files, and what the `datasets` library reads.

The latter are directories that `save_to_disk` wrote, directories of data files, and Hub datasets.
"""

import os.path
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError, one_line, without_secrets
from sso_data.core.paths import FETCH_LFS, is_lfs_pointer, real_path
from sso_data.prompts.layouts import check_header
from sso_data.prompts.rows import BadRow, RawRow, excerpt, listed
from sso_data.prompts.textfiles import read_csv, read_jsonl

_BATCH_ROWS = 256
_READ_AHEAD_BYTES = 2**18

_HUB_ID = re.compile(
    r"(?:[A-Za-z0-9][\w-]*|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::[\w.-]+)?", re.ASCII
)
_HUB_SECONDS = 10.0
_UNREACHABLE = {"ConnectError", "ConnectTimeout", "ReadTimeout", "OfflineModeIsEnabled"}


def read_parquet(path: Path, config: SourceConfig) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a Parquet file, in batches; a column chunk is never held as a whole.

    Raises InputError where the file cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, buffer_size=_READ_AHEAD_BYTES, pre_buffer=False) as file:
            check_header(str(path), file.schema_arrow.names, config)
            start = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from _batch_rows(batch, f"{path}:row", start)
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if is_lfs_pointer(path):
            raise InputError(f"{path}: {FETCH_LFS}") from error
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(one_line(f"{path}: cannot be read as Parquet: {reason}", 300)) from error


def _batch_rows(batch: Any, label: str, start: int) -> Iterator[RawRow | BadRow]:
    """The rows of an Arrow batch or table, `start` rows into its source.

    A value that Python cannot hold (text that is not UTF-8, a year 10000) makes only its row bad.
    """
    invalid = (ValueError, OverflowError, TypeError)
    try:
        rows = batch.to_pylist()
    except invalid:
        rows = None
    for place in range(batch.num_rows):
        where = f"{label} {start + place + 1}"
        try:
            fields = batch.slice(place, 1).to_pylist()[0] if rows is None else rows[place]
        except UnicodeDecodeError as error:
            detail = f"a text is not UTF-8 ({error.reason})"
            yield BadRow(where=where, raw=excerpt(error.object[:200]), detail=detail)
        except invalid as error:
            detail = f"a value cannot be read: {excerpt(str(error))}"
            yield BadRow(where=where, raw="", detail=detail)
        else:
            yield RawRow(where=where, fields=fields)


def is_hub_id(source: str) -> bool:
    """True for `name` and `namespace/name`, each also with `:configuration`.

    A name with a dot and without a namespace is taken for a missing file.
    """
    return _HUB_ID.fullmatch(source) is not None


def read_directory(directory: Path, config: SourceConfig) -> Iterator[RawRow | BadRow]:
    """Yield rows of a `save_to_disk` directory (memory-mapped), or of data files found there.

    Raises InputError where `datasets` cannot read them.
    """
    place = str(real_path(directory))  # not a bare name: `json` is a format to `datasets`
    if any((directory / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _rows(str(directory), config, lambda library: _saved(library, place))
    load = lambda library: _streamed(library, place, None, place)  # noqa: E731 - as above
    return _rows(str(directory), config, load, directory)


def lines_files(directory: Path, split: str) -> list[Path]:
    """The JSONL files of a split of a directory, as `datasets` finds them; none for other files.

    They are read one after the other: a table would need the same columns in all of them.
    """
    if any((directory / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return []
    import datasets

    try:
        place = str(real_path(directory))
        builder = datasets.load_dataset_builder(place)
        named = (builder.config.data_files or {}).get(split, ())
        found = [Path(os.path.normpath(file)) for file in named]
    except Exception:  # noqa: BLE001 - the reading of the directory says what is wrong
        return []
    inside = all(file.is_relative_to(place) and file.is_file() for file in found)
    lines = all({".jsonl", ".ndjson"} & {*file.suffixes[-2:]} for file in found)
    return found if inside and lines else []


def read_hub(source: str, config: SourceConfig) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a dataset on the Hub, streamed: nothing is downloaded ahead of the rows.

    Raises InputError where it is missing, private or unreadable.
    """
    name, _, configuration = source.partition(":")

    def load(library: Any) -> Any:
        _ask_the_hub()
        return _streamed(library, name, configuration or None, "hf://datasets")

    return _rows(source, config, load)


def _ask_the_hub() -> None:
    """Raise httpx's error if the Hub does not answer: `datasets` would ask it for half a minute."""
    from huggingface_hub import constants, get_session

    if not constants.HF_HUB_OFFLINE:  # then there is what was downloaded before
        get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)


def _streamed(library: Any, path: str, configuration: str | None, home: str) -> Any:
    """The dataset as a stream; raises InputError where it has files outside of `home`.

    Its card (README.md) may name any file of this machine and any address.
    """
    builder = library.load_dataset_builder(path, configuration)
    for files in (builder.config.data_files or {}).values():
        _refuse_elsewhere(path, files, home, "README.md (data_files)")
    return builder.as_streaming_dataset()


def _saved(library: Any, place: str) -> Any:
    """The dataset of `save_to_disk`; raises InputError where state.json names other files."""
    loaded = library.load_from_disk(place)
    for dataset in loaded.values() if isinstance(loaded, dict) else [loaded]:
        files = [file["filename"] for file in dataset.cache_files]
        _refuse_elsewhere(place, files, place, "state.json (_data_files)")
    return loaded


def _refuse_elsewhere(source: str, files: Iterable[str], home: str, who: str) -> None:
    """Raise InputError for a data file outside of `home`, a directory or the Hub."""
    for file in files:
        if not os.path.normpath(file).startswith(f"{os.path.normpath(home)}{os.sep}"):
            raise InputError(
                f"{source}: its {who} refers to data outside it ({file}); use that file or dataset "
                "as the source"
            )


def _first_fault(directory: Path, config: SourceConfig) -> str:
    """What our readers say of the first file of a directory that they refuse; "" for none."""
    readers: dict[str, Callable[[Path], Iterator[RawRow | BadRow]]] = {
        ".csv": lambda file: read_csv(file, config, delimiter=","),
        ".jsonl": read_jsonl,
        ".parquet": lambda file: read_parquet(file, config),
    }
    for file in sorted(directory.rglob("[!._]*")):
        try:
            rows = readers[file.suffix.lower()](file) if file.suffix.lower() in readers else ()
            if bad := next((row for row in rows if isinstance(row, BadRow)), None):
                return f"{bad.where}: {bad.detail}; correct the row"
        except InputError as error:
            return str(error)
    return ""


def _rows(
    source: str, config: SourceConfig, load: Callable[[Any], Any], files: Path | None = None
) -> Iterator[RawRow | BadRow]:
    """The rows of the dataset that `load` opens; errors of the library become InputErrors.

    Of data `files` in a directory the error names the file, and its line.
    """
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a counter at the Hub: telemetry
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs, it raises as well
    start = 0
    try:
        dataset, label = load(datasets), source
        if isinstance(dataset, dict):  # one may be saved without splits
            if config.split not in dataset:
                raise InputError(
                    f"{source}: no split {config.split!r} (splits: {listed(dataset)}); set "
                    "source.split to one"
                )
            dataset, label = dataset[config.split], f"{source}:{config.split}"
        for table in dataset.with_format("arrow").iter(batch_size=_BATCH_ROWS):
            if not start:
                check_header(source, table.column_names, config)
            yield from _batch_rows(table, f"{label}:row", start)
            start += table.num_rows
    except InputError:
        raise
    except Exception as error:  # from whichever of a dozen libraries serves it
        fault = _first_fault(files, config) if files else ""
        fault = fault or one_line(f"{source}: {_explained(source, error, bool(files))}")
        raise InputError(fault) from error


def _explained(source: str, error: Exception, of_files: bool) -> str:
    """Return why `datasets` could not read a source, and what to do.

    `of_files`: the source is a directory of files, each of which can be read by itself.
    """
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    text = without_secrets(str(error))
    what = f"`datasets` cannot read it: {type(error).__name__}: {excerpt(text)}"
    if "gated dataset" in text:
        what = "a gated dataset; ask for access on its page on the Hub, then `hf auth login`"
    elif isinstance(error, DatasetNotFoundError):
        what = "no such file here and no such dataset on the Hub (private? `hf auth login`)"
    elif isinstance(error, EmptyDatasetError | DataFilesNotFoundError):
        what = "holds no data files that `datasets` can read (JSONL, Parquet, CSV, ...)"
        if of_files and re.search(r"[*?[]", source):
            what += "; it takes *, ? and [ in a path for patterns: rename the directory"
    elif "BuilderConfig" in text or "Config name is missing" in text:
        known = re.search(r"\[(.*?)\]", text)
        names = known[1].replace("'", "") if known else "see its page"
        what = f"choose one of its configurations ({names}) by writing ID:CONFIGURATION"
    elif of_files and type(error).__name__ in ("ArrowInvalid", "CastError"):
        what = "its files have other columns or types than one another; make them equal, or give "
        what += "one file"
    elif isinstance(error, ConnectionError) or type(error).__name__ in _UNREACHABLE:
        what = "no such file here, and the Hub cannot be reached; check the network, HF_ENDPOINT "
        what += "and HF_HUB_OFFLINE"
    return what
