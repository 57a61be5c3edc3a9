"""An engine that is restarted when it dies, and the search for the row that kills it."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineDeadError, EngineError, EngineMemoryError, SsoDataError
from sso_data.engines.interface import Engine, EngineInfo, Refused, Request, Result, row_of
from sso_data.engines.requests import score_slots, take_keys

FIRST_WAIT_SECONDS = 1.0
MOST_WAIT_SECONDS = 60.0
STARTS = 5

Start = Callable[[EngineConfig], Engine]


class RestartingEngine:
    """The engine that `start` makes, replaced whenever it dies.

    Between a death and the next start it waits 1, 2, 4 ... 60 seconds, counted from the last
    answer. A row that kills the engine is found by `CrashBisector` and refused; the others go on.
    Death for want of memory halves `engine.score_slots`. `tell` is given one line for each death.

    The first start's error is raised as it is. `step` and `submit` raise EngineError when the
    engine cannot be restarted, or dies whatever it is given.
    """

    def __init__(
        self,
        start: Start,
        config: EngineConfig,
        *,
        tell: Callable[[str], None] = lambda line: None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._start, self._config = start, config
        self._tell, self._wait = tell, wait
        self._open: dict[str, Request] = {}
        self._waiting: dict[str, Request] = {}
        self._bisector = CrashBisector()
        self._unanswered_deaths = 0
        self._refused_in_vain = False
        self._results: list[Result] = []
        self._engine = start(config)
        self._info = self._engine.info

    @property
    def info(self) -> EngineInfo:
        return self._info

    def submit(self, requests: Sequence[Request]) -> None:
        take_keys(set(self._open), requests)
        asked = {request.key: request for request in requests}
        self._open |= asked
        self._waiting |= asked
        self._send()

    def step(self) -> list[Result]:
        try:
            self._results += self._engine.step()
        except EngineDeadError as error:
            self._replace(error)
        results, self._results = self._results, []
        if results:
            self._take(results)
        return results

    def close(self) -> None:
        self._engine.close()

    def _take(self, results: Sequence[Result]) -> None:
        """Record answers: the engine works, and their rows are less suspect."""
        for result in results:
            del self._open[result.key]
            self._bisector.answered(row_of(result.key))
        if any(not isinstance(r, Refused) or r.reason != "engine_died" for r in results):
            self._unanswered_deaths = 0
            self._refused_in_vain = False
        if self._bisector.narrowing:
            self._bisector.forget_answered({row_of(key) for key in self._open})
        self._send()

    def _send(self) -> None:
        """Submit the requests that may run; the others wait."""
        sent = [r for key, r in self._waiting.items() if self._bisector.allows(row_of(key))]
        if not sent:
            return
        for request in sent:
            del self._waiting[request.key]
        try:
            self._engine.submit(sent)
        except EngineDeadError as error:
            self._replace(error)

    def _replace(self, error: EngineDeadError) -> None:
        """Start another engine; refuse the requests of a row that has been found to kill them.

        Raises EngineError where refusing a row did not help, or after five failed starts.
        """
        with suppress(EngineError):
            self._engine.close()
        under_way = [key for key in self._open if key not in self._waiting]
        culprit = self._bisector.on_crash(map(row_of, under_way))
        self._unanswered_deaths += 1
        if culprit is not None:
            if self._refused_in_vain:
                raise EngineError(f"the engine keeps dying, whichever row it works on: {error}")
            self._refused_in_vain = True
            detail = f"the engine died twice while working on this row alone: {error}"
            self._results += [
                Refused(key=key, detail=detail, reason="engine_died")
                for key in self._open
                if row_of(key) == culprit
            ]
        if isinstance(error, EngineMemoryError):
            slots = max(1, score_slots(self._config) // 2)
            self._config = self._config.model_copy(update={"score_slots": slots})
        self._start_again(error)
        answered = {result.key for result in self._results}
        self._waiting = {key: r for key, r in self._open.items() if key not in answered}
        self._bisector.forget_answered({row_of(key) for key in self._waiting})
        self._send()

    def _start_again(self, error: EngineError) -> None:
        """Wait, longer each time, and start the engine."""
        failure: SsoDataError = error
        for attempt in range(STARTS):
            doublings = min(self._unanswered_deaths + attempt - 1, 10)
            seconds = min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**doublings)
            self._tell(f"{failure}; restarting in {seconds:.0f} s")
            self._wait(seconds)
            try:
                self._engine = self._start(self._config)
            except SsoDataError as raised:
                failure = raised
                continue
            for key in ("name", "device", "dtype", "context_tokens"):
                old, new = getattr(self._info, key), getattr(self._engine.info, key)
                if old != new:  # its rows would differ from those of the one before
                    raise EngineError(f"the engine restarted with {key} {new}, it had {old} before")
            return
        raise EngineError(f"the engine died and cannot be restarted: {failure}")


class CrashBisector:
    """Narrows crashes down to a row, by bisection.

    A single crash blames no row: engines are also killed from outside. Rows in flight at two
    crashes in a row are bisected. A row that crashes the engine twice while it runs alone, without
    an answer in between, is the culprit; no other row is refused.
    """

    def __init__(self) -> None:
        self._before: frozenset[str] = frozenset()
        self._groups: list[list[str]] = []
        self._deaths_alone: Counter[str] = Counter()

    @property
    def narrowing(self) -> bool:
        """Return True while only some rows may run."""
        return bool(self._groups)

    def allows(self, row: str) -> bool:
        """Return True if requests of this row may run now."""
        return not self._groups or row in self._groups[-1]

    def answered(self, row: str) -> None:
        """A request of this row was answered."""
        self._deaths_alone.pop(row, None)

    def forget_answered(self, open_rows: Collection[str]) -> None:
        """Go on to the next group when nothing of the present one is open any more."""
        while self._groups and not any(row in open_rows for row in self._groups[-1]):
            self._groups.pop()

    def on_crash(self, rows: Iterable[str]) -> str | None:
        """The engine died while these rows were under way; returns the row that is culprit."""
        under_way = list(dict.fromkeys(rows))
        if not under_way:
            return None
        group = self._groups.pop() if self._groups else None
        if len(under_way) == 1:
            row = under_way[0]
            self._deaths_alone[row] += 1
            if self._deaths_alone[row] > 1:
                return row
            self._groups.append([row])
        elif group is None:
            again = [row for row in under_way if row in self._before]
            self._before = frozenset(under_way)
            self._groups += _halves(again)
        else:
            self._groups += _halves(under_way)
        return None


def _halves(rows: Sequence[str]) -> list[list[str]]:
    """The rows in two groups, the one to run first last; a group without rows is left out."""
    middle = len(rows) // 2
    return [list(half) for half in (rows[middle:], rows[:middle]) if half]
