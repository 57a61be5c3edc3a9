"""Trees: nested dicts with texts as keys, such as configurations; their leaves by dotted name."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from sso_data.core.errors import ConfigError

Tree = dict[str, Any]


def leaves(tree: Mapping[str, Any], depth: int = -1) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every key, in order; an empty mapping counts as a value.

    `depth`: mappings so many keys deep are values as a whole; -1 means none are.
    """
    for name, value in tree.items():
        if isinstance(value, Mapping) and value and depth != 1:
            yield from ((f"{name}.{key}", one) for key, one in leaves(value, depth - 1))
        else:
            yield name, value


def leaf_at(tree: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key; None where there is none."""
    found: Any = tree
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def put(tree: Tree, key: str, value: object, *, where: str = "configuration") -> None:
    """Set the value of a dotted key, and make the mappings on the way that are missing.

    Raises ConfigError, which begins with `where`, for a key on the way that is not a mapping.
    """
    *sections, leaf = key.split(".")
    for part in sections:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{where}: {part!r} is not a section of the configuration")
    tree[leaf] = value


def deep_merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """Return `under` with the values of `over`: mappings are merged, anything else replaced."""
    merged = copy.deepcopy(dict(under))
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            merged[key] = deep_merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged
