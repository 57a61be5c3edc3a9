"""Ends of commands: exit codes, signals, and one line for a user's mistake."""

import functools
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from sso_data.core.errors import SsoDataError, harmless, shown, without_secrets
from sso_data.core.streams import SoundStream

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
    """Print text on stderr, without secrets and what could steer the terminal."""
    lines = [shown(line) for line in without_secrets(text).split("\n")]
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201


def echo(text: object) -> None:
    """Print a result on stdout, without what could steer the terminal."""
    typer.echo(harmless(str(text)))


def print_json(content: object, indent: int | None = 2) -> None:
    """Print a value as JSON on stdout; what could steer the terminal is escaped."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    typer.echo(harmless(text, as_json=True))


class SafeConsole(Console):
    """A console that shows texts of others without what could steer the terminal.

    Elsewhere than on a terminal no line ends in spaces that only fill it up.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as a console does."""
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as made:
            super().print(*objects, **options)
        self.file.write("\n".join(line.rstrip(" ") for line in made.get().split("\n")))
        self.file.flush()

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            is_text = not segment.control
            yield Segment(harmless(segment.text), segment.style) if is_text else segment


def someone_reads() -> bool:
    """True unless the reader of stdout is gone, so that what is only shown need not be made."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return getattr(raw, "failure", None) is None


def one_reader() -> bool:
    """Return True where stdout and stderr go to one place: what one of them said is known there."""
    with suppress(OSError, ValueError):
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    return False


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
                print_error(kind, text, code)
            return typer.Exit(code)

        if isinstance(sys.stdout, io.TextIOWrapper):  # a path may not be UTF-8
            sys.stdout.reconfigure(errors="backslashreplace")
        logging.setLogRecordFactory(_CleanRecord)
        try:
            with _signals_as_exceptions():
                return command(*args, **kwargs)
        except SsoDataError as error:
            raise failed(type(error).__name__, str(error), 1, prefix="error: ") from error
        except KeyboardInterrupt as error:
            raise failed("Interrupted", "interrupted", INTERRUPTED) from error
        except Terminated as error:
            raise failed("Terminated", "terminated", 128 + error.number) from error

    return wrapped


def ended(code: int | str | None, stdout: SoundStream) -> int:
    """Return the process's exit code: the command's, or 1 where its results could not be shown.

    A reader of stdout that is gone had what it wanted.
    """
    sys.stdout.flush()
    number = code if isinstance(code, int) else int(code is not None)
    if stdout.failure is None or isinstance(stdout.failure, BrokenPipeError):
        return number
    say(
        f"error: stdout cannot be written: {stdout.failure.strerror}; files written so far are kept"
    )
    return number or 1


class _CleanRecord(logging.LogRecord):
    """A log record without secrets: libraries log addresses that hold a password."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return harmless(without_secrets(super().getMessage()))


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Raise KeyboardInterrupt or Terminated at the first signal; end the process at the second."""
    asked = False

    def on_signal(number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            with suppress(OSError):
                if os.isatty(2):
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
