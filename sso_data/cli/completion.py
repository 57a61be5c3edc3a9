"""Completion of option values in the shell."""

from collections.abc import Callable

import typer

Completion = Callable[[str], list[str]]


def values(*known: str) -> Completion:
    """Complete one of the known values."""
    return lambda incomplete: [value for value in known if value.startswith(incomplete)]


def directories_or(*known: str) -> Completion:
    """Complete one of the known values, or a directory."""

    def complete(incomplete: str) -> list[str]:
        from glob import escape, glob

        folders = sorted(glob(f"{escape(incomplete)}*/"))  # noqa: PTH207 - as it was typed
        return [*values(*known)(incomplete), *(folder.rstrip("/") for folder in folders)]

    return complete


def recipes(incomplete: str) -> list[str]:
    """Complete the name of a shipped recipe."""
    from sso_data.config.recipes import recipe_names

    return values(*recipe_names())(incomplete)


def reasons(incomplete: str) -> list[str]:
    """Complete a reason of the filter."""
    from sso_data.filtering.filters import REASONS

    return values(*REASONS)(incomplete)


def principles_of_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a principle that steered rows of the run that was named before."""
    from itertools import islice
    from pathlib import Path

    from sso_data.core.errors import SsoDataError
    from sso_data.runs.journal import read_rows

    try:  # words before an option without its value are left in args
        rows = list(islice(read_rows(Path(ctx.args[0])), 1000))
    except (IndexError, SsoDataError):
        return []
    return values(*sorted({name for row in rows for name in row.steering.features}))(incomplete)


def values_of(name: str) -> Completion:
    """Complete the values that a key of a run's configuration names."""

    def complete(incomplete: str) -> list[str]:
        from sso_data.config.keys import keys_of, kind_of

        keys = keys_of(kind_of("generate"))
        return values(*next(key.values for key in keys if key.name == name))(incomplete)

    return complete


def settings_of(command: str) -> Completion:
    """Complete `key=` of a command's configuration, and after the sign the values it names."""

    def complete(incomplete: str) -> list[str]:
        from sso_data.config.keys import keys_of, kind_of

        keys = list(keys_of(kind_of(command)))
        known = [f"{key.name}=" for key in keys]
        if "=" in incomplete:
            known = [f"{key.name}={value}" for key in keys for value in key.values]
        return values(*known)(incomplete)

    return complete
