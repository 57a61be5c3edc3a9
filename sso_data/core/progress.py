"""The progress that long-running functions report, and how times and sizes are written."""

from typing import Protocol

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def duration(seconds: float) -> str:
    """Format seconds as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def size(count: float) -> str:
    """Format bytes in a fitting unit, powers of 1000."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


class Progress(Protocol):
    """Receiver of progress; every long-running public function takes one, or None.

    A display computes speed and time left from the calls of `count` and their times.
    """

    def phase(self, text: str) -> None:
        """Report the start of a phase, for example "loading the model"."""
        ...

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        """Report that `done` of `total` units (rows, steps, ...) are done; None: unknown total.

        The first call for a unit reports what was done before this process. `state` describes
        the work so far in a few words, for example "kept 61%, 2 failed".
        """
        ...

    def note(self, text: str) -> None:
        """Report a result on the way that a person may want to read."""
        ...

    def warn(self, text: str) -> None:
        """Report a problem after which the work continues."""
        ...


class NullProgress:
    """A `Progress` that shows nothing."""

    def phase(self, text: str) -> None:
        """Ignored."""

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

    def warn(self, text: str) -> None:
        """Ignored."""
