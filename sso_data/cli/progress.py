"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from sso_data.cli.outcome import SafeConsole, Terminated, say
from sso_data.core.errors import without_secrets

_LINE_SECONDS = 10.0
_DRAW_SECONDS = 0.2
_SPEED_SECONDS = 120.0
"""Speed is measured over the last two minutes."""
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


def _of_total(done: float, total: float | None, unit: str) -> str:
    if unit == "bytes":
        return size(done) if total is None else f"{size(done)} of {size(total)}"
    return f"{done:.0f}" if total is None else f"{done:.0f}/{total:.0f}"


class TerminalProgress:
    """A `core.progress.Progress` on stderr.

    On a terminal it draws a bar; elsewhere it prints a line for each phase, and one for a count
    every ten seconds and at the end. rich measures speed and time left, drawn or not, from this
    process's own work.
    """

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._draws = not bar.disable
        self._task = bar.add_task("starting", total=None, state="", unit="")
        self._unit = ""
        self._next = 0.0
        self._printed = ""

    def phase(self, text: str) -> None:
        """Show the phase's name."""
        if not self._draws:
            say(text)
            return
        self._unit = ""
        self._bar.reset(
            self._task, description=without_secrets(text), total=None, state="", unit=""
        )

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        """Show the count, the state, and the time left; at most five times a second."""
        now = time.monotonic()
        if unit != self._unit:
            self._begin(done, total, unit)
            self._next = now + (_DRAW_SECONDS if self._draws else 0)
        elif now < self._next and done != total:
            self._bar.update(self._task, completed=done, total=total)
            return
        self._bar.update(self._task, completed=done, total=total, state=state)
        if self._draws:
            self._next = now + _DRAW_SECONDS
            return
        task = self._bar.tasks[0]
        left = task.time_remaining
        eta = f"{duration(left)} left" if left and done != total else ""
        counted = f"{_of_total(done, total, unit)} {'' if unit == 'bytes' else unit}".strip()
        line = ", ".join(part for part in (counted, state, eta) if part)
        if line != self._printed:
            self._next, self._printed = now + _LINE_SECONDS, line
            say(line)

    def note(self, text: str) -> None:
        """Print a line."""
        self._print(text, "dim")

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._print(f"warning: {text}", "yellow")

    def _print(self, text: str, style: str) -> None:
        if not self._draws:
            say(text)
            return
        shown = Text(without_secrets(text), style)
        self._bar.console.print(shown, highlight=False, soft_wrap=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Draw nothing while another process writes to the terminal."""
        if not self._draws:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def _begin(self, done: int, total: int | None, unit: str) -> None:
        """Start counting a unit; work done earlier does not count for the speed."""
        self._unit = unit
        self._bar.reset(
            self._task, description=unit, total=total, completed=done, state="", unit=unit
        )


class _CountColumn(ProgressColumn):
    """`done/total`, bytes in units."""

    def render(self, task: Task) -> Text:
        unit = str(task.fields["unit"])
        return Text(_of_total(task.completed, task.total, unit) if unit else "")


@contextmanager
def showing_progress(hint: str | None = None) -> Iterator[TerminalProgress]:
    """Yield a progress display on stderr; say `hint` if the work inside is interrupted."""
    console = SafeConsole(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _CountColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    try:
        with Bar(
            *columns,
            console=console,
            transient=True,
            speed_estimate_period=_SPEED_SECONDS,
            disable=not console.is_terminal,
        ) as bar:
            yield TerminalProgress(bar)
    except (KeyboardInterrupt, Terminated):
        if hint:
            say(hint)
        raise
