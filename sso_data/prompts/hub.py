"""Prompts through the `datasets` library: a saved dataset, a directory of data files, a Hub id."""

import os.path
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError, one_line, without_secrets
from sso_data.prompts.rows import BadRow, RawRow, check_header, excerpt, listed
from sso_data.prompts.tables import BATCH_ROWS, batch_rows

_HUB_ID = re.compile(
    r"(?:[A-Za-z0-9][\w-]*|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::[\w.-]+)?", re.ASCII
)
_UNREACHABLE = {"ConnectError", "ConnectTimeout", "ReadTimeout", "OfflineModeIsEnabled"}


def is_hub_id(source: str) -> bool:
    """Whether `source` may be `name`, `namespace/name`, or one of these with `:configuration`.

    A name with a dot and without a namespace is rather a file that is not there.
    """
    return _HUB_ID.fullmatch(source) is not None


def read_directory(directory: Path, config: SourceConfig) -> Iterator[RawRow | BadRow]:
    """A `save_to_disk` directory (memory-mapped), or data files as `datasets` finds them there."""
    place = str(directory.resolve())  # a bare name such as `json` would mean a format to `datasets`
    if any((directory / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _rows(str(directory), config, lambda library: _saved(library, place))
    return _rows(str(directory), config, lambda library: _streamed(library, place, None, place))


def read_hub(source: str, config: SourceConfig) -> Iterator[RawRow | BadRow]:
    """A dataset on the Hub, streamed: nothing is downloaded ahead of the rows."""
    name, _, configuration = source.partition(":")
    return _rows(
        source,
        config,
        lambda library: _streamed(library, name, configuration or None, "hf://datasets"),
    )


def _streamed(library: Any, path: str, configuration: str | None, home: str) -> Any:
    """The dataset as a stream, where its files lie in `home`.

    Its card (README.md) may name other ones: any file of this machine, any address.
    """
    builder = library.load_dataset_builder(path, configuration)
    for files in (builder.config.data_files or {}).values():
        _refuse_elsewhere(path, files, home, "README.md (data_files)")
    return builder.as_streaming_dataset()


def _saved(library: Any, place: str) -> Any:
    """The dataset of `save_to_disk`, where its files lie in `place`: state.json may say others."""
    loaded = library.load_from_disk(place)
    for dataset in loaded.values() if isinstance(loaded, dict) else [loaded]:
        files = [file["filename"] for file in dataset.cache_files]
        _refuse_elsewhere(place, files, place, "state.json (_data_files)")
    return loaded


def _refuse_elsewhere(source: str, files: Iterable[str], home: str, who: str) -> None:
    """InputError for a data file outside of `home`, a directory or the Hub."""
    for file in files:
        if not os.path.normpath(file).startswith(f"{os.path.normpath(home)}{os.sep}"):
            raise InputError(
                f"{source}: its {who} names data that lie elsewhere ({file}); give that file or "
                "dataset itself as the source"
            )


def _rows(
    source: str, config: SourceConfig, load: Callable[[Any], Any]
) -> Iterator[RawRow | BadRow]:
    """The rows of what `load` makes with the library; its errors become InputErrors."""
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a counter at the Hub: telemetry
    datasets.disable_progress_bars()
    start = 0
    try:
        dataset, label = _one_split(load(datasets), source, config.split)
        for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
            if not start:
                check_header(source, table.column_names, config)
            yield from batch_rows(table, f"{label}:row", start)
            start += table.num_rows
    except InputError:
        raise
    except Exception as error:  # from whichever of a dozen libraries serves it
        raise InputError(one_line(f"{source}: {_explained(error)}")) from error


def _one_split(loaded: Any, source: str, split: str) -> tuple[Any, str]:
    """The dataset of `split` and its name in messages; one saved without splits is itself."""
    if not isinstance(loaded, dict):
        return loaded, source
    if split not in loaded:
        raise InputError(
            f"{source}: no split {split!r} (splits: {listed(loaded)}); set source.split to one"
        )
    return loaded[split], f"{source}:{split}"


def _explained(error: Exception) -> str:
    """Why `datasets` could not read a source, and what to do."""
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
    elif "BuilderConfig" in text or "Config name is missing" in text:
        known = re.search(r"\[(.*?)\]", text)
        names = known[1].replace("'", "") if known else "see its page"
        what = f"choose one of its configurations ({names}) by writing ID:CONFIGURATION"
    elif isinstance(error, ConnectionError) or type(error).__name__ in _UNREACHABLE:
        what = "no such file here, and the Hub cannot be reached; check the network, HF_ENDPOINT "
        what += "and HF_HUB_OFFLINE"
    return what
