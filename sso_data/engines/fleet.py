"""Several engines as one: each starts, dies and is restarted alone, and the others go on."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Any, Protocol

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineDeadError, EngineError, EngineMemoryError, SsoDataError
from sso_data.engines.bisector import CrashBisector
from sso_data.engines.interface import PROBE_NATS, EngineInfo, Refused, Request, Result, row_of
from sso_data.engines.requests import score_slots

FIRST_WAIT_SECONDS = 1.0
MOST_WAIT_SECONDS = 60.0
POLL_SECONDS = 0.2
LOOK_SECONDS = 5.0
STARTS = 5
WINDOW = 2
"""Requests of a slot, as a multiple of what its engine works on at once, up to which it is given
new rows."""


class Transport(Protocol):
    """An engine somewhere else, which starts in the background and can die.

    `poll`, `submit` and `step` raise EngineDeadError when it died; `poll` raises what kept it from
    starting. None of them waits.
    """

    @property
    def waitables(self) -> Sequence[Any]:
        """For `multiprocessing.connection.wait`: ready when there is something to do."""
        ...

    def poll(self) -> EngineInfo | None:
        """Return the engine's properties, or None while it starts."""
        ...

    def submit(self, requests: Sequence[Request]) -> None: ...

    def step(self, timeout: float) -> list[Result]: ...

    def close(self) -> None: ...


Start = Callable[[EngineConfig], Transport]
"""Begins to start an engine, and returns at once."""


@dataclass(slots=True, eq=False)
class _Row:
    """The requests of a row: they run on one slot, where their prompts are in the cache.

    `unsent` are those of `open` that wait for a slot; `died_on` is the slot that died last with it.
    """

    name: str
    open: dict[str, Request] = field(default_factory=dict)
    unsent: list[Request] = field(default_factory=list)
    slot: "_Slot | None" = None
    died_on: "_Slot | None" = None


@dataclass(slots=True, eq=False)
class _Slot:
    """The place of one engine. `deaths` and `in_vain` (a row was refused) since its last answer."""

    name: str
    start: Start
    config: EngineConfig
    engine: Transport | None = None
    is_ready: bool = False
    is_retired: bool = False
    start_at: float = 0.0
    failed_starts: int = 0
    deaths: int = 0
    in_vain: bool = False
    rows: dict[str, _Row] = field(default_factory=dict)
    open: int = 0

    def stop(self) -> None:
        engine, self.engine, self.is_ready = self.engine, None, False
        if engine is not None:
            with suppress(EngineError):
                engine.close()

    def assign(self, row: _Row) -> list[Request]:
        """Take a row and return its requests, to be sent."""
        row.slot = self
        self.rows[row.name] = row
        self.open += len(row.open)
        unsent, row.unsent = row.unsent, []
        return unsent


class Fleet:
    """The engines that `starts` make, behind the interface of one.

    The first one is waited for, and its start's error is raised as it is; then the others start in
    the background. With `together` (servers) all are waited for; one that is not there may come
    later, and none retires for being away while another is there.

    A row stays on its slot, new ones go to the emptiest. When an engine dies, only its requests are
    asked again, on another slot where there is one; between a death and the next start it waits 1,
    2, 4 ... 60 seconds, counted from the last answer, while the others go on. Death for want of
    memory halves the slot's `engine.score_slots`. A slot whose engine fails to start five times in
    a row, or keeps dying where others work, retires.

    With `room` (a cluster) there are as many slots as it says there is room for now: the last start
    makes those that are added, and those that have no engine leave first.

    A row that kills engines is found by `CrashBisector`, on one slot that runs nothing else
    meanwhile, and refused. `tell` is given one line for each death and each retirement. `step`
    and `submit` raise EngineError when all slots have retired, and what `room` raises.
    """

    def __init__(
        self,
        starts: Sequence[Start],
        config: EngineConfig,
        *,
        names: Sequence[str] = ("the engine",),
        together: bool = False,
        room: Callable[[], int] | None = None,
        tell: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._tell, self._clock, self._sleep = tell, clock, sleep
        self._slots = [
            _Slot(name, start, config) for name, start in zip(names, starts, strict=True)
        ]
        self._rows: dict[str, _Row] = {}
        self._open: dict[str, _Row] = {}
        self._queue: deque[_Row] = deque()
        self._idle: list[_Row] = []
        self._results: list[Result] = []
        self._bisector = CrashBisector()
        self._quarantine: _Slot | None = None
        self._together = together
        self._config, self._room, self._look_at, self._named_slots = config, room, 0.0, len(starts)
        self._info = self._first_info()
        self._start_what_is_due()

    @property
    def info(self) -> EngineInfo:
        count = len(self._live)
        most = self._info.max_in_flight * count
        return replace(self._info, max_in_flight=most, engines=count)

    def submit(self, requests: Sequence[Request]) -> None:
        keys = {request.key for request in requests}
        if len(keys) < len(requests) or any(key in self._open for key in keys):
            raise ValueError("two unanswered requests have the same key")
        batches: defaultdict[_Slot, list[Request]] = defaultdict(list)
        for request in requests:
            name = row_of(request.key)
            row = self._rows.get(name)
            if row is None:
                row = self._rows[name] = _Row(name)
                self._queue.append(row)
            row.open[request.key] = request
            self._open[request.key] = row
            if row.slot is None:
                row.unsent.append(request)
            else:
                row.slot.open += 1
                batches[row.slot].append(request)
        self._send(batches)

    def step(self) -> list[Result]:
        self._forget_finished_rows()
        self._fit()
        self._start_what_is_due()
        self._send(self._assigned())
        if self._open and not self._results:
            self._wait()
        for slot in self._slots:
            self._look(slot)
        results, self._results = self._results, []
        return results

    def close(self) -> None:
        with ThreadPoolExecutor(len(self._slots)) as pool:
            list(pool.map(_Slot.stop, self._slots))

    @property
    def _live(self) -> list[_Slot]:
        return [slot for slot in self._slots if not slot.is_retired]

    def _first_info(self) -> EngineInfo:
        """Start the first engines, wait for them, and return the properties of all together."""
        first = self._slots if self._together else self._slots[:1]
        dead: list[EngineDeadError] = []
        info, named = None, ""
        try:
            for slot in first:
                slot.engine = slot.start(slot.config)
            for slot in first:
                try:
                    found = self._awaited(slot)
                except EngineDeadError as error:
                    slot.stop()
                    dead.append(error)
                    if len(dead) == len(first):
                        raise
                    self._start_failed(slot, error)
                    continue
                if info is None:
                    info, named = found, slot.name
                if why := _difference(info, found):
                    raise EngineError(f"{slot.name} and {named} differ: {why}")
                slot.is_ready = True
        except BaseException:
            for slot in first:
                slot.stop()
            raise
        assert info is not None
        return info

    @staticmethod
    def _awaited(slot: _Slot) -> EngineInfo:
        """The properties of a slot's engine, when it is ready."""
        assert slot.engine is not None
        while (info := slot.engine.poll()) is None:
            wait(slot.engine.waitables, POLL_SECONDS)
        return info

    def _fit(self) -> None:
        """Have a slot for each engine that there is room for; slots given up are not replaced."""
        if self._room is None or self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_SECONDS
        room = max(1, self._room() - len(self._slots) + len(self._live))
        excess = max(0, len(self._live) - room)
        for slot in [slot for slot in self._live if not slot.is_ready][:excess]:
            self._retire(slot, f"the cluster has room for {room} now")
            self._slots.remove(slot)
        while len(self._live) < room:
            self._named_slots += 1
            name = f"engine {self._named_slots}"
            self._slots.append(_Slot(name, self._slots[-1].start, self._config))

    def _start_what_is_due(self) -> None:
        for slot in self._live:
            if slot.engine is None and slot.start_at <= self._clock():
                try:
                    slot.engine = slot.start(slot.config)
                except (SsoDataError, OSError) as error:  # no memory for a process, for example
                    self._start_failed(slot, error)

    def _forget_finished_rows(self) -> None:
        """Drop the rows of which nothing was asked since their last answer."""
        for row in self._idle:
            if not row.open and self._rows.get(row.name) is row:
                del self._rows[row.name]
                self._bisector.finished(row.name)
                if row.slot is not None:
                    del row.slot.rows[row.name]
        self._idle.clear()
        if self._bisector.narrowing:
            self._bisector.forget_answered(self._rows)
        if not self._bisector.narrowing:
            self._quarantine = None

    def _assigned(self) -> dict[_Slot, list[Request]]:
        """Give waiting rows to slots that have room; returns what is to be sent."""
        batches: defaultdict[_Slot, list[Request]] = defaultdict(list)
        suspects = self._quarantine
        if suspects is not None and suspects.is_ready:
            group = self._bisector.group
            if all(name in group for name in suspects.rows):  # its earlier rows have ended
                for name in group:
                    row = self._rows.get(name)
                    if row is not None and row.slot is None and row.open:
                        batches[suspects] += suspects.assign(row)
        live = [slot for slot in self._live if slot is not suspects]
        most = WINDOW * self._info.max_in_flight
        passed = []
        while self._queue and (room := [s for s in live if s.is_ready and s.open < most]):
            row = self._queue.popleft()
            if any(slot.is_ready for slot in live if slot is not row.died_on):
                # not where it died last, which may be the engine's own fault, if there is another
                room = [slot for slot in room if slot is not row.died_on]
            if room:
                slot = min(room, key=lambda slot: slot.open)
                batches[slot] += slot.assign(row)
            else:
                passed.append(row)
        self._queue.extendleft(reversed(passed))
        return batches

    def _send(self, batches: dict[_Slot, list[Request]]) -> None:
        for slot, requests in batches.items():
            if slot.engine is not None:
                try:
                    slot.engine.submit(requests)
                except EngineDeadError as error:
                    self._died(slot, error)

    def _wait(self) -> None:
        """Until something can have happened, but not longer than 0.2 s."""
        due = [slot.start_at for slot in self._live if slot.engine is None]
        timeout = min([POLL_SECONDS, *(max(0.0, at - self._clock()) for at in due)])
        engines = [slot.engine for slot in self._slots if slot.engine is not None]
        if handles := [handle for engine in engines for handle in engine.waitables]:
            wait(handles, timeout)
        elif not any(slot.is_ready for slot in self._slots):
            self._sleep(timeout)

    def _look(self, slot: _Slot) -> None:
        """Take what has come from a slot's engine: answers, or that it is ready, failed or died."""
        engine = slot.engine
        if engine is None:
            return
        info, results = None, []
        try:
            if slot.is_ready:
                results = engine.step(0.0)
            else:
                info = engine.poll()
        except SsoDataError as error:
            if not slot.is_ready:
                self._start_failed(slot, error)
            elif isinstance(error, EngineDeadError):
                self._died(slot, error)
            else:
                raise
        if info is not None:
            self._welcome(slot, info)
        elif results:
            self._take(slot, results)

    def _welcome(self, slot: _Slot, info: EngineInfo) -> None:
        """An engine is ready; it retires if its rows would differ from those of the others."""
        if why := _difference(self._info, info):
            self._retire(slot, f"the engine restarted with {why} before")
            return
        slot.is_ready, slot.failed_starts = True, 0

    def _take(self, slot: _Slot, results: Sequence[Result]) -> None:
        """Record answers: the engine works, and their rows are less suspect."""
        for result in results:
            row = self._open.pop(result.key)
            del row.open[result.key]
            if not row.open:
                self._idle.append(row)
            self._bisector.answered(row.name)
        slot.open -= len(results)
        slot.deaths, slot.in_vain = 0, False
        self._results += results

    def _died(self, slot: _Slot, error: EngineDeadError) -> None:
        """Have the slot's requests asked again, and its engine started; refuse a row that kills."""
        slot.stop()
        slot.deaths += 1
        rows, slot.rows, slot.open = slot.rows, {}, 0
        culprit = self._bisector.on_crash(row.name for row in rows.values() if row.open)
        if culprit is not None and not slot.in_vain:
            self._refuse(rows[culprit], error)
        suspects = self._bisector.suspects
        for row in reversed(rows.values()):
            row.slot, row.died_on, row.unsent = None, slot, list(row.open.values())
            if not row.open:
                self._idle.append(row)
            elif row.name not in suspects:
                self._queue.appendleft(row)
        if isinstance(error, EngineMemoryError):
            slots = max(1, score_slots(slot.config) // 2)
            slot.config = slot.config.model_copy(update={"score_slots": slots})
        spared = slot is self._quarantine or len(self._live) == 1
        if (culprit and slot.in_vain) or (slot.deaths >= STARTS and not spared):
            self._retire(slot, f"the engine keeps dying, whichever row it works on: {error}")
        else:
            slot.in_vain |= culprit is not None
            self._restart(slot, error)
        if self._bisector.narrowing and self._quarantine is None:
            self._quarantine = slot if slot in self._live else self._live[0]

    def _refuse(self, row: _Row, error: EngineDeadError) -> None:
        detail = f"the engine died twice while working on this row alone: {error}"
        for key in row.open:
            del self._open[key]
            self._results.append(Refused(key=key, detail=detail, reason="engine_died"))
        row.open.clear()

    def _start_failed(self, slot: _Slot, error: Exception) -> None:
        slot.stop()
        slot.failed_starts += 1
        ready = [other for other in self._slots if other.is_ready]
        patient = self._together and ready
        if patient and slot is self._quarantine:
            self._quarantine = ready[0]
        if slot.failed_starts < STARTS or patient:
            self._restart(slot, error, quiet=len(self._live) > 1)
        else:
            self._retire(slot, f"the engine cannot be started: {error}")

    def _restart(self, slot: _Slot, error: Exception, *, quiet: bool = False) -> None:
        """Have the slot's engine started after a while, longer each time."""
        doublings = min(slot.deaths + slot.failed_starts - 1, 10)
        seconds = min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**doublings)
        slot.start_at = self._clock() + seconds
        if not quiet:
            self._tell(f"{self._named(slot)}{error}; restarting in {seconds:.0f} s")

    def _retire(self, slot: _Slot, why: str) -> None:
        """Give a slot up. Raises EngineError where none is left."""
        slot.stop()
        slot.is_retired = True
        if not (live := self._live):
            raise EngineError(f"{why}; mend that and run the same command again")
        if self._quarantine is slot:
            self._quarantine = live[0]
        left = "1 engine goes" if len(live) == 1 else f"{len(live)} engines go"
        self._tell(f"{self._named(slot)}given up, {left} on: {why}")

    def _named(self, slot: _Slot) -> str:
        return f"{slot.name}: " if len(self._slots) > 1 else ""


def _difference(before: EngineInfo, now: EngineInfo) -> str | None:
    """Return why rows of two engines are not comparable, or None."""
    for key in ("name", "device", "dtype", "context_tokens"):
        old, new = getattr(before, key), getattr(now, key)
        if old != new:
            return f"{key} {new}, it had {old}"
    old, new = before.probe, now.probe
    if old is not None and new is not None and abs(old - new) > PROBE_NATS:
        return f"another model: the same ids have a log-prob of {new:.2f}, they had {old:.2f}"
    return None
