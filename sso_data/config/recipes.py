"""Recipes: YAML files of iterations, found by name or path, that may extend one another.

A recipe holds keys of an iteration's configuration, and two of its own. `extends` names one or more
recipes whose keys it overrides; later ones override earlier ones. `tiny` overrides all by `--tiny`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sso_data.config.loading import read_mapping
from sso_data.core.errors import ConfigError, nearest, one_line
from sso_data.core.paths import examples_dir, real_path, world_dir
from sso_data.core.trees import Tree, deep_merge

_FOLDERS = {"examples": examples_dir, "world": world_dir}
"""Placeholders of shipped folders at the start of a value: `{world}/policy`."""
_PLACE = re.compile(rf"\{{({'|'.join(_FOLDERS)})\}}(?=/|$)")
_SUFFIXES = (".yaml", ".yml")


def recipes_dir() -> Path:
    """Return the folder of the shipped recipes."""
    return examples_dir() / "recipes"


def recipe_names() -> list[str]:
    """Return the sorted names of the shipped recipes, without parts that others extend."""
    files = recipes_dir().glob("*.yaml")
    return sorted(file.stem for file in files if not file.name.startswith("_"))


def load_recipe(name: str | Path, *, tiny: bool = False) -> Tree:
    """Return the keys of the shipped recipe `name`, or of the file if it ends in .yaml or .yml.

    With `tiny`, its override for a small machine is applied. Unknown keys are kept, for the
    configuration to refuse. Raises ConfigError, of one line.
    """
    first = _found(str(name))
    trees = list(dict(_chain(first, ())).values())  # a recipe that two others extend counts once
    overrides = [tree.pop("tiny") for tree in trees if "tiny" in tree]
    if tiny and not overrides:
        raise ConfigError(f"{first}: has no `tiny` section; add one, or extend a shipped recipe")
    merged: Tree = {}
    for layer in [*trees, *(overrides if tiny else [])]:
        merged = deep_merge(merged, layer)
    filled: Tree = _filled(merged)
    if tiny and filled.get("title"):
        filled["title"] = f"{filled['title']} (on the tiny policy)"
    return filled


def _found(name: str) -> Path:
    """Return the file of a recipe. Raises ConfigError for an unknown name."""
    if name.endswith(_SUFFIXES):
        return Path(name)
    names = recipe_names()
    if name in names:
        return recipes_dir() / f"{name}.yaml"
    raise ConfigError(
        f"no recipe {one_line(name, 80)!r}{nearest(name, names, 'sso-data recipes list')}; "
        "a file of yours ends in .yaml"
    )


def _chain(file: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, Tree]]:
    """Yield the recipes that `file` extends, lowest first, then itself; `above` extend it."""
    place = real_path(file)
    if place in above:
        names = " -> ".join(part.name for part in (*above[above.index(place) :], place))
        raise ConfigError(f"{file}: extends itself ({names})")
    example = "a mapping of keys such as model and train"
    tree = read_mapping(file, example, "recipe file")
    tiny = tree.get("tiny", {})
    if not isinstance(tiny, dict) or not all(isinstance(key, str) for key in tiny):
        raise ConfigError(f"{file}: tiny must be {example}")
    if not tree:
        raise ConfigError(f"{file}: must be {example}; it is empty")
    extended: object = tree.pop("extends", [])
    parents = [extended] if isinstance(extended, str) else extended
    if not isinstance(parents, list) or not all(isinstance(name, str) for name in parents):
        raise ConfigError(f"{file}: extends must be a file name, or a list of them")
    for name in parents:
        name = name if name.endswith(_SUFFIXES) else f"{name}.yaml"
        sibling = file.parent / name
        parent = sibling if sibling.is_file() else recipes_dir() / name
        if not parent.is_file():
            raise ConfigError(
                f"{file}: extends {name}, which is neither in its folder nor a shipped recipe"
            )
        yield from _chain(parent, (*above, place))
    yield place, tree


def _filled(value: Any) -> Any:
    """Return a value with the placeholders of shipped folders replaced."""
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner) for inner in value]
    place = _PLACE.match(value) if isinstance(value, str) else None
    return f"{_FOLDERS[place[1]]()}{value[place.end() :]}" if place else value
