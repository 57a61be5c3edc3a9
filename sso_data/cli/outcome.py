"""How a command ends: one line for a user's mistake, the right exit code, a hint to continue."""

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import typer

from sso_data.errors import SsoDataError

SOME_FAILED, INTERRUPTED, TERMINATED = 3, 130, 143

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Terminated(BaseException):
    """The process was asked to end (SIGTERM)."""


def say(text: str) -> None:
    """A line for a person, on stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def print_json(content: object) -> None:
    """A summary for scripts, on stdout."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def ends_well(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """A command whose user mistakes end in one line and exit code 1, signals in 130 or 143."""

    @functools.wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        signal.signal(signal.SIGTERM, _on_sigterm)
        try:
            return command(*args, **kwargs)
        except SsoDataError as error:
            say(f"error: {error}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except Terminated as error:
            say("terminated")
            raise typer.Exit(TERMINATED) from error
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends
            raise typer.Exit(0) from None

    return wrapped


@contextmanager
def hint_to_continue(hint: str) -> Iterator[None]:
    """Say `hint` when the work inside is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        say(hint)
        raise


def _on_sigterm(_signal: int, _frame: object) -> None:
    raise Terminated
