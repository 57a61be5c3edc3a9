"""Texts for models and people: Jinja files in `templates/`, rendered in Jinja's sandbox."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sso_data.core.errors import ConfigError, one_line
from sso_data.core.limits import TooMuchError, limited
from sso_data.core.markdown import code, inline
from sso_data.core.paths import real_path, templates_dir
from sso_data.core.records import Message

SYSTEM = "system.j2"
"""The system message of the good and the bad view; `system_2.j2` and so on word it otherwise."""

REPLACEABLE = (SYSTEM, "choose.j2", "write.j2", "new_principles.j2", "augment.j2", "judge.j2")
"""Templates that a user's directory may replace, besides other wordings of the system message."""

_RENDER_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TooMuchError,
    TypeError,
    ValueError,
)
"""Errors that a user's template can raise: Jinja's, and those of the expressions in it."""

_OTHER_SYSTEM = re.compile(r"system_([1-9]\d{0,2})\.j2")
_MOST_BYTES = 2**18
_ROLES = ("system", "user", "assistant")


@cache
def _environment(*directories: Path) -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(directories),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=False,
    )
    made.filters |= {"code": code, "inline": inline}
    return made


def render(name: str, /, *, directory: Path | None = None, **variables: object) -> str:
    """Return the template `name` rendered with `variables`, stripped of white space.

    Raises ConfigError when the file is missing or malformed, uses a variable that is not given, or
    fails while it is rendered.
    """
    return _render(name, (directory or templates_dir(),), variables)


def _render(name: str, directories: tuple[Path, ...], variables: dict[str, object]) -> str:
    try:
        with limited():
            return _environment(*directories).get_template(name).render(**variables).strip()
    except _RENDER_ERRORS as error:
        known = ", ".join(sorted(variables)) or "none"
        reason = " ".join(str(error).split()) or type(error).__name__
        file = next((path for path in directories if (path / name).exists()), directories[0]) / name
        raise ConfigError(f"{file}: {reason} (variables given: {known})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """The shipped templates; those in `directory` replace the ones of the same name.

    A directory with a system message replaces all shipped wordings of the system message.
    """

    directory: Path | None = None

    def render(self, name: str, /, **variables: object) -> str:
        """Return the rendered template; raises as the function `render` does."""
        return _render(name, self._directories, variables)

    def messages(self, name: str, /, **variables: object) -> tuple[Message, ...]:
        """Return the chat that a template writes with `{% call turn("user") %}...{% endcall %}`.

        A template without turns is a single user turn. Raises ConfigError as `render` does, and
        where there is text outside of the turns or the last turn is not the user's.
        """
        turns: list[Message] = []

        def turn(role: str, caller: Callable[[], str]) -> str:
            if role not in _ROLES:
                raise ValueError(f"turn({role!r}): the role is one of {', '.join(_ROLES)}")
            turns.append(Message(role=role, content=str(caller()).strip()))
            return ""

        text = self.render(name, turn=turn, **variables)
        if not turns:
            return (Message(role="user", content=text),)
        if text or turns[-1].role != "user":
            wrong = (
                f"has text outside the turns ({text[:40]!r})"
                if text
                else "the last turn must be a user turn"
            )
            raise ConfigError(f"{self._file(name)}: {wrong}; see docs/principles.md")
        return tuple(turns)

    def systems(self) -> tuple[str, ...]:
        """Return the names of all wordings of the system message, the main one first."""
        own = _system_names(self.directory) if self.directory else ()
        others = own or _system_names(templates_dir())
        return (SYSTEM, *(name for name in others if name != SYSTEM))

    def fingerprint(self, *names: str) -> str:
        """Return a hash of the named templates' bytes in effect: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for name in sorted(names):
            digest.update(name.encode() + b"\0" + self._file(name).read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    def check(self) -> None:
        """Check the directory.

        Raises ConfigError where it is missing, holds a file that replaces no shipped template, or
        a link to a file elsewhere: templates by others must not read other files.
        """
        if self.directory is None:
            return
        try:
            files = sorted(self.directory.glob("*.j2"))
            home = real_path(self.directory)
            linked = [file for file in files if not real_path(file).is_relative_to(home)]
            odd = [f for f in files if not f.is_file() or f.stat().st_size > _MOST_BYTES]
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a loop
            raise ConfigError(f"{self.directory}: cannot be read: {one_line(error)}") from error
        if not files:
            raise ConfigError(f"{self.directory.absolute()}: not a directory of templates (*.j2)")
        if linked:
            raise ConfigError(f"{linked[0]}: symbolic link to another directory; copy the file")
        if odd:
            raise ConfigError(f"{odd[0]}: must be a file of at most {_MOST_BYTES // 1024} KiB")
        for file in files:
            if file.name not in REPLACEABLE and not _OTHER_SYSTEM.fullmatch(file.name):
                known = ", ".join((*REPLACEABLE, "system_2.j2, system_3.j2, ..."))
                raise ConfigError(f"{file}: unknown template name; the shipped ones are {known}")

    @property
    def _directories(self) -> tuple[Path, ...]:
        shipped = templates_dir()
        return (self.directory, shipped) if self.directory else (shipped,)

    def _file(self, name: str) -> Path:
        found = (path / name for path in self._directories if (path / name).is_file())
        return next(found, self._directories[0] / name)


SHIPPED = Templates()
"""The shipped templates, none replaced."""


@cache
def _system_names(directory: Path) -> tuple[str, ...]:
    """Return the system messages in a directory, the main one first, then by number."""
    numbered = {
        int(match[1]): match[0]
        for file in directory.glob("system_*.j2")
        if (match := _OTHER_SYSTEM.fullmatch(file.name))
    }
    main = (SYSTEM,) if (directory / SYSTEM).is_file() else ()
    return (*main, *(numbered[number] for number in sorted(numbered)))


@cache
def phrases(name: str) -> tuple[str, ...]:
    """Return the lines of `templates/<name>` in lower case, without blanks and `#` comments."""
    text = (templates_dir() / name).read_text(encoding="utf-8")
    lines = (line.strip().lower() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
