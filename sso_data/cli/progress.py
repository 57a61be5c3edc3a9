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
from sso_data.engine import EngineInfo
from sso_data.pipeline import Progress

_LINE_SECONDS = 10.0
_DRAW_SECONDS = 0.2


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
        """(tokens per second, rows per second)."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        elapsed = max(now - self._start, 1e-9)
        return progress.tokens / elapsed, (progress.rows + progress.failed) / elapsed


def _done(progress: Progress) -> int:
    return progress.rows + progress.failed + progress.skipped


def _state(progress: Progress, kept: int, tokens_per_second: float) -> str:
    share = f", kept {kept / progress.rows:.0%}" if progress.rows else ""
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{tokens_per_second:,.0f} tokens/s{share}{failed}"


class PlainListener:
    """One line per phase, and one every ten seconds of progress."""

    def __init__(self) -> None:
        self._total = 0
        self._rates = _Rates()
        self._next = 0.0

    def phase(self, text: str) -> None:
        say(text)

    def total(self, prompts: int) -> None:
        self._total = prompts
        say(f"{prompts} prompts")

    def engine(self, info: EngineInfo) -> None:
        say(describe_engine(info))

    def progress(self, progress: Progress, kept: int) -> None:
        tokens_per_second, rows_per_second = self._rates.of(progress)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _LINE_SECONDS
        done = _done(progress)
        eta = (self._total - done) / rows_per_second if rows_per_second else None
        left = f", {duration(eta)} left" if eta is not None else ""
        say(f"{done}/{self._total} rows, {_state(progress, kept, tokens_per_second)}{left}")

    def written(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now >= self._next:
            self._next = now + _LINE_SECONDS
            say(f"{done}/{total} pairs written")


class BarListener:
    """A rich progress bar: rows done, tokens/s, kept share so far, time left."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None, state="")
        self._rates = _Rates()
        self._next = 0.0

    def phase(self, text: str) -> None:
        self._bar.update(self._task, description=text, state="", refresh=True)

    def total(self, prompts: int) -> None:
        self._bar.update(self._task, total=prompts)

    def engine(self, info: EngineInfo) -> None:
        self._bar.console.print(describe_engine(info), style="dim", highlight=False)
        self._bar.update(self._task, description="rows")

    def progress(self, progress: Progress, kept: int) -> None:
        tokens_per_second, _ = self._rates.of(progress)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _DRAW_SECONDS
        state = _state(progress, kept, tokens_per_second)
        self._bar.update(self._task, completed=_done(progress), state=state)

    def written(self, done: int, total: int) -> None:
        self._bar.update(self._task, description="pairs", completed=done, total=total, state="")


@contextmanager
def listening() -> Iterator[PlainListener | BarListener]:
    """A listener that fits stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainListener()
        return
    with Bar(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        yield BarListener(bar)
