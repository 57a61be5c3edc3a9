"""YAML: reading what users write, and writing what others read.

Users' files are YAML 1.2 with plain values only: dates are text, keys unique, aliases few
(ruamel.yaml). Files for others are written and read with PyYAML, as huggingface_hub, datasets and
trainers read them: it quotes texts that YAML 1.1 takes for another type. ruamel.yaml writes
`language: no` for Norwegian, which they read as False.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError

MOST_BYTES = 2**18
MOST_VALUES = 50_000
"""Most values of a text, each alias counted as what it names."""

_TAGS = ("map", "seq", "str", "int", "float", "bool", "null")


class _Constructor(SafeConstructor):
    """Safe YAML without dates, sets and bytes: 2024-07-01 is the text of that date."""


_Constructor.yaml_constructors = {
    tag: make
    for tag, make in SafeConstructor.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _TAGS
}
_Constructor.add_constructor(
    "tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node)
)


def read_yaml(file: Path) -> Any:
    """Return the value of a YAML file.

    Raises OSError, or ValueError as `parse_yaml` and for a file of more than 256 KiB.
    """
    with file.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)  # a device never ends
    if len(data) > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES // 1024} KiB")
    return parse_yaml(data.decode("utf-8-sig"))


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text, None for an empty one; ValueError if malformed or huge."""
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Constructor
    try:
        value = reader.load(text)
        if _size(value, {}) > MOST_VALUES:
            raise ValueError(f"expands to more than {MOST_VALUES} values; use fewer aliases")
    except YAMLError as error:
        parts = [getattr(error, name, None) for name in ("context", "problem")]
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        reason = ", ".join(str(part).strip() for part in parts if part) or str(error)
        raise ValueError(f"{reason}{where}") from error
    except (RecursionError, TypeError, LookupError, AttributeError) as error:
        raise ValueError("nested too deeply, or has a key that is not text") from error
    return value


def yaml_text(value: Any, *, sort_keys: bool = False, **style: Any) -> str:
    """Return a value as YAML; by default keys keep their order. `style`: arguments of PyYAML."""
    text: str = yaml.safe_dump(value, None, sort_keys=sort_keys, allow_unicode=True, **style)
    return text


def parse_yaml_1_1(text: str) -> Any:
    """Return the value of a YAML 1.1 text, None for an empty one; ValueError if malformed."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _size(value: Any, known: dict[int, int]) -> int:
    """Return the number of values in a value, each alias counted as what it names.

    `known` holds the sizes of collections by id; 0 while a collection is being counted.
    """
    children: Iterable[Any]
    if isinstance(value, dict):
        children = (*value.keys(), *value.values())
    elif isinstance(value, list | tuple | set):
        children = value
    else:
        return 1
    if known.get(id(value)) == 0:
        raise ValueError("an alias refers to a value that contains it")
    if id(value) not in known:
        known[id(value)] = 0
        known[id(value)] = 1 + sum(_size(child, known) for child in children)
    return known[id(value)]
