"""The look of every command's help, and usage errors as JSON for those who ask for JSON."""

import inspect
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from sso_data.cli.outcome import print_error

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Base of all mistakes in a command line; typer names only some of them."""

_HOME = re.compile(r"(?:^|(?<==))~[\w.-]*(?=/)", re.ASCII)
_NO_BRACES = str.maketrans("", "", "{}")
_METAVARS = {"int": "N", "float": "X", "Path": "PATH"}
"""What stands for a value of a type, by the name of the type; TEXT for others."""


class Command(TyperCommand):
    """A command whose help names the value of an option in a word, and nothing for a flag."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters with their metavars."""
        return [_named(one) for one in super().get_params(ctx)]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line, without braces around an argument."""
        return [piece.translate(_NO_BRACES) for piece in super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, its paragraphs wrapped to the terminal and not as in the source."""
        paragraphs = inspect.cleandoc(self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(one.split()) for one in paragraphs)
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; with --json a mistake in it is told on stdout, too.

        Shells leave the tilde of a home directory in `--out=~/runs` and in `key=~/models/first`.
        """
        words = [_HOME.sub(_expanded, word) for word in args]
        with _told_as_json(args):
            return list(super().parse_args(ctx, words))


class Group(TyperGroup):
    """A group of commands, whose own options are shown as those of a `Command`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters with their metavars."""
        return [_named(one) for one in super().get_params(ctx)]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is named; with --json a wrong name is told on stdout, too."""
        with _told_as_json(args):
            return super().resolve_command(ctx, args)


def _expanded(tilde: "re.Match[str]") -> str:
    return os.path.expanduser(tilde[0])  # noqa: PTH111 - Path raises for an unknown user


@contextmanager
def _told_as_json(args: list[str]) -> Iterator[None]:
    wants_json = "--json" in args
    try:
        yield
    except _UsageError as error:
        if wants_json:
            said: Any = getattr(error, "format_message", error.__str__)
            print_error("UsageError", said(), 2)
        raise


def _named(parameter: Any) -> Any:
    """Give a parameter the metavar of its type; an argument shows only its name."""
    if parameter.param_type_name == "argument":
        parameter.metavar = parameter.metavar or parameter.name.upper()
        parameter.display_type_rich = lambda ctx: ""
    elif parameter.metavar is None:
        kind = getattr(parameter, "type_descriptor", None)
        name = getattr(getattr(kind, "annotation", None), "__name__", "")
        parameter.metavar = "" if parameter.is_flag else _METAVARS.get(name, "TEXT")
    return parameter
