"""The principle catalogue: one YAML file per pair of opposite principles, validated on load."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from sso_data.errors import InputError, one_line
from sso_data.paths import principles_dir

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80, pattern=r"^[^,\n]*$")
]
"""A feature's name: it stands in lists and in tables, so it has no comma and no line break."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Adjectives(_Strict):
    """How a response of each side is called, for example Helpful and Unhelpful."""

    good: Text
    bad: Text


class Paraphrases(_Strict):
    """Other wordings of the two principle texts."""

    good: tuple[Text, ...] = ()
    bad: tuple[Text, ...] = ()


class Principle(_Strict):
    """A feature of responses, and what the model is told for its good and for its bad side."""

    name: Name
    adjectives: Adjectives
    meaning: Text
    good: Text
    bad: Text
    paraphrases: Paraphrases = Paraphrases()


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Principles by feature name, in the order of their names, with a hash of their content."""

    directory: Path
    principles: Mapping[str, Principle]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over every principle's content (not its file name)."""
        digest = hashlib.sha256()
        for principle in self.principles.values():
            digest.update(principle.model_dump_json().encode() + b"\n")
        return digest.hexdigest()[:16]

    def __getitem__(self, feature: str) -> Principle:
        return self.principles[feature]


def load_catalogue(directory: Path | None = None) -> Catalogue:
    """The catalogue in `directory`, by default the shipped one.

    Raises InputError that names the file and the field, when one is not a valid principle.
    """
    directory = directory or principles_dir()
    if not directory.is_dir():
        raise InputError(
            f"{directory}: no such directory of principle files; see `principles list`"
        )
    files = sorted((*directory.glob("*.yaml"), *directory.glob("*.yml")))
    if not files:
        raise InputError(f"{directory}: no principle files (*.yaml) here")
    found: dict[str, Principle] = {}
    origin: dict[str, Path] = {}
    for file in files:
        principle = load_principle(file)
        if principle.name in found:
            raise InputError(
                f"{file}: the name {principle.name!r} is taken by {origin[principle.name].name}; "
                "give each principle its own"
            )
        found[principle.name] = principle
        origin[principle.name] = file
    return Catalogue(directory=directory, principles=dict(sorted(found.items())))


def load_principle(file: Path) -> Principle:
    """One principle file; InputError names the file and the field that is wrong."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = one_line(error)
        raise InputError(f"{file}: not readable as YAML: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a mapping with name, adjectives, meaning, good and bad")
    try:
        principle = Principle.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{file}: {field}: {first['msg']}") from error
    if principle.good == principle.bad:
        raise InputError(f"{file}: good and bad are the same text; they must be opposites")
    return principle
