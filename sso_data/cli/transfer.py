"""Progress of an upload on stderr: bytes, speed and time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from sso_data.cli.outcome import say
from sso_data.cli.progress import duration

_LINE_SECONDS = 5.0
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Bytes in a unit that fits: powers of 1000."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


class PlainTransfer:
    """One line per phase, and one every five seconds of uploading."""

    def __init__(self) -> None:
        self._start = 0.0
        self._next = 0.0

    def phase(self, text: str) -> None:
        say(text)

    def note(self, text: str) -> None:
        say(text)

    def sent(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not done:
            self._start, self._next = now, now + _LINE_SECONDS
            return
        if now < self._next and done < total:
            return
        self._next = now + _LINE_SECONDS
        rate = done / max(now - self._start, 1e-3)
        left = f", {duration((total - done) / rate)} left" if done < total else ""
        say(f"{size(done)} of {size(total)} sent, {size(rate)}/s{left}")


class BarTransfer:
    """A rich progress bar: bytes sent, speed, time left."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None)

    def phase(self, text: str) -> None:
        self._bar.update(self._task, description=text, refresh=True)

    def note(self, text: str) -> None:
        self._bar.console.print(text, style="dim", highlight=False, soft_wrap=True)

    def sent(self, done: int, total: int) -> None:
        if not done:
            self._bar.reset(self._task, total=total)
        self._bar.update(self._task, completed=done)


@contextmanager
def transferring() -> Iterator[PlainTransfer | BarTransfer]:
    """A listener that fits stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainTransfer()
        return
    with Bar(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        yield BarTransfer(bar)
