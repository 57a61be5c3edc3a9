"""The YAML metadata of a dataset card: ours merged into what a repository has, and checked."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from sso_data.core.errors import InputError, one_line

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
"""(rows below this, what the Hub calls it)."""

_FRONT = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.S | re.M)
_TOP_KEY = re.compile(
    r"""^(?:[ \t]*#[^\n]*\n)*(["']?)([^\s#"'\-\[\]{}&*!|>%@`,?:][^:#\n]*?)\1[ \t]*:(?=\s|$)""", re.M
)
"""A key of the whole mapping, with the comments above it."""
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")
_SLUG = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_WORDING: Mapping[str, tuple[re.Pattern[str], str]] = {
    "language": (_LANGUAGE, "a language code such as en or deu"),
    "license": (_SLUG, "a licence identifier such as apache-2.0, or other"),
}
"""What the user says of the data: the pattern of a field, and what it is in words."""
_SPLIT = re.compile(r"\w+(\.\w+)*")
_CONFIG_NAME = re.compile(r"[^<>:/\\|?*\s][^<>:/\\|?*]*")
_TEXTS_OR_TEXT = ("task_categories", "task_ids", "multilinguality", "annotations_creators")

Metadata = dict[str, Any]


def size_category(rows: int) -> str:
    """How the Hub calls so many rows."""
    return next((name for limit, name in SIZES if rows < limit), "n>1B")


def split_page(card: str) -> tuple[str, str]:
    """(YAML metadata without its fences, the page below it) of a README.md."""
    card = card.removeprefix("\ufeff")
    found = _FRONT.match(card)
    return (found[1], card[found.end() :]) if found else ("", card)


def read_metadata(front: str) -> Metadata:
    """The metadata as values; InputError when it is no YAML mapping."""
    try:
        content = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"README.md: its YAML metadata is not readable: {one_line(error, 300)}; correct it"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError("README.md: its YAML metadata is no mapping of keys; correct it")
    return content


def merged(there: Metadata, ours: Metadata) -> Metadata:
    """What our keys become in a card whose metadata is `there`; keys of others are not in it.

    `ours` holds `configs`; of those there, and of `dataset_info`, others' entries stay. An entry of
    `dataset_info` for a configuration of ours describes older files: it goes.
    """
    changed = dict(ours)
    names = {config["config_name"] for config in ours["configs"]}
    others = [config for config in _configs(there) if config.get("config_name") not in names]
    if others:
        taken = any(c.get("default") or c.get("config_name") == "default" for c in others)
        mine = [_without(c, "default") if taken else c for c in ours["configs"]]
        changed["configs"] = [*others, *mine]
        if there.get("size_categories"):
            del changed["size_categories"]
    for key in ("tags", "task_categories"):
        changed[key] = _union(key, there.get(key), ours[key])
    if "dataset_info" in there:
        changed["dataset_info"] = _other_infos(there["dataset_info"], names)
    return changed


def with_changes(front: str, changes: Metadata) -> str:
    """The YAML text with new values of some keys; the lines of all other keys stay as they are.

    A value that is empty takes its key away.
    """
    values = read_metadata(front)
    blocks = _blocks(front, values)
    for key, value in changes.items():
        if _is_empty(value):
            blocks.pop(key, None)
        elif key not in values or values[key] != value:
            blocks[key] = _dumped({key: value})
    text = "".join(block if block.endswith("\n") else f"{block}\n" for block in blocks.values())
    expected = _filled(values | changes)
    return text if _filled(read_metadata(text)) == expected else _dumped(expected)


def check_wording(**said: Any) -> None:
    """InputError naming the option whose value the Hub would not take; `said` is by field."""
    for field, value in said.items():
        pattern, what = _WORDING[field]
        for wrong in _wrong_values(value, pattern):
            raise InputError(f"--{field} {one_line(repr(wrong), 80)}: is not {what}")


def check(metadata: Mapping[str, Any]) -> None:
    """InputError that names the first field the Hub, or `datasets`, would not take."""
    for field, (pattern, what) in _WORDING.items():
        _check_each(field, metadata, pattern, what)
    _check_each("tags", metadata, re.compile(r"(?s)\S.*"), "a text")
    for key in _TEXTS_OR_TEXT:
        _check_each(key, metadata, _SLUG, "an identifier such as text-generation")
    sizes = [*(name for _, name in SIZES), "1B<n<10B", "10B<n<100B", "100B<n<1T", "n>1T", "other"]
    _check_each("size_categories", metadata, "|".join(map(re.escape, sizes)), f"one of {sizes}")
    _check_configs(_configs(metadata))
    infos = metadata.get("dataset_info", [])
    if not _all_mappings([infos] if isinstance(infos, dict) else infos):
        raise _wrong("dataset_info", "must be a mapping, or a list of mappings")
    _ask_the_library(metadata)


def _ask_the_library(metadata: Mapping[str, Any]) -> None:
    """InputError where the Hub's own client does not take the metadata for a dataset card's."""
    from huggingface_hub import DatasetCardData

    try:
        card = DatasetCardData(**metadata)
        read = yaml.safe_load(card.to_yaml())
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise _wrong("metadata", one_line(error, 300)) from error
    lost = sorted(key for key, value in metadata.items() if value and read.get(key) != value)
    if lost:
        raise _wrong(lost[0], "does not survive being written as YAML")


def _check_each(
    field: str, metadata: Mapping[str, Any], pattern: str | re.Pattern[str], what: str
) -> None:
    """Every text of a field that is a text or a list of texts must be `what`."""
    for wrong in _wrong_values(metadata.get(field), pattern):
        raise _wrong(field, f"{one_line(repr(wrong), 80)} is not {what}")


def _wrong_values(value: Any, pattern: str | re.Pattern[str]) -> list[Any]:
    """Those of one or several values that are no texts of this pattern."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [one for one in values if not isinstance(one, str) or not re.fullmatch(pattern, one)]


def _check_configs(configs: Sequence[Metadata]) -> None:
    seen = set[str]()
    defaults = []
    for config in configs:
        name = config.get("config_name")
        if not isinstance(name, str) or not _CONFIG_NAME.fullmatch(name):
            raise _wrong("configs", f"config_name {one_line(repr(name), 80)} is not a name")
        if name in seen:
            raise _wrong("configs", f"config_name {name!r} is there twice")
        seen.add(name)
        defaults += [name] if config.get("default") or name == "default" else []
        if not _is_data_files(config.get("data_files", [])):
            raise _wrong("configs", f"data_files of {name!r} must name split and path")
    if len(defaults) > 1:
        raise _wrong("configs", f"{defaults[0]!r} and {defaults[1]!r} are both the default")


def _is_data_files(files: Any) -> bool:
    """What `datasets` takes: a path, a list of paths, or a list of splits with their paths."""

    def is_split(item: Any) -> bool:
        return (
            isinstance(item, dict)
            and item.keys() == {"split", "path"}
            and _SPLIT.fullmatch(str(item["split"])) is not None
            and isinstance(item["path"], str | list)
        )

    if isinstance(files, list):
        return all(isinstance(item, str) or is_split(item) for item in files)
    return isinstance(files, str)


def _configs(metadata: Mapping[str, Any]) -> list[Metadata]:
    configs = metadata.get("configs") or []
    if not isinstance(configs, list) or not _all_mappings(configs):
        raise _wrong("configs", "must be a list of mappings, each with a config_name")
    return configs


def _other_infos(infos: Any, names: set[str]) -> Any:
    """`dataset_info` without the entries of the named configurations."""

    def is_other(info: Any) -> bool:
        return not isinstance(info, dict) or info.get("config_name", "default") not in names

    if isinstance(infos, list):
        return [info for info in infos if is_other(info)]
    return infos if is_other(infos) else []


def _union(field: str, there: Any, ours: Sequence[str]) -> list[str]:
    """The texts of both, without doubles, those that were there first."""
    first = there if isinstance(there, list) else [] if there is None else [there]
    if not all(isinstance(text, str) for text in first):
        raise _wrong(field, "must be a list of texts")
    return list(dict.fromkeys([*first, *ours]))


def _blocks(front: str, values: Metadata) -> dict[str, str]:
    """The lines of each top-level key, comments above it included.

    Where they cannot be told apart, each key as we would write it.
    """
    starts = list(_TOP_KEY.finditer(front))
    keys = [found[2].strip() for found in starts]
    if keys != list(values):
        return {key: _dumped({key: value}) for key, value in values.items()}
    places = [0, *(found.start() for found in starts[1:])]
    ends = [*places[1:], len(front)]
    return {key: front[start:end] for key, start, end in zip(keys, places, ends, strict=False)}


def _filled(metadata: Metadata) -> Metadata:
    return {key: value for key, value in metadata.items() if not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    return value in ([], {}, None)


def _dumped(content: Metadata) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    return text


def _all_mappings(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)


def _without(mapping: Metadata, key: str) -> Metadata:
    return {name: value for name, value in mapping.items() if name != key}


def _wrong(field: str, detail: str) -> InputError:
    return InputError(f"dataset card: {field}: {detail}; correct it in the card's metadata")
