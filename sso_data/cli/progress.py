"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
)
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from sso_data.cli.outcome import SafeConsole, Terminated, say
from sso_data.core.errors import without_secrets
from sso_data.core.progress import duration, size

_LINE_SECONDS = 10.0
_DRAW_SECONDS = 0.2
_SPEED_SECONDS = 300.0
"""Speed is measured over the last five minutes."""
_BAR_COLUMNS = 110
"""A narrower terminal shows no bar: what is counted and the times have its place."""


def _of_total(done: float, total: float | None, unit: str) -> str:
    if unit == "bytes":
        return size(done) if total is None else f"{size(done)} of {size(total)}"
    return f"{done:.0f}" if total is None else f"{done:.0f}/{total:.0f}"


class TerminalProgress:
    """A `core.progress.Progress` on stderr.

    On a terminal it draws a bar; elsewhere it prints a line for each phase, and one for a count
    every ten seconds and when the counting ends. Speed and time left are those of this process's
    own work.
    """

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._draws = not bar.disable
        self._task = bar.add_task("starting", total=None, state="", unit="", ends=None)
        self._unit = ""
        self._speed = Speed()
        self._next = 0.0
        self._printed = self._waiting = ""

    def phase(self, text: str) -> None:
        """Show the phase's name."""
        self.flush()
        self._unit = self._printed = ""
        if not self._draws:
            say(text)
            return
        shown = without_secrets(text)
        self._bar.reset(self._task, description=shown, total=None, state="", unit="", ends=None)

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        """Show the count, the state, and the times; at most five times a second."""
        now = time.monotonic()
        if unit != self._unit:
            self._begin(done, total, unit, now)
            self._next = now
        counted = f"{_of_total(done, total, unit)} {'' if unit == 'bytes' else unit}".strip()
        line = ", ".join(part for part in (counted, state) if part)
        if now < self._next and (not self._draws or done != total):
            self._waiting = line
            return
        self._speed.add(now, done)
        is_over = total is None or done == total  # what may go on is in the state
        left = None if is_over else self._speed.seconds((total or 0) - done)
        if self._draws:
            ends = None if left is None else now + left
            self._bar.update(self._task, completed=done, total=total, state=state, ends=ends)
            self._next = now + _DRAW_SECONDS
            return
        self._next, self._waiting = now + _LINE_SECONDS, line
        self.flush(f", {_times(now - self._speed.start, left)}" if left else "")

    def flush(self, times: str = "") -> None:
        """Print the last count where its line still waits for its time; not on a terminal."""
        if self._waiting and self._waiting != self._printed and not self._draws:
            say(self._waiting + times)
            self._printed = self._waiting
        self._waiting = ""

    def note(self, text: str) -> None:
        """Print a line."""
        self._print(text, "dim")

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._print(f"warning: {text}", "yellow")

    def _print(self, text: str, style: str) -> None:
        if not self._draws:
            self.flush()
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

    def _begin(self, done: int, total: int | None, unit: str, now: float) -> None:
        """Start counting a unit; work done earlier does not count for the speed."""
        self.flush()
        self._unit, self._speed = unit, Speed(now, done)
        self._bar.reset(
            self._task,
            description=unit,
            total=total,
            completed=done,
            state="",
            unit=unit,
            ends=None,
        )


class Speed:
    """Units of work a second, lately; `start`: when the counting began, in seconds of a clock.

    The start counts: until the first unit is done, nothing is said about the time left.
    """

    def __init__(self, start: float = 0.0, done: float = 0.0) -> None:
        self.start = start
        self._points = deque([(start, done)])

    def add(self, now: float, done: float) -> None:
        """Take in that `done` units are done."""
        self._points.append((now, done))
        while len(self._points) > 2 and self._points[1][0] <= now - _SPEED_SECONDS:
            self._points.popleft()

    def seconds(self, units: float) -> float | None:
        """Return the time that `units` more will take; None where nothing was done lately."""
        (began, before), (now, done) = self._points[0], self._points[-1]
        return units * (now - began) / (done - before) if done > before else None


def _times(elapsed: float, left: float | None) -> str:
    """Return the time elapsed and the time left, each with its name."""
    until = "" if left is None else f", {duration(max(0.0, left))} left"
    return f"{duration(elapsed)} elapsed{until}"


class _TimesColumn(ProgressColumn):
    """Time elapsed and time left, which runs down between two counts."""

    def render(self, task: Task) -> Text:
        ends = task.fields["ends"]
        left = None if ends is None else ends - time.monotonic()
        return Text(_times(task.elapsed or 0.0, left))


class _CutColumn(ProgressColumn):
    """A text of the task in the place that numbers and times leave; the longest is cut first."""

    def __init__(self, text: Callable[[Task], str]) -> None:
        self._text = text
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(self._text(task), no_wrap=True, overflow="ellipsis")


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
        _CutColumn(lambda task: task.description),
        *((BarColumn(bar_width=None),) if console.width >= _BAR_COLUMNS else ()),
        _CountColumn(table_column=Column(no_wrap=True)),
        _CutColumn(lambda task: str(task.fields["state"])),
        _TimesColumn(table_column=Column(no_wrap=True)),
    )
    try:
        with Bar(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as bar:
            shown = TerminalProgress(bar)
            try:
                yield shown
            finally:
                shown.flush()
    except (KeyboardInterrupt, Terminated):
        if hint:
            say(hint)
        raise
