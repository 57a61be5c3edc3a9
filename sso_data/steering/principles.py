"""The principle catalogue: one YAML file per pair of opposite principles, validated on load."""

import hashlib
import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    StringConstraints,
    ValidationError,
)

from sso_data.config.loading import requirement
from sso_data.core.errors import InputError, SsoDataError, nearest, one_line
from sso_data.core.paths import CATALOGUES, principles_dir, real_path
from sso_data.core.yaml_files import read_yaml, yaml_text
from sso_data.runs.files import make_dir, remove_tree, swap_dir, write_new
from sso_data.steering.response_checks import ResponseCheck

_WIDTH = 98
"""Columns of a written file."""
_MOST_ERRORS = 10
"""Errors of a file that are told at once."""


def _showable(text: str) -> str:
    """Raise ValueError for control characters and invalid Unicode (lone surrogates)."""
    for char in text:
        if char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cs"):
            raise ValueError(f"holds the control character {char!a}; write text")
    return text


Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    AfterValidator(_showable),
]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=80, pattern=r"^[^,\n]*$"),
    AfterValidator(_showable),
]
"""A feature's name; it appears in lists and tables, so it has no comma and no line break."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Adjectives(_Strict):
    """Adjectives for a response of each side, for example Helpful and Unhelpful."""

    good: Text
    bad: Text


class Paraphrases(_Strict):
    """Other wordings of the two principle texts."""

    good: tuple[Text, ...] = ()
    bad: tuple[Text, ...] = ()


class Principle(_Strict):
    """A feature of responses, and the texts given to the model for its good and its bad side.

    `check`: what a program can tick off a response that follows the good side, if it can.
    """

    name: Name
    adjectives: Adjectives
    meaning: Text
    good: Text
    bad: Text
    paraphrases: Paraphrases = Paraphrases()
    check: ResponseCheck | None = None


_SECTIONS: Mapping[str, type[BaseModel]] = {
    "adjectives": Adjectives,
    "paraphrases": Paraphrases,
    "check": ResponseCheck,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Principles by feature name, in the order of their names, with a hash of their content."""

    directory: Path
    principles: Mapping[str, Principle]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over what decides rows: all but the files' names and the checks."""
        digest = hashlib.sha256()
        for principle in self.principles.values():
            digest.update(principle.model_dump_json(exclude={"check"}).encode() + b"\n")
        return digest.hexdigest()[:16]

    @property
    def checks(self) -> Mapping[str, ResponseCheck]:
        """The checks of the principles that have one, by feature name."""
        return {name: one.check for name, one in self.principles.items() if one.check}

    def __getitem__(self, feature: str) -> Principle:
        return self.principles[feature]


def listing(directory: Path) -> str:
    """Return the command that lists the principles of a catalogue."""
    return f"sso-data principles list --principles {shlex.quote(str(directory))}"


def load_catalogue(
    directory: Path | None = None, *, on_bad_file: Callable[[Path, InputError], None] | None = None
) -> Catalogue:
    """Read the catalogue in `directory`, or a shipped one by its name; by default the long one.

    `on_bad_file` is told of a file that is no principle, which is then left out.
    Raises InputError that names the file and the field when one is not a valid principle, or is a
    link to a file elsewhere: a catalogue by others must not read other files.
    """
    name = str(directory or CATALOGUES[0])
    may_link = name in CATALOGUES
    directory = principles_dir(name) if may_link else Path(name)
    try:
        if directory.is_file():
            raise InputError(f"{directory}: is a file; give its directory, {directory.parent}")
        if not directory.is_dir():
            raise InputError(
                f"{directory.absolute()}: no such directory of principle files, nor a shipped "
                f"catalogue ({', '.join(CATALOGUES)}){nearest(name, CATALOGUES)}"
            )
        files = sorted((*directory.glob("*.yaml"), *directory.glob("*.yml")))
        home = real_path(directory)
        for file in files:
            if not may_link and not real_path(file).is_relative_to(home):
                raise InputError(f"{file}: is a link to another directory; copy the file here")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a loop
        raise InputError(f"{directory}: cannot be read: {one_line(error)}") from error
    if not files:
        raise InputError(f"{directory}: no principle files (*.yaml) here")
    found: dict[str, Principle] = {}
    origin: dict[str, Path] = {}
    for file in files:
        try:
            principle = load_principle(file)
            if principle.name in found:
                raise InputError(
                    f"{file}: the name {principle.name!r} is taken by "
                    f"{origin[principle.name].name}; give each principle its own"
                )
        except InputError as error:
            if on_bad_file is None:
                raise
            on_bad_file(file, error)
            continue
        found[principle.name] = principle
        origin[principle.name] = file
    return Catalogue(directory=directory, principles=dict(sorted(found.items())))


def load_principle(file: Path) -> Principle:
    """Read one principle file. Raises InputError that names the file and the wrong fields."""
    try:
        if not file.is_file():
            raise InputError(f"{file}: not a regular file")
        content = read_yaml(file)
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise InputError(f"{file}: not readable as YAML: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a mapping with name, adjectives, meaning, good and bad")
    try:
        principle = Principle.model_validate(content)
    except ValidationError as error:
        wrong = map(_problem, error.errors()[:_MOST_ERRORS])
        raise InputError(f"{file}: {'; '.join(wrong)}") from error
    if principle.good == principle.bad:
        raise InputError(f"{file}: good and bad are the same text; they must be opposites")
    return principle


def _problem(error: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors about a principle file: the field, and what it must be."""
    field = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return f"{field}: {one_line(requirement(error))}"
    section, key = error["loc"][0], str(error["loc"][-1])
    model: type[BaseModel] = Principle if len(error["loc"]) == 1 else _SECTIONS[section]
    keys = list(model.model_fields)
    near = nearest(key, keys)
    return f"{one_line(field, 80)}: unknown key{near}; the keys there are {', '.join(keys)}"


def write_catalogue(principles: Sequence[Principle], out: Path) -> None:
    """Write one file per principle to the new directory `out`, which appears when all are written.

    Raises InputError when `out` exists, RunError where it cannot be written.
    """
    new = out.with_name(f".{out.name}.new")
    names: set[str] = set()
    remove_tree(new)
    try:
        make_dir(new)
        for principle in principles:
            ascii_name = unicodedata.normalize("NFKD", principle.name).encode("ascii", "ignore")
            base = re.sub(r"[^a-z0-9]+", "_", ascii_name.decode().lower()).strip("_")[:60]
            base = name = base or "principle"
            number = 1
            while name in names:
                number += 1
                name = f"{base}_{number}"
            names.add(name)
            content = principle.model_dump(mode="json", exclude_defaults=True)
            text = yaml_text(content, width=_WIDTH)
            write_new(new / f"{name}.yaml", text.encode())
        refuse_existing(out)
        swap_dir(new, out)
    except SsoDataError:
        remove_tree(new)
        raise


def refuse_existing(out: Path) -> None:
    """Raise InputError where there is a file or directory `out`."""
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: exists already; name a new directory with --out")
