"""Engines that die are replaced, one alone: no answer is lost or given twice, the others go on."""

import multiprocessing.connection
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineDeadError, EngineError, EngineMemoryError, ModelError
from sso_data.engines import start_engine
from sso_data.engines.child import ChildEngine
from sso_data.engines.fleet import Fleet
from sso_data.engines.interface import EngineInfo, Refused, Request, Result, Scored, row_of
from sso_data.models.memory import is_out_of_memory
from sso_data.world import policy_dir
from tests.engines.calls import ask, many_samples, score
from tests.engines.fake import start_fake

Kills = Callable[[list[str], EngineConfig], EngineDeadError | None]


class Clock:
    """Time that passes only while somebody looks at it or sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Mortal:
    """Answers two requests a step, oldest first; dies as `kills` says of what is under way.

    It is ready `slow` seconds after it was made.
    """

    waitables: Sequence[Any] = ()
    max_in_flight = 8

    def __init__(
        self, config: EngineConfig, kills: Kills, clock: Clock | None = None, slow: float = 0.0
    ) -> None:
        self.config, self.kills = config, kills
        self.clock, self.ready_at = clock, clock.now + slow if clock else 0.0
        self.waiting: list[Request] = []
        self.seen: list[str] = []
        self.dtype = "float32"

    def poll(self) -> EngineInfo | None:
        if self.clock and self.clock() < self.ready_at:
            return None
        return EngineInfo(
            name="mortal",
            version="1",
            device="cpu",
            dtype=self.dtype,
            context_tokens=100,
            max_in_flight=self.max_in_flight,
        )

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests
        self.seen += [request.key for request in requests]

    def step(self, timeout: float) -> list[Result]:
        error = self.kills([request.key for request in self.waiting], self.config)
        if error:
            raise error
        answered, self.waiting = self.waiting[:2], self.waiting[2:]
        return [Scored(key=request.key, total_nats=-1.0) for request in answered]

    def close(self) -> None:
        pass


def immortal(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
    return None


def poison(row: str) -> Kills:
    """Dies while anything of this row is under way."""

    def kills(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
        return EngineDeadError("boom") if any(row_of(key) == row for key in under_way) else None

    return kills


def watched(kills: Kills, told: list[str] | None = None) -> Fleet:
    clock = Clock()
    return Fleet(
        [lambda config: Mortal(config, kills)],
        EngineConfig(),
        tell=(told if told is not None else []).append,
        clock=clock,
        sleep=clock.sleep,
    )


class Two:
    """A fleet of two; `starts` make the engines of each slot in turn, or raise. Keeps what it made
    and told."""

    def __init__(
        self, *starts: Callable[[EngineConfig, Clock], Mortal], together: bool = False
    ) -> None:
        self.clock, self.told = Clock(), list[str]()
        self.made: list[list[Mortal]] = [[] for _ in starts]

        def start(number: int) -> Callable[[EngineConfig], Mortal]:
            def begin(config: EngineConfig) -> Mortal:
                self.made[number].append(starts[number](config, self.clock))
                return self.made[number][-1]

            return begin

        self.fleet = Fleet(
            [start(number) for number in range(len(starts))],
            EngineConfig(),
            names=[f"engine {number + 1}" for number in range(len(starts))],
            together=together,
            tell=self.told.append,
            clock=self.clock,
            sleep=self.clock.sleep,
        )


def of(kills: Kills, slow: float = 0.0) -> Callable[[EngineConfig, Clock], Mortal]:
    return lambda config, clock: Mortal(config, kills, clock, slow)


def no_engine(config: EngineConfig, clock: Clock, kind: type[Exception] = EngineError) -> Mortal:
    raise kind("no GPU memory")


def keys(rows: int) -> list[str]:
    return [f"r{row}/{view}" for row in range(rows) for view in ("plain", "good", "bad")]


def answers(engine: Fleet, wanted: list[str], limit: int = 20_000) -> dict[str, Result]:
    """Every key's one answer."""
    engine.submit([score(key, (1, 2), (3,)) for key in wanted])
    found: dict[str, Result] = {}
    for _ in range(limit):
        for result in engine.step():
            assert result.key not in found, "answered twice"
            found[result.key] = result
        if len(found) == len(wanted):
            return found
    raise AssertionError(f"{len(found)} of {len(wanted)} answered")


def test_a_death_at_every_step_once() -> None:
    """Deaths that nobody is to blame for: everything is answered, nothing refused."""
    steps = {"count": 0}

    def kills(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
        steps["count"] += 1
        return EngineDeadError("killed") if steps["count"] % 2 else None

    told: list[str] = []
    found = answers(watched(kills, told), keys(10))
    assert all(isinstance(result, Scored) for result in found.values())
    assert len(told) >= 15 and told[0] == "killed; restarting in 1 s"


def test_the_row_that_kills_is_refused_and_no_other() -> None:
    found = answers(watched(poison("r5")), keys(20))
    refused = {row_of(key) for key, result in found.items() if isinstance(result, Refused)}
    assert refused == {"r5"}
    one = found["r5/plain"]
    assert isinstance(one, Refused) and one.reason == "engine_died" and "twice" in one.detail


def test_it_waits_longer_after_each_death_without_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Mortal, "max_in_flight", 800)
    told: list[str] = []
    deaths = iter([True] * 8 + [False] * 1000)

    def kills(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
        return EngineDeadError("killed") if under_way and next(deaths) else None  # type: ignore[arg-type]

    answers(watched(kills, told), keys(200))
    waits = [int(line.split()[-2]) for line in told]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_engine_that_dies_of_everything_is_given_up() -> None:
    engine = watched(lambda under_way, config: EngineDeadError("no") if under_way else None)
    with pytest.raises(EngineError, match="keeps dying, whichever row it works on: no"):
        answers(engine, keys(10))


def test_out_of_memory_halves_the_scores_worked_on() -> None:
    slots: list[int | None] = []

    def kills(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
        slots.append(config.score_slots)
        enough = config.score_slots is not None and config.score_slots <= 16
        return None if enough else EngineMemoryError("no memory")

    found = answers(watched(kills), keys(10))
    assert all(isinstance(result, Scored) for result in found.values())
    assert slots[:3] == [None, 32, 16]


def test_a_start_that_fails_is_tried_again_and_then_given_up() -> None:
    fails = {"left": 0}
    dies = [True]

    def start(config: EngineConfig) -> Mortal:
        if fails["left"]:
            fails["left"] -= 1
            raise EngineError("no GPU memory yet")
        error = EngineDeadError("killed")
        return Mortal(config, lambda keys, c: error if dies and dies.pop() else None)

    clock = Clock()
    engine = Fleet([start], EngineConfig(), clock=clock, sleep=clock.sleep)
    fails["left"] = 4
    assert len(answers(engine, keys(2))) == 6
    dies.append(True)
    fails["left"] = 5
    with pytest.raises(EngineError, match="cannot be started: no GPU memory yet"):
        answers(engine, ["other/x"])


def test_the_first_start_fails_as_it_fails() -> None:
    def start(config: EngineConfig) -> Mortal:
        raise ModelError("no model")

    with pytest.raises(ModelError, match="no model"):
        Fleet([start], EngineConfig())


def test_another_number_format_after_a_restart_is_refused() -> None:
    made: list[Mortal] = []

    def start(config: EngineConfig) -> Mortal:
        error = EngineDeadError("killed")
        engine = Mortal(config, lambda keys, c: error if len(made) == 1 else None)
        engine.dtype = "bfloat16" if made else "float32"
        made.append(engine)
        return engine

    with pytest.raises(EngineError, match="with dtype bfloat16, it had float32"):
        clock = Clock()
        answers(Fleet([start], EngineConfig(), clock=clock, sleep=clock.sleep), keys(1))


def test_a_real_process_that_is_killed_or_stopped_is_replaced() -> None:
    """Three kills and two stops of child processes, and one request that ends its process."""
    engines: list[ChildEngine] = []

    def start(config: EngineConfig) -> ChildEngine:
        engines.append(ChildEngine(Path("nowhere"), config, start=start_fake))
        return engines[-1]

    config = EngineConfig(heartbeat_timeout=3)
    engine = Fleet([start], config)
    try:
        for number in (signal.SIGKILL, signal.SIGSTOP) * 2 + (signal.SIGKILL,):
            pid = engines[-1].pid
            assert pid is not None
            os.kill(pid, number)
            found = answers(engine, keys(3))
            assert all(isinstance(result, Scored) for result in found.values())
        found = answers(engine, ["a/1", "b/die", "c/1"])
        assert isinstance(found["b/die"], Refused) and isinstance(found["c/1"], Scored)
        assert len(engines) >= 6 + 2
    finally:
        engine.close()


def test_rows_go_to_the_emptiest_engine_and_stay_there() -> None:
    two = Two(of(immortal), of(immortal))
    assert (two.fleet.info.engines, two.fleet.info.max_in_flight) == (2, 16)
    two.fleet.step()
    two.fleet.submit([score(key, (1, 2), (3,)) for key in keys(4)])
    found: set[str] = set()
    while len(found) < 12:
        found |= {result.key for result in two.fleet.step()}
        more = [f"r{row}/more" for row in range(4)]
        if found.issuperset(f"r{row}/bad" for row in range(4)) and not found & set(more):
            two.fleet.submit([score(key, (1,), (2,)) for key in more])
            while not found.issuperset(more):
                found |= {result.key for result in two.fleet.step()}
    first, second = (set(map(row_of, engines[0].seen)) for engines in two.made)
    assert len(first) == len(second) == 2 and not first & second
    with pytest.raises(ValueError, match="the same key"):
        two.fleet.submit([score("a/1", (1,), (2,)), score("a/1", (1,), (2,))])


def test_one_restarts_slowly_and_the_other_keeps_answering() -> None:
    """The first one dies once, and its next one takes 10 seconds to start."""
    die = [True]
    lives = iter([0.0, 10.0])

    def dies_once(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
        return EngineDeadError("killed") if under_way and die and die.pop() else None

    two = Two(lambda config, clock: Mortal(config, dies_once, clock, next(lives)), of(immortal))
    two.fleet.submit([score(key, (1, 2), (3,)) for key in keys(60)])
    when: list[float] = []
    while len(when) < 180:
        when += [two.clock.now] * len(two.fleet.step())
    assert when[-1] < 10, "all rows were answered before the first engine was ready again"
    assert two.told == ["engine 1: killed; restarting in 1 s"]


def test_a_row_that_kills_is_found_on_one_engine() -> None:
    """It kills the engine that has it, the one that it is moved to, and that one alone."""
    two = Two(of(poison("r5")), of(poison("r5")))
    found = answers(two.fleet, keys(40))
    refused = {row_of(key) for key, result in found.items() if isinstance(result, Refused)}
    assert refused == {"r5"} and len(found) == 120
    deaths = sorted(len(engines) - 1 for engines in two.made)
    assert deaths[0] == 1 and deaths[1] >= 3


@pytest.mark.parametrize("kind", [EngineError, OSError])
def test_an_engine_that_never_starts_costs_one_warning(kind: type[Exception]) -> None:
    two = Two(of(immortal), partial(no_engine, kind=kind))
    assert len(answers(two.fleet, keys(1000))) == 3000
    while len(two.told) < 1:
        two.fleet.step()
    two.fleet.submit([score("x/1", (1,), (2,))])
    assert len(two.fleet.step()) == 1
    why = "given up, 1 engine goes on: the engine cannot be started: no GPU memory"
    assert two.told == [f"engine 2: {why}"]


def test_an_engine_that_dies_of_everything_retires_and_no_row_is_refused() -> None:
    """As one on a broken GPU would, while the other works."""
    broken = of(lambda under_way, config: EngineDeadError("no") if under_way else None)
    two = Two(of(immortal, 0.0), broken)
    while not any("given up" in line for line in two.told):
        found = answers(two.fleet, keys(100))
        assert all(isinstance(result, Scored) for result in found.values())
    assert two.told[-1].startswith("engine 2: given up, 1 engine goes on: the engine keeps dying")


def test_it_ends_when_every_engine_is_lost() -> None:
    starts = iter([True, True])

    def start_once(config: EngineConfig, clock: Clock) -> Mortal:
        if not next(starts, False):
            raise EngineError("no GPU memory")
        return Mortal(config, lambda under_way, c: EngineDeadError("killed") if under_way else None)

    two = Two(start_once, start_once)
    with pytest.raises(EngineError, match="the engine cannot be started: no GPU memory"):
        answers(two.fleet, keys(40))
    assert sum("given up" in line for line in two.told) == 1


def test_servers_are_awaited_together_and_one_comes_later() -> None:
    """One is away for longer than five starts take, and is used when it is there."""
    away = [True]

    class Away(Mortal):
        def poll(self) -> EngineInfo | None:
            if away:
                raise EngineDeadError("the server does not answer")
            return super().poll()

    two = Two(lambda config, clock: Away(config, immortal, clock), of(immortal), together=True)
    while two.clock.now < 200:
        assert len(answers(two.fleet, keys(50))) == 150
        two.clock.sleep(1)
    assert not two.told
    away.clear()
    while not two.made[0][-1].seen:
        answers(two.fleet, keys(50))
        two.clock.sleep(1)


def test_one_server_dies_while_another_is_away() -> None:
    """Its rows are asked there again: nobody else could answer them."""
    deaths = [EngineDeadError("lost")]

    def once(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
        return deaths.pop() if under_way and deaths else None

    class Away(Mortal):
        def poll(self) -> EngineInfo | None:
            raise EngineDeadError("the server does not answer")

    two = Two(of(once), lambda config, clock: Away(config, immortal, clock), together=True)
    assert len(answers(two.fleet, keys(20))) == 60


def test_suspects_are_not_left_with_a_server_that_went_away() -> None:
    """Rows that were under way at two deaths are found out on the server that is there."""
    gone, deaths = [False], [EngineDeadError("lost")]

    def dies_once(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
        return deaths.pop() if under_way and deaths else None

    def dies_for_good(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
        gone[0] = gone[0] or len(under_way) > 3
        return EngineDeadError("lost") if gone[0] else None

    def start(config: EngineConfig, clock: Clock) -> Mortal:
        if gone[0]:
            raise EngineDeadError("the server does not answer")
        return Mortal(config, dies_for_good, clock)

    two = Two(of(dies_once), start, together=True)
    assert len(answers(two.fleet, keys(20))) == 60


def test_servers_of_different_models_are_refused() -> None:
    class Other(Mortal):
        def poll(self) -> EngineInfo | None:
            info = super().poll()
            return info and replace(info, probe=probe.pop())

    probe = [-41.0, -43.0]
    one = lambda config, clock: Other(config, immortal, clock)  # noqa: E731
    with pytest.raises(EngineError, match=r"engine 2 and engine 1 differ: another model.*-41.00"):
        Two(one, one, together=True)


def test_a_fleet_of_real_processes_restarts_them_alone() -> None:
    """Kills and stops in turn; nothing is refused, and each process has its environment."""
    made: list[ChildEngine] = []

    def start(number: int) -> Callable[[EngineConfig], ChildEngine]:
        def begin(config: EngineConfig) -> ChildEngine:
            environment = {"OMP_NUM_THREADS": f"{number}"}
            made.append(
                ChildEngine(Path("nowhere"), config, environment=environment, start=start_fake)
            )
            return made[-1]

        return begin

    fleet = Fleet([start(1), start(2)], EngineConfig(heartbeat_timeout=3), names=["a", "b"])
    with closing(fleet):
        assert made[0].info.version == "1" and made[1].info.version == "2"
        for turn, number in enumerate((signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL)):
            pid = made[-1 - turn % 2].pid
            assert pid is not None
            os.kill(pid, number)
            found = ask(fleet, [score(key, (1, 2), (3,)) for key in keys(12)])
            assert all(isinstance(result, Scored) for result in found.values())
    assert len(made) >= 4 and all(engine.pid for engine in made)
    for engine in made:
        with pytest.raises((OSError, EngineError, multiprocessing.ProcessError)):
            os.kill(engine.pid or 0, 0)
            engine.step()


@pytest.fixture(scope="module")
def one_policy() -> Iterator[dict[str, Any]]:
    """What one engine answers to 16 prompts."""
    config = EngineConfig(name="transformers", max_model_len=256, threads=1, dtype="float32")
    with closing(start_engine(policy_dir(), config)) as engine:
        assert isinstance(engine, Fleet) and engine.info.engines == 1
        yield ask(engine, many_samples(16))


def test_two_engines_give_the_same_tokens_as_one(one_policy: dict[str, Any]) -> None:
    config = EngineConfig(
        name="transformers", max_model_len=256, threads=1, dtype="float32", count=2
    )
    told: list[str] = []
    with closing(start_engine(policy_dir(), config, note=told.append)) as engine:
        assert engine.info.engines == 2 and told == ["2 engines on CPU"]
        assert isinstance(engine, Fleet)
        while not all(slot.is_ready for slot in engine._slots):
            for slot in engine._slots:
                engine._look(slot)
        found = ask(engine, many_samples(16))
    for key, expected in one_policy.items():
        assert found[key].token_ids == expected.token_ids
        assert abs(found[key].total_nats - expected.total_nats) <= 1e-4


def test_memory_errors_are_known_by_type_text_or_cause() -> None:
    wrapped = RuntimeError("EngineCore failed")
    wrapped.__cause__ = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    for error in (
        MemoryError(),
        wrapped,
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("out of luck"))


def test_slots_come_and_go_with_the_room_for_them() -> None:
    clock, told, room = Clock(), list[str](), [1]
    made: list[Mortal] = []
    lost: set[int] = set()

    def start(config: EngineConfig) -> Mortal:
        number = len(made)

        def kills(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
            return EngineDeadError("its node is gone") if number in lost else None

        made.append(Mortal(config, kills, clock, slow=3600.0 if number > 2 else 0.0))
        return made[-1]

    fleet = Fleet(
        [start],
        EngineConfig(),
        names=["engine 1"],
        room=lambda: room[0],
        tell=told.append,
        clock=clock,
        sleep=clock.sleep,
    )
    assert len(answers(fleet, keys(8))) == 24 and len(made) == 1
    room[0] = 3
    clock.sleep(6)
    assert (fleet.step(), fleet.info.engines, fleet.info.max_in_flight) == ([], 3, 24)
    assert len(answers(fleet, keys(30))) == 90
    assert len(made) == 3 and all(engine.seen for engine in made)
    lost.add(1)
    room[0] = 2
    found = answers(fleet, keys(30))
    assert all(isinstance(result, Scored) for result in found.values())
    clock.sleep(6)
    fleet.step()
    assert fleet.info.engines == 2
    assert told == [
        "engine 2: its node is gone; restarting in 1 s",
        "engine 2: given up, 2 engines go on: the cluster has room for 2 now",
    ]
    lost.clear()
    room[0] = 3
    clock.sleep(6)
    fleet.step()
    assert fleet.info.engines == 3
