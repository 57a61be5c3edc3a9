"""An engine that is started again when it dies: what was under way is asked for anew."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineDeadError, EngineError, EngineMemoryError, SsoDataError
from sso_data.engines.crash_bisector import CrashBisector
from sso_data.engines.interface import Engine, EngineInfo, Refused, Request, Result, row_of
from sso_data.engines.requests import take_keys

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
    engine cannot be started again, or dies whatever it is given.
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
        """Answers: whoever gave them is alive, and its rows are less suspect."""
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
        """Give the engine what may run; what may not waits."""
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
        """Start another engine; refuse the row that has been found to kill them."""
        with suppress(EngineError):
            self._engine.close()
        under_way = [key for key in self._open if key not in self._waiting]
        culprit = self._bisector.on_crash(map(row_of, under_way))
        self._unanswered_deaths += 1
        if culprit is not None:
            self._refuse(culprit, error)
        if isinstance(error, EngineMemoryError):
            self._config = _with_fewer_scores(self._config)
        self._start_again(error)
        answered = {result.key for result in self._results}
        self._waiting = {key: r for key, r in self._open.items() if key not in answered}
        self._bisector.forget_answered({row_of(key) for key in self._waiting})
        self._send()

    def _refuse(self, row: str, error: EngineDeadError) -> None:
        """Answer a culprit row's requests; EngineError if none was answered since the last one."""
        if self._refused_in_vain:
            raise EngineError(f"the engine dies whatever it is given: {error}")
        self._refused_in_vain = True
        detail = f"the engine died twice with nothing else under way: {error}"
        self._results += [
            Refused(key=key, detail=detail, reason="engine_died")
            for key in self._open
            if row_of(key) == row
        ]

    def _start_again(self, error: EngineError) -> None:
        """Wait, longer each time, and start the engine; EngineError after five failures."""
        failure: SsoDataError = error
        for attempt in range(STARTS):
            seconds = _back_off(self._unanswered_deaths + attempt)
            self._tell(f"{failure}; starting it again in {seconds:.0f} s")
            self._wait(seconds)
            try:
                engine = self._start(self._config)
            except SsoDataError as raised:
                failure = raised
                continue
            self._engine = engine
            self._refuse_another(engine.info)
            return
        raise EngineError(f"the engine died and cannot be started again: {failure}")

    def _refuse_another(self, info: EngineInfo) -> None:
        """EngineError where the new engine would make rows that differ from the old one's."""
        for key in ("name", "device", "dtype", "context_tokens"):
            old, new = getattr(self._info, key), getattr(info, key)
            if old != new:
                raise EngineError(f"the engine started again with {key} {new} instead of {old}")


def _back_off(deaths: int) -> float:
    """Seconds to wait before a start, after so many deaths (at least one) without an answer."""
    return min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(deaths - 1, 10))


def _with_fewer_scores(config: EngineConfig) -> EngineConfig:
    """Half as many scores at once; the engine's own default is a quarter of the sequences."""
    slots = config.score_slots or max(8, config.max_num_seqs // 4)
    return config.model_copy(update={"score_slots": max(1, slots // 2)})
