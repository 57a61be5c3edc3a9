"""Every configuration key with its default, meaning and allowed values, as the classes say."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from sso_data.config.augmentation import AugmentConfig
from sso_data.config.evaluation import EvalConfig
from sso_data.config.iteration import IterateConfig
from sso_data.config.run import RunConfig
from sso_data.config.section import Section
from sso_data.config.training import TrainConfig
from sso_data.core.errors import ConfigError
from sso_data.core.yaml_files import yaml_text

KINDS: dict[str, type[Section]] = {
    "generate": RunConfig,
    "train": TrainConfig,
    "iterate": IterateConfig,
    "eval": EvalConfig,
    "augment": AugmentConfig,
}
"""The configuration of each command that reads one."""

_WIDTH = 90
"""Columns of a meaning in a template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key; `values`: those that it takes besides others, if it names any."""

    name: str
    default: Any
    meaning: str
    values: tuple[str, ...]

    @property
    def shown(self) -> str:
        """Its default as a text; "none" for None, "" where there is nothing in it."""
        if self.default is None:
            return "none"
        return str(list(self.default) if self.default == () else self.default)


def kind_of(command: str) -> type[Section]:
    """Return the configuration of a command. Raises ConfigError for an unknown one."""
    if command not in KINDS:
        raise ConfigError(f"{command}: has no configuration; those that have: {', '.join(KINDS)}")
    return KINDS[command]


def keys_of(kind: type[BaseModel], prefix: str = "", *, deep: bool = True) -> Iterator[Key]:
    """Yield the keys of a configuration: its own first, then (`deep`) those of its sections."""
    own = kind.__annotations__
    fields = sorted(kind.model_fields.items(), key=lambda item: item[0] not in own)
    for name, field in fields:
        if not is_section(field.annotation):
            yield Key(
                name=f"{prefix}{name}",
                default=field.get_default(call_default_factory=True),
                meaning=" ".join((field.description or "").split()),
                values=tuple(_values(field.annotation)),
            )
    for name, field in fields if deep else ():
        if is_section(field.annotation):
            assert isinstance(field.annotation, type)
            yield from keys_of(field.annotation, f"{prefix}{name}.")


def is_section(annotation: Any) -> bool:
    """Return True for the type of a section."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _values(annotation: Any) -> Iterator[str]:
    """Yield the texts that a type names."""
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _values(part)


def template(command: str) -> str:
    """Return a YAML file with every key of a command: `##` its meaning, `#` its default."""
    kind = kind_of(command)
    lines = [f"## Configuration of `sso-data {command}` ({kind.page}): uncomment what you change."]
    above: list[str] = []
    for key in keys_of(kind):
        *sections, name = key.name.split(".")
        if sections != above:
            lines.append("")
            both = zip(sections, above, strict=False)
            same = sum(1 for _ in takewhile(lambda two: two[0] == two[1], both))
            lines += [f"# {'  ' * depth}{sections[depth]}:" for depth in range(same, len(sections))]
            above = sections
        indent = "  " * len(sections)
        lines += [f"## {indent}{line}" for line in textwrap.wrap(key.meaning, _WIDTH)]
        lines.append(f"# {indent}{yaml_text({name: _plain(key.default)}, width=10_000).strip()}")
    return "\n".join(lines) + "\n"


def _plain(default: Any) -> Any:
    """Return a default as YAML has it."""
    if isinstance(default, tuple):
        return list(default)
    is_plain = default is None or isinstance(default, bool | int | float | str | dict)
    return default if is_plain else str(default)
