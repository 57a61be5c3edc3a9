"""Ends of commands: exit codes, signals, and one line for a user's mistake."""

import functools
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import ParamSpec, TypeVar

import typer

from sso_data.core.errors import SsoDataError, shown, without_secrets

SOME_FAILED, INTERRUPTED = 3, 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = b"\x1b[?25h"

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Terminated(BaseException):
    """Raised for the signal `number`: SIGTERM, or SIGHUP of a closed terminal."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def say(text: str) -> None:
    """Print text on stderr, without control characters that could steer the terminal."""
    lines = [shown(line) for line in text.split("\n")]
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201


def print_json(content: object) -> None:
    """Print a value as JSON on stdout."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def print_error(kind: str, text: str, code: int) -> None:
    """Print an error as JSON on stdout."""
    print_json({"error": {"type": kind, "text": text, "exit_code": code}})


def ends_well(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Wrap a command: user mistakes end in one line and exit code 1, signals in 128 + number.

    Ctrl-C (130), SIGTERM (143) and a lost terminal (129) end the command cleanly; a second one ends
    the process at once.
    """

    @functools.wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        def failed(kind: str, text: str, code: int, *, prefix: str = "") -> typer.Exit:
            say(f"{prefix}{text}")
            if kwargs.get("as_json"):
                with suppress(OSError):
                    print_error(kind, text, code)
            return typer.Exit(code)

        if isinstance(sys.stdout, io.TextIOWrapper):  # a path may not be UTF-8
            sys.stdout.reconfigure(errors="backslashreplace")
        logging.setLogRecordFactory(_CleanRecord)
        try:
            with _signals_as_exceptions(), stdout_that_may_fail():
                return command(*args, **kwargs)
        except SsoDataError as error:
            raise failed(type(error).__name__, str(error), 1, prefix="error: ") from error
        except KeyboardInterrupt as error:
            raise failed("Interrupted", "interrupted", INTERRUPTED) from error
        except Terminated as error:
            raise failed("Terminated", "terminated", 128 + error.number) from error

    return wrapped


@contextmanager
def stdout_that_may_fail() -> Iterator[None]:
    """Exit with code 0 if stdout is closed by its reader, 1 if it cannot be written."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:  # a file's; stdout has no name
            raise
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(0) from None
        say(f"error: stdout cannot be written: {error.strerror}; files written so far are kept")
        raise typer.Exit(1) from None


class _CleanRecord(logging.LogRecord):
    """A log record without secrets; libraries log addresses that hold a password."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return without_secrets(super().getMessage())


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Raise KeyboardInterrupt or Terminated at the first signal; end the process at the second."""
    asked = False

    def on_signal(number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            if sys.stderr.isatty():
                os.write(2, _SHOW_CURSOR)  # a progress bar hid it
            os._exit(128 + number)
        asked = True
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    caught = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, on_signal) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
