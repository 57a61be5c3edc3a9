"""YAML as people write it: plain values, dates as text, every key once, aliases that stay small."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 2**18
MOST_VALUES = 50_000
"""So many values a text may stand for once its aliases are written out."""
_TAGS = ("map", "seq", "str", "int", "float", "bool", "null")


class _Loader(yaml.SafeLoader):
    """Safe YAML without dates, sets and bytes: 2024-07-01 is the text of that date."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for name, count in names.most_common(1):
            if count > 1:
                line = node.start_mark.line + 1
                raise ValueError(f"{name!r} stands twice in the mapping of line {line}")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _TAGS
}


def read_yaml(file: Path) -> Any:
    """The content of a YAML file; OSError or ValueError, of one line's sense, where there is none.

    A file that never ends (a device) is read as far as a file may be long.
    """
    with file.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES // 1024} KiB")
    return parse_yaml(data.decode("utf-8-sig"))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; ValueError where it has none, or stands for too much."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}) > MOST_VALUES:
                raise ValueError(f"stands for more than {MOST_VALUES} values; write fewer aliases")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, each alias counted as what it names.

    `known` holds the sizes of nodes by id; 0 while a node is being counted.
    """
    found = known.get(id(node))
    if found == 0:
        raise ValueError("an alias stands inside of what it names")
    if found is not None:
        return found
    known[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]
