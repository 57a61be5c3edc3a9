"""Recipes: iterations written down, found by name or file, built on one another.

A recipe holds keys of an iteration's configuration, and two of its own. `extends` names the recipe
that it is laid over, or several, the first one lowest. `tiny` is laid over everything by `--tiny`.
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sso_data.core.errors import ConfigError, one_line
from sso_data.core.paths import examples_dir, world_dir
from sso_data.core.yaml_files import Tree, deep_merge, read_yaml

_FOLDERS = {"examples": examples_dir, "world": world_dir}
"""What stands in braces at the start of a value, for a shipped folder: `{world}/policy`."""
_PLACE = re.compile(rf"\{{({'|'.join(_FOLDERS)})\}}(?=/|$)")
_SUFFIXES = (".yaml", ".yml")


def recipes_dir() -> Path:
    """The folder of the shipped recipes."""
    return examples_dir() / "recipes"


def recipe_names() -> list[str]:
    """The names of the shipped recipes, in order; parts that others extend are left out."""
    files = recipes_dir().glob("*.yaml")
    return sorted(file.stem for file in files if not file.name.startswith("_"))


def load_recipe(name: str | Path, *, tiny: bool = False) -> Tree:
    """The keys of the shipped recipe `name`, or of the file that it names by its suffix .yaml.

    With `tiny` the recipe's override for this machine is laid over it. Unknown keys are left for
    the configuration to refuse. Raises ConfigError, of one line.
    """
    first = _found(str(name))
    trees = list(dict(_chain(first, ())).values())  # a part that two others extend counts once
    overrides = [tree.pop("tiny") for tree in trees if "tiny" in tree]
    if tiny and not overrides:
        raise ConfigError(f"{first}: has no `tiny` override; let it extend a shipped recipe")
    merged: Tree = {}
    for layer in [*trees, *(overrides if tiny else [])]:
        merged = deep_merge(merged, layer)
    filled: Tree = _filled(merged)
    if tiny and filled.get("title"):
        filled["title"] = f"{filled['title']} (tried on the tiny policy)"
    return filled


def _found(name: str) -> Path:
    """The file of a recipe given by name or path."""
    if name.endswith(_SUFFIXES):
        return Path(name)
    names = recipe_names()
    if name in names:
        return recipes_dir() / f"{name}.yaml"
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    near = f"did you mean {' or '.join(close)}? " if close else ""
    raise ConfigError(
        f"no recipe {one_line(name, 80)!r}: {near}the shipped ones are in docs/recipes.md; "
        "a file of yours ends in .yaml"
    )


def _chain(file: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, Tree]]:
    """What a recipe extends, lowest first, and itself last; `above` are those that lead to it."""
    place = file.resolve()
    if place in above:
        names = " -> ".join(part.name for part in (*above[above.index(place) :], place))
        raise ConfigError(f"{file}: extends itself ({names})")
    tree = _read(file)
    for name in _extended(file, tree.pop("extends", [])):
        beside = file.parent / name
        parent = beside if beside.is_file() else recipes_dir() / name
        if not parent.is_file():
            raise ConfigError(
                f"{file}: extends {name}, which is neither beside it nor a shipped recipe"
            )
        yield from _chain(parent, (*above, place))
    yield place, tree


def _extended(file: Path, value: object) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{file}: extends must be a file name, or a list of them")
    return [name if name.endswith(_SUFFIXES) else f"{name}.yaml" for name in names]


def _read(file: Path) -> Tree:
    """The mapping that a recipe file holds, its `tiny` being one too."""
    try:
        content = read_yaml(file)
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no such recipe file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: not readable as YAML: {one_line(error)}") from error
    if not _is_tree(content):
        raise ConfigError(f"{file}: must be a mapping of keys such as model and train")
    if not _is_tree(content.get("tiny", {})):
        raise ConfigError(f"{file}: tiny must be a mapping of keys such as model and train")
    return dict(content)


def _is_tree(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _filled(value: Any) -> Any:
    """A value with the shipped folders put in where they are named."""
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner) for inner in value]
    place = _PLACE.match(value) if isinstance(value, str) else None
    return f"{_FOLDERS[place[1]]()}{value[place.end() :]}" if place else value
