"""An engine that dies is replaced: no answer is lost or given twice, a killing row is refused."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineDeadError, EngineError, EngineMemoryError, ModelError
from sso_data.engines import start_engine
from sso_data.engines.child import ChildEngine
from sso_data.engines.interface import EngineInfo, Refused, Request, Result, Scored, row_of
from sso_data.engines.restarting import RestartingEngine
from sso_data.models.memory import is_out_of_memory
from sso_data.world import policy_dir
from tests.engines.asking import score
from tests.engines.fake import start_fake

Kills = Callable[[list[str], EngineConfig], EngineDeadError | None]


class Mortal:
    """Answers two requests a step, oldest first; dies as `kills` says of what is under way."""

    def __init__(
        self,
        config: EngineConfig,
        kills: Kills,
    ) -> None:
        self.config, self.kills = config, kills
        self.waiting: list[Request] = []
        self.dtype = "float32"

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            name="mortal",
            version="1",
            device="cpu",
            dtype=self.dtype,
            context_tokens=100,
            max_in_flight=8,
        )

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests

    def step(self) -> list[Result]:
        error = self.kills([request.key for request in self.waiting], self.config)
        if error:
            raise error
        answered, self.waiting = self.waiting[:2], self.waiting[2:]
        return [Scored(key=request.key, total_nats=-1.0) for request in answered]

    def close(self) -> None:
        pass


def watched(
    kills: Kills,
    told: list[str] | None = None,
    waits: list[float] | None = None,
) -> RestartingEngine:
    return RestartingEngine(
        lambda config: Mortal(config, kills),
        EngineConfig(),
        tell=(told if told is not None else []).append,
        wait=(waits if waits is not None else []).append,
    )


def keys(rows: int) -> list[str]:
    return [f"r{row}/{view}" for row in range(rows) for view in ("plain", "good", "bad")]


def answers(engine: RestartingEngine, wanted: list[str], limit: int = 20_000) -> dict[str, Result]:
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
    def kills(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
        return EngineDeadError("boom") if any(key.startswith("r5/") for key in under_way) else None

    found = answers(watched(kills), keys(20))
    refused = {row_of(key) for key, result in found.items() if isinstance(result, Refused)}
    assert refused == {"r5"}
    one = found["r5/plain"]
    assert isinstance(one, Refused) and one.reason == "engine_died" and "twice" in one.detail


def test_it_waits_longer_after_each_death_without_an_answer() -> None:
    waits: list[float] = []
    deaths = iter([True] * 8 + [False] * 1000)

    def kills(under_way: list[str], config: EngineConfig) -> EngineDeadError | None:
        return EngineDeadError("killed") if under_way and next(deaths) else None  # type: ignore[arg-type]

    answers(watched(kills, waits=waits), keys(200))
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

    engine = RestartingEngine(start, EngineConfig(), wait=lambda seconds: None)
    fails["left"] = 4
    assert len(answers(engine, keys(2))) == 6
    dies.append(True)
    fails["left"] = 5
    with pytest.raises(EngineError, match="cannot be restarted: no GPU memory yet"):
        answers(engine, ["other/x"])


def test_the_first_start_fails_as_it_fails() -> None:
    def start(config: EngineConfig) -> Mortal:
        raise ModelError("no model")

    with pytest.raises(ModelError, match="no model"):
        RestartingEngine(start, EngineConfig())


def test_another_number_format_after_a_restart_is_refused() -> None:
    made: list[Mortal] = []

    def start(config: EngineConfig) -> Mortal:
        error = EngineDeadError("killed")
        engine = Mortal(config, lambda keys, c: error if len(made) == 1 else None)
        engine.dtype = "bfloat16" if made else "float32"
        made.append(engine)
        return engine

    with pytest.raises(EngineError, match="with dtype bfloat16, it had float32"):
        answers(RestartingEngine(start, EngineConfig(), wait=lambda seconds: None), keys(1))


def test_a_real_process_that_is_killed_or_stopped_is_replaced() -> None:
    """Three kills and two stops of child processes, and one request that ends its process."""
    engines: list[ChildEngine] = []

    def start(config: EngineConfig) -> ChildEngine:
        engines.append(ChildEngine(Path("nowhere"), config, start=start_fake))
        return engines[-1]

    config = EngineConfig(heartbeat_timeout=3)
    engine = RestartingEngine(start, config, wait=lambda seconds: None)
    try:
        for number in (signal.SIGKILL, signal.SIGSTOP) * 2 + (signal.SIGKILL,):
            pid = engines[-1].pid
            assert pid is not None
            os.kill(pid, number)
            found = answers(engine, keys(3))
            assert all(isinstance(result, Scored) for result in found.values())
        found = answers(engine, ["a/1", "b/die", "c/1"])
        assert isinstance(found["b/die"], Refused) and isinstance(found["c/1"], Scored)
        assert len(engines) >= 6 + 3
    finally:
        engine.close()


def test_the_front_door_watches_engines_in_child_processes() -> None:
    engine = start_engine(policy_dir(), EngineConfig(name="transformers", max_model_len=256))
    try:
        assert isinstance(engine, RestartingEngine)
    finally:
        engine.close()


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
