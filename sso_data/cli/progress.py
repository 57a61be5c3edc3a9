"""Progress of a run on stderr: a bar on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from sso_data.cli.outcome import say
from sso_data.engines.interface import EngineInfo
from sso_data.generation.pipeline import Progress
from sso_data.training.listener import StepLog

_LINE_SECONDS = 10.0
_DRAW_SECONDS = 0.2
_LEAST_SECONDS = 1.0


def describe_engine(info: EngineInfo) -> str:
    """The engine in a few words."""
    return (
        f"{info.name} {info.version} on {info.device}, {info.dtype}, "
        f"context {info.context_tokens} tokens"
    )


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


class _Rates:
    """Rates since the first row was worked on, so that loading a model does not count."""

    def __init__(self) -> None:
        self._start: float | None = None

    def of(self, progress: Progress) -> tuple[float, float]:
        """(tokens per second, rows per second); 0 until there is something to measure."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        elapsed = now - self._start
        if elapsed < _LEAST_SECONDS:
            return 0.0, 0.0
        return progress.tokens / elapsed, (progress.rows + progress.failed) / elapsed


def _done(progress: Progress) -> int:
    return progress.rows + progress.failed + progress.skipped


def _state(progress: Progress, kept: int, tokens_per_second: float) -> str:
    parts = [
        f"{tokens_per_second:,.0f} tokens/s" if tokens_per_second else "",
        f"kept {kept / progress.rows:.0%}" if progress.rows else "",
        f"{progress.failed} failed" if progress.failed else "",
    ]
    return ", ".join(part for part in parts if part)


class _Left:
    """Time left of a training, from its steps since it began or went on."""

    def __init__(self, done: int) -> None:
        self._done = done
        self._start = time.monotonic()

    def of(self, log: StepLog) -> float | None:
        """Seconds; None before the first step."""
        steps = log.step - self._done
        if steps <= 0:
            return None
        return (log.total - log.step) * (time.monotonic() - self._start) / steps


class _Pace:
    """Time left of a count, from the moment it was first heard of."""

    def __init__(self, what: str, done: int) -> None:
        self.what, self.done = what, done
        self._start = time.monotonic()

    def left(self, done: int, total: int) -> str:
        """`, 0:01:10 left`; nothing at the end, or before there is something to measure."""
        elapsed = time.monotonic() - self._start
        if done in (self.done, total) or elapsed < _LEAST_SECONDS:
            return ""
        return f", {duration((total - done) * elapsed / (done - self.done))} left"


class PlainListener:
    """One line per phase, and one every ten seconds of progress."""

    def __init__(self) -> None:
        self._total = 0
        self._rates = _Rates()
        self._left = _Left(0)
        self._next = 0.0
        self._said = -1
        self._pace: _Pace | None = None

    def phase(self, text: str) -> None:
        say(text)

    def total(self, prompts: int) -> None:
        self._total = prompts
        say(f"{prompts} prompts")

    def engine(self, info: EngineInfo) -> None:
        say(describe_engine(info))

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        now = time.monotonic()
        if self._pace is None or self._pace.what != unit or done < self._pace.done:
            self._pace = _Pace(unit, done)
        is_last = done == total and done > self._pace.done
        if now < self._next and not is_last:
            return
        self._next = now + _LINE_SECONDS
        of = f"{done}/{total}" if total is not None else f"{done}"
        left = self._pace.left(done, total) if total is not None else ""
        say(f"{of} {unit}{f', {state}' if state else ''}{left}")

    def progress(self, progress: Progress, kept: int) -> None:
        tokens_per_second, rows_per_second = self._rates.of(progress)
        now, done = time.monotonic(), _done(progress)
        is_last = done == self._total
        if (now < self._next and not is_last) or self._said == done:
            return
        self._next, self._said = now + _LINE_SECONDS, done
        eta = (self._total - done) / rows_per_second if rows_per_second and not is_last else None
        left = f"{duration(eta)} left" if eta is not None else ""
        state = _state(progress, kept, tokens_per_second)
        say(", ".join(part for part in (f"{done}/{self._total} rows", state, left) if part))

    def written(self, done: int, total: int, what: str = "pairs") -> None:
        now = time.monotonic()
        if self._pace is None or self._pace.what != what:
            self._pace = _Pace(what, done)
        if done == total or now >= self._next:
            self._next = now + _LINE_SECONDS
            say(f"{done}/{total} {what} written{self._pace.left(done, total)}")

    def note(self, text: str) -> None:
        say(text)

    def warn(self, text: str) -> None:
        say(f"warning: {text}")

    def steps(self, done: int, total: int) -> None:
        self._left = _Left(done)
        self._next = 0.0
        say(f"{total} steps" if not done else f"{total} steps, going on after step {done}")

    def step(self, log: StepLog) -> None:
        now = time.monotonic()
        if now < self._next and log.step < log.total and "eval_loss" not in log.values:
            return
        self._next = now + _LINE_SECONDS
        left = self._left.of(log)
        eta = f", {duration(left)} left" if left is not None else ""
        say(f"step {log.step}/{log.total}: {log}{eta}")


class BarListener:
    """A rich progress bar: rows or steps done, how it goes, time left."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None, state="")
        self._rates = _Rates()
        self._next = 0.0
        self._counting = False
        self._writing = ""

    def phase(self, text: str) -> None:
        self._bar.update(self._task, description=text, state="", refresh=True)

    def total(self, prompts: int) -> None:
        self._bar.update(self._task, total=prompts)

    def engine(self, info: EngineInfo) -> None:
        self._bar.console.print(describe_engine(info), style="dim", highlight=False)
        self._bar.update(self._task, description="rows")

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        now = time.monotonic()
        if self._writing != unit:
            self._writing = unit  # what an earlier process did is no work of this one
            self._bar.reset(self._task, completed=done, total=total, state=state)
        elif now < self._next:
            return
        self._next = now + _DRAW_SECONDS
        self._bar.update(self._task, completed=done, total=total, state=state)

    def progress(self, progress: Progress, kept: int) -> None:
        tokens_per_second, _ = self._rates.of(progress)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _DRAW_SECONDS
        state = _state(progress, kept, tokens_per_second)
        if not self._counting:
            self._counting = True  # rows done earlier are no work of this process
            self._bar.reset(self._task, completed=_done(progress), state=state)
        self._bar.update(self._task, completed=_done(progress), state=state)

    def written(self, done: int, total: int, what: str = "pairs") -> None:
        if self._writing != what:
            self._counting, self._writing = False, what
            self._bar.reset(self._task, description=what, total=total, state="")
        self._bar.update(self._task, description=what, completed=done, total=total, state="")

    def note(self, text: str) -> None:
        self._bar.console.print(text, style="dim", highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self._bar.console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)

    def steps(self, done: int, total: int) -> None:
        self._bar.reset(self._task, description="steps", total=total, completed=done, state="")

    def step(self, log: StepLog) -> None:
        self._bar.update(self._task, completed=log.step, state=str(log))


@contextmanager
def listening() -> Iterator[PlainListener | BarListener]:
    """A listener that fits stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainListener()
        return
    with Bar(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        yield BarListener(bar)
