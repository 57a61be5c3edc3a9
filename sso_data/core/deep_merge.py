"""Settings laid over settings: sections are merged key by key, anything else is replaced."""

import copy
from collections.abc import Mapping
from typing import Any

Tree = dict[str, Any]


def deep_merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """A new tree: what `over` names, and what only `under` has. Lists are replaced whole."""
    merged = copy.deepcopy(dict(under))
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            merged[key] = deep_merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged
