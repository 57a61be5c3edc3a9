"""Text that models and people read: Jinja files in `templates/`, rendered in Jinja's sandbox."""

import hashlib
from functools import cache
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sso_data.errors import ConfigError
from sso_data.paths import templates_dir

_RENDER_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a user's own template can raise: Jinja's errors, and those of the expressions in it."""


@cache
def _environment(directory: Path) -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(directory),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=False,
    )


def render(name: str, /, *, directory: Path | None = None, **variables: object) -> str:
    """The template `name` with `variables`, without white space around it.

    Raises ConfigError when the file is missing or malformed, uses a variable that is not given, or
    fails while it is rendered.
    """
    directory = directory or templates_dir()
    try:
        return _environment(directory).get_template(name).render(**variables).strip()
    except _RENDER_ERRORS as error:
        known = ", ".join(sorted(variables)) or "none"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{directory / name}: {reason} (variables given: {known})") from error


@cache
def phrases(name: str) -> tuple[str, ...]:
    """The lines of `templates/<name>`, lower case, without blanks and `#` comments."""
    text = (templates_dir() / name).read_text(encoding="utf-8")
    lines = (line.strip().lower() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def fingerprint(*names: str) -> str:
    """A hash of the named templates' bytes: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(name.encode() + b"\0" + (templates_dir() / name).read_bytes() + b"\0")
    return digest.hexdigest()[:16]
