"""README.md of a repository: our metadata and our part of the page, merged into what is there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sso_data.core.errors import InputError, one_line
from sso_data.core.yaml_files import parse_yaml_1_1, yaml_text

README = "README.md"
START = "<!-- sso-data: start (up to the end mark, rewritten by every push) -->"
END = "<!-- sso-data: end -->"

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
"""(rows below this, the Hub's name for it)."""

Metadata = dict[str, Any]

_START = re.compile(r"^<!-- sso-data: start.*-->[ \t]*\r?$", re.MULTILINE)
_END = re.compile(r"^<!-- sso-data: end -->[ \t]*\r?$", re.MULTILINE)
_FRONT = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.S | re.M)
_TOP_KEY = re.compile(
    r"""^(?:[ \t]*#[^\n]*\n)*(["']?)([^\s#"'\-\[\]{}&*!|>%@`,?:][^:#\n]*?)\1[ \t]*:(?=\s|$)""", re.M
)
"""A key of the whole mapping, with the comments above it."""

_SLUG = r"[a-z0-9][a-z0-9.+-]*"
_OPTIONS: Mapping[str, tuple[str, str]] = {
    "language": (
        r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code",
        "a language code such as en or deu",
    ),
    "license": (_SLUG, "a licence identifier such as apache-2.0, or other"),
}
_TASK = (_SLUG, "an identifier such as text-generation")
_SIZE_NAMES = [
    *(name for _, name in SIZES),
    *("1B<n<10B", "10B<n<100B", "100B<n<1T", "n>1T", "other"),
]
_FIELDS: Mapping[str, tuple[str, str]] = {
    **_OPTIONS,
    "tags": (r"(?s)\S.*", "a text"),
    "task_categories": _TASK,
    "task_ids": _TASK,
    "multilinguality": _TASK,
    "annotations_creators": _TASK,
    "size_categories": ("|".join(map(re.escape, _SIZE_NAMES)), f"one of {_SIZE_NAMES}"),
}
"""Fields of one or several texts: the pattern of a text, and a description of it."""

_SPLIT = re.compile(r"\w+(\.\w+)*")
_CONFIG_NAME = re.compile(r"[^<>:/\\|?*\s][^<>:/\\|?*]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Our part of a README.md.

    `shared_page` is the page for a repository with data configurations of others, where it differs.
    `config_names` are the configurations that a push writes, now or with other options.
    """

    metadata: Metadata
    page: str
    shared_page: str | None = None
    config_names: frozenset[str] = frozenset()


def merge_card(card: Card, existing: str = "") -> str:
    """README.md: our card in the place of an earlier one in `existing`.

    Text around it and metadata that are not ours are kept. Raises InputError for an `existing` card
    that is malformed, and naming a field that the Hub, or `datasets`, would not accept.
    """
    front, rest = split_page(existing)
    there = read_metadata(front)
    changes = dict(card.metadata)
    for key in changes.keys() & {"tags", "task_categories"}:
        texts = there.get(key)
        texts = texts if isinstance(texts, list) else [] if texts is None else [texts]
        if not all(isinstance(text, str) for text in texts):
            raise _wrong(key, "must be a list of texts")
        changes[key] = list(dict.fromkeys([*texts, *changes[key]]))
    page = card.page
    if "configs" in changes:
        if _merge_configs(there, changes, card.config_names) and card.shared_page is not None:
            page = card.shared_page
        _check({key: value for key, value in (there | changes).items() if value is not None})
    place = _marked(rest)
    before, after = (rest.rstrip(), "") if place is None else (rest[: place[0]], rest[place[1] :])
    if f"{before}{after}".strip():
        page = f"#{page}"  # the title one level lower
    block = f"{START}\n{page.strip()}\n{END}"
    if place is None:
        before, after = f"{before}\n\n" if before else "", "\n"
    return f"---\n{with_changes(front, changes)}---\n\n{f'{before}{block}{after}'.lstrip()}"


def _merge_configs(there: Metadata, changes: Metadata, names: frozenset[str]) -> bool:
    """Add the `configs` and `dataset_info` of others to ours; return False where there are none.

    `names` are further configurations of ours, besides those of `changes`.
    """
    ours = changes["configs"]
    names |= {config["config_name"] for config in ours}
    others = [one for one in _configs(there) if one.get("config_name") not in names]
    if others:
        taken = any(c.get("default") or c.get("config_name") == "default" for c in others)
        if taken:
            ours = [{k: v for k, v in config.items() if k != "default"} for config in ours]
        changes["configs"] = [*others, *ours]
        if there.get("size_categories"):
            del changes["size_categories"]
    infos = there.get("dataset_info") or []
    infos = [infos] if isinstance(infos, dict) else infos
    if not isinstance(infos, list):
        changes["dataset_info"] = infos  # refused by the check
        return bool(others)
    kept = [
        info
        for info in infos
        if not isinstance(info, dict) or info.get("config_name", "default") not in names
    ]
    changes["dataset_info"] = [*kept, *(changes.get("dataset_info") or [])]
    return bool(others)


def _marked(page: str) -> tuple[int, int] | None:
    """Return where our part starts and ends, markers included; InputError where one is missing."""
    starts, ends = list(_START.finditer(page)), list(_END.finditer(page))
    if not starts and not ends:
        return None
    if len(starts) != 1 or len(ends) != 1 or starts[0].start() > ends[0].start():
        raise InputError(
            f"README.md: must contain the marker lines {START!r} and {END!r} once each, in this "
            "order; restore them, or delete both and the text between them"
        )
    return starts[0].start(), ends[0].end()


def size_category(rows: int) -> str:
    """The Hub's name for so many rows."""
    return next((name for limit, name in SIZES if rows < limit), "n>1B")


def split_page(card: str) -> tuple[str, str]:
    """(YAML metadata without its fences, the page below it) of a README.md."""
    card = card.removeprefix("\ufeff")
    found = _FRONT.match(card)
    return (found[1], card[found.end() :]) if found else ("", card)


def read_metadata(front: str) -> Metadata:
    """The metadata as values; InputError where it is no YAML mapping."""
    try:
        content = parse_yaml_1_1(front)
    except ValueError as error:
        raise InputError(
            f"README.md: its YAML metadata is not readable: {one_line(error, 300)}; correct it"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError("README.md: its YAML metadata is no mapping of keys; correct it")
    return content


def with_changes(front: str, changes: Metadata) -> str:
    """The YAML text with new values of some keys; the lines of all other keys stay as they are.

    A value that is empty removes its key.
    """
    values = read_metadata(front)
    starts = list(_TOP_KEY.finditer(front))
    if [found[2].strip() for found in starts] == list(values):
        places = [0, *(found.start() for found in starts[1:]), len(front)]
        blocks = {
            key: front[place:end]
            for key, place, end in zip(values, places, places[1:], strict=False)
        }
    else:  # the lines of the keys cannot be told apart
        blocks = {key: yaml_text({key: value}, width=100) for key, value in values.items()}
    for key, value in changes.items():
        if _is_empty(value):
            blocks.pop(key, None)
        elif key not in values or values[key] != value:
            blocks[key] = yaml_text({key: value}, width=100)
    text = "".join(block if block.endswith("\n") else f"{block}\n" for block in blocks.values())
    expected = _filled(values | changes)
    return text if _filled(read_metadata(text)) == expected else yaml_text(expected, width=100)


def check_options(**said: Any) -> None:
    """InputError naming an option, `language` or `license`, whose value the Hub would refuse."""
    for option, value in said.items():
        pattern, what = _OPTIONS[option]
        for wrong in _mismatches(value, pattern):
            raise InputError(f"--{option} {one_line(repr(wrong), 80)}: is not {what}")


def _check(metadata: Mapping[str, Any]) -> None:
    """InputError naming the first field that the Hub, or `datasets`, would not accept."""
    for field, (pattern, what) in _FIELDS.items():
        for wrong in _mismatches(metadata.get(field), pattern):
            raise _wrong(field, f"{one_line(repr(wrong), 80)} is not {what}")
    seen = set[str]()
    default: str | None = None
    for config in _configs(metadata):
        name = config.get("config_name")
        if not isinstance(name, str) or not _CONFIG_NAME.fullmatch(name):
            raise _wrong("configs", f"config_name {one_line(repr(name), 80)} is not a name")
        if name in seen:
            raise _wrong("configs", f"duplicate config_name {name!r}")
        seen.add(name)
        if not _is_data_files(config.get("data_files", [])):
            raise _wrong("configs", f"data_files of {name!r} must name split and path")
        if config.get("default") or name == "default":
            if default is not None:
                raise _wrong("configs", f"{default!r} and {name!r} are both the default")
            default = name
    infos = metadata.get("dataset_info", [])
    if not _all_mappings([infos] if isinstance(infos, dict) else infos):
        raise _wrong("dataset_info", "must be a mapping, or a list of mappings")
    from huggingface_hub import DatasetCardData

    try:
        read = parse_yaml_1_1(DatasetCardData(**metadata).to_yaml())
    except (TypeError, ValueError) as error:
        raise _wrong("metadata", one_line(error, 300)) from error
    lost = sorted(key for key, value in metadata.items() if value and read.get(key) != value)
    if lost:
        raise _wrong(lost[0], "cannot be written as YAML")


def _mismatches(value: Any, pattern: str) -> list[Any]:
    """Those of one or several values that are no texts of this pattern."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [one for one in values if not isinstance(one, str) or not re.fullmatch(pattern, one)]


def _is_data_files(files: Any) -> bool:
    """Check for what `datasets` accepts: a path, a list of paths, or of splits with their paths."""
    if not isinstance(files, list):
        return isinstance(files, str)
    return all(
        isinstance(item, str)
        or (
            isinstance(item, dict)
            and item.keys() == {"split", "path"}
            and _SPLIT.fullmatch(str(item["split"])) is not None
            and isinstance(item["path"], str | list)
        )
        for item in files
    )


def _configs(metadata: Mapping[str, Any]) -> list[Metadata]:
    configs = metadata.get("configs") or []
    if not _all_mappings(configs):
        raise _wrong("configs", "must be a list of mappings, each with a config_name")
    return list(configs)


def _filled(metadata: Metadata) -> Metadata:
    return {key: value for key, value in metadata.items() if not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    return value in ([], {}, None)


def _all_mappings(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)


def _wrong(name: str, detail: str) -> InputError:
    return InputError(f"dataset card: {name}: {detail}; correct it in the card's metadata")
