"""Read and validate configurations: defaults, a YAML file, options and `--set` settings."""

import copy
import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sso_data.config.migration import renamed
from sso_data.config.section import Section
from sso_data.core.errors import ConfigError, nearest, one_line, without_secrets
from sso_data.core.trees import Tree, put
from sso_data.core.yaml_files import parse_yaml, read_yaml

C = TypeVar("C", bound=Section)
_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "string": "a text"}
_THRESHOLDS = ("filter.closeness", "filter.gap")


def load(
    kind: type[C],
    /,
    file: Path | None = None,
    settings: list[str] | None = None,
    *,
    base: Tree | None = None,
    **overrides: object,
) -> C:
    """Return the configuration of `kind`: defaults, then `base` or `file`, `overrides`, `settings`.

    `overrides` are keys with `__` for the dot, None is skipped; `settings` the texts of `--set`.
    `base` is stored: what has no effect is refused only outside of it. Raises ConfigError, naming
    the first wrong key.
    """
    tree = config_tree(file, settings, base=base, **overrides)
    given = config_tree(file, settings, base={}, **overrides)
    return validated(kind, tree, origin=str(file or "configuration"), given=given)


def config_tree(
    file: Path | None,
    settings: list[str] | None = None,
    *,
    base: Tree | None = None,
    **overrides: object,
) -> Tree:
    """Return the keys that `load` validates, as a nested dict. Raises ConfigError as it does."""
    example = "a mapping of keys such as sampling and filter"
    tree = read_mapping(file, example) if file else copy.deepcopy(base or {})
    for key, value in overrides.items():
        if value is not None:
            name = key.replace("__", ".")
            put(tree, name, value, where=f"--{name}")
    for setting in settings or []:
        key, sign, text = setting.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set {setting!r}: write it as key=value, e.g. sampling.top_p=0.9")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            start = one_line(setting, 200)
            raise ConfigError(f"--set {start}: the value is not valid YAML") from error
        put(tree, key.strip(), value, where=f"--set {setting}")
    return tree


def validated(
    kind: type[C], tree: Tree, *, origin: str = "configuration", given: Tree | None = None
) -> C:
    """Return the configuration of `kind` with the keys of `tree`.

    `origin` names the file or option in messages; `given` are the keys that the user gave here, by
    default all. Raises ConfigError, naming the first wrong key, for a given key without effect, and
    for a value that looks like a secret, because manifests store the configuration.
    """
    try:
        made = kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_first_problem(error, kind)}") from error
    try:
        text = made.model_dump_json()
    except ValueError as error:  # a path that is not UTF-8
        raise ConfigError(f"{origin}: {one_line(error, 200)}; use names in UTF-8") from error
    if without_secrets(text) != text:
        raise ConfigError(
            f"{origin}: contains what looks like an access token, which run.json would store; put "
            "it in an environment variable (HF_TOKEN)"
        )
    _refuse_idle(made, tree if given is None else given, origin)
    return made


def _refuse_idle(section: Section, given: Tree, origin: str, prefix: str = "") -> None:
    """Raise ConfigError for a given key that has no effect."""
    why, keys = section.idle()
    for name, value in given.items():
        if name in keys:
            raise ConfigError(f"{origin}: {prefix}{name} has no effect with {prefix}{why}")
        inner = getattr(section, name)
        if isinstance(inner, Section) and isinstance(value, dict):
            _refuse_idle(inner, value, origin, f"{prefix}{name}.")


def read_mapping(file: Path, example: str, noun: str = "file") -> Tree:
    """Return the mapping in a YAML file; {} for an empty file.

    `example` describes a valid one and `noun` the file, in messages. Raises ConfigError where the
    file is missing, is not YAML, or holds anything else.
    """
    try:
        content = read_yaml(file)
    except FileNotFoundError as error:
        raise ConfigError(f"{file.absolute()}: no such {noun}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ConfigError(f"{file}: not readable as YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{file}: must be {example}")
    return content


def _first_problem(error: ValidationError, kind: type[Section]) -> str:
    """Describe the first error: the key, the requirement, and the start of the value given."""
    first = error.errors()[0]
    # pydantic puts the branch of a union into the location, such as `float`
    branches = ("float", "str", "constrained-str", "constrained-float")
    parts = [str(part) for part in first["loc"]]
    key = ".".join(part for part in parts if "[" not in part and part not in branches)
    if first["type"] == "extra_forbidden":
        if new := renamed(key):
            return f"{key!r} was renamed: use {new!r}"
        known = key_names(kind)
        section, _, name = key.rpartition(".")
        beside = sorted(
            one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == section
        )
        homes = [one for one in known if one.endswith(f".{name}")]
        far = "" if section and beside else nearest(key, known)
        near = (
            f"; did you mean {' or '.join(map(repr, homes[:2]))}?"
            if homes
            else nearest(name, beside) or far
        )
        return f"unknown key {key!r}{near}; the keys there are {', '.join(beside)} ({kind.page})"
    message = requirement(first)
    if first["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        message = f"must be one of {', '.join(choices)}{nearest(str(first['input']), choices)}"
    if key in _THRESHOLDS:
        message = "must be a number of at least 0, or a quantile from q0 to q1 such as q0.8"
    elif key.endswith("engine.count"):
        message = "must be auto or a whole number of at least 1"
    elif first["type"] == "tuple_type":
        message = "must be a list, such as [Safety, Accuracy]"
    if not key or message.startswith((f"{key}:", f"{key}.")):  # it names its key by itself
        return message
    short = reprlib.Repr()
    short.maxstring, short.maxother = 120, 80
    try:
        given = first["input"]
        is_word = given is None or isinstance(given, bool)
        excerpt = json.dumps(given) if is_word else short.repr(given)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        excerpt = f"a {type(first['input']).__name__}"
    return f"{key}: {message} (got {excerpt})"


def requirement(error: Mapping[str, Any]) -> str:
    """Return what a value must be, by one of pydantic's errors."""
    kind, _, how = error["type"].partition("_")
    if kind in _KINDS and how in ("parsing", "type", "from_float"):
        return f"must be {_KINDS[kind]}"
    text = str(error["msg"]).removeprefix("Value error, ")
    return text.replace("Input should", "must", 1)


def key_names(kind: type[Section], prefix: str = "") -> list[str]:
    """Return the dotted keys of a section and of those in it."""
    found = []
    for name, field in kind.model_fields.items():
        found.append(f"{prefix}{name}")
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            found += key_names(inner, f"{prefix}{name}.")
    return found
