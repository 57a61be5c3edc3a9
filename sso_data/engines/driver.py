"""The submit/step loop over an engine or a chat model, which keeps it busy with many requests."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Generic, Protocol, TypeVar

_WINDOW = 2
"""Requests kept submitted, as a multiple of what the backend works on at once."""

T = TypeVar("T")
Req = TypeVar("Req")
Res = TypeVar("Res")
ReqIn = TypeVar("ReqIn", contravariant=True)
ResOut = TypeVar("ResOut", covariant=True)


class Backend(Protocol[ReqIn, ResOut]):
    """An engine or a chat model: takes requests and returns results as they finish."""

    def submit(self, requests: Sequence[ReqIn], /) -> None:
        """Queue requests."""
        ...

    def step(self) -> Sequence[ResOut]:
        """Work for a moment and return what finished."""
        ...


class Window(Generic[Req, Res]):
    """Requests to one backend; it is opened when the first request needs it.

    `open_backend` returns the backend, and is called at most once; `capacity` how many requests it
    works on at once, which may change. Both are called only when something is asked.
    """

    def __init__(
        self, open_backend: Callable[[], Backend[Req, Res]], capacity: Callable[[], int]
    ) -> None:
        self._open_backend = open_backend
        self._capacity = capacity
        self._outbox: list[Req] = []
        self.in_flight = 0

    @property
    def size(self) -> int:
        """The number of requests to keep in flight."""
        return _WINDOW * self._capacity()

    @property
    def is_full(self) -> bool:
        """Enough requests are in flight to keep the backend busy."""
        return self.in_flight > 0 and self.in_flight >= self.size

    def ask(self, request: Req) -> None:
        """Queue a request for the next step; each gets exactly one result."""
        self._outbox.append(request)
        self.in_flight += 1

    def step(self) -> Sequence[Res]:
        """Submit what was asked, let the backend work for a moment, and return what finished.

        Raises EngineError when the backend can answer nothing any more.
        """
        if self._outbox:
            self._backend.submit(self._outbox)
            self._outbox = []
        results = self._backend.step()
        self.in_flight -= len(results)
        return results

    @cached_property
    def _backend(self) -> Backend[Req, Res]:
        return self._open_backend()


def drive(
    window: Window[Req, Res],
    todo: Iterator[T],
    begin: Callable[[T], None],
    take: Callable[[Res], None],
    *,
    is_full: Callable[[], bool] | None = None,
    settle: Callable[[bool], None] = lambda exhausted: None,
) -> Iterator[None]:
    """Begin every item of `todo` while the window has room, and take results until none is due.

    `begin` and `take` ask the window for more. `is_full` replaces the window's own measure.
    `settle` runs before each step and once at the end; it is told whether `todo` is exhausted, and
    may ask for more. Yields after every step. Raises EngineError as `Window.step` does.
    """
    exhausted = False
    while True:
        while not exhausted and not (is_full() if is_full else window.is_full):
            item = next(todo, None)
            if item is None:
                exhausted = True
            else:
                begin(item)
        settle(exhausted)
        if not window.in_flight:
            if exhausted:
                return
            continue
        for result in window.step():
            take(result)
        yield
