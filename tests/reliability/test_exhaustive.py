"""A run dies, and every call fails, at every single point: the same command ends in the same run.

The run of `flow.py` makes 20 rows and four failures. After each of its N calls to the operating
system that change files (writes, syncs, renames, unlinks, ...), and inside each write, the state of
the disk is kept. Then the command goes on from each state with nothing else left: as after SIGKILL,
and as after a power failure under four models of what a file system may lose.
"""

import errno
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sso_data.core.errors import RunError, SsoDataError
from tests.reliability.chaos import some
from tests.reliability.flow import Flow, content, scripted, write_prompts
from tests.reliability.injector import (
    FAULTS,
    Faults,
    Os,
    Recorder,
    in_place_of_os,
    line_of,
    tree_of,
)
from tests.reliability.scenarios import SCENARIOS, FilterAgain, Scenario, is_part, lines


@pytest.fixture
def disk() -> Iterator[Path]:
    """An empty directory in memory, where there is such a file system: syncs are instant there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def flow(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    scripted(monkeypatch)
    return Flow(prompts=write_prompts(disk / "prompts.jsonl"))


@pytest.fixture(params=SCENARIOS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def scenario(kind: str, flow: Flow, disk: Path, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    return SCENARIOS[kind](flow, disk, monkeypatch)


def calls_of(scenario: Scenario, kind: str) -> list[str]:
    """The calls that the unharmed command makes; printed, and never too few."""
    counter = Os()
    root = scenario.begin()
    with in_place_of_os(counter):
        scenario.command(root)
    scenario.check(root)
    print(f"{kind}: N = {counter.count} calls: {dict(Counter(counter.names))}")
    assert counter.count >= scenario.fewest
    return counter.names


def recorded(scenario: Scenario) -> tuple[Recorder, Path]:
    """The command with every state on the way kept, and where it ran."""
    root = scenario.begin()
    recorder = Recorder(root)
    with in_place_of_os(recorder):
        scenario.command(root)
    return recorder, root


def test_killed_after_every_call_and_inside_every_write(scenario: Scenario, kind: str) -> None:
    calls = calls_of(scenario, kind)
    recorder, _ = recorded(scenario)
    assert recorder.names == calls, "two equal runs made different calls"
    print(f"{kind}: killed at {recorder.states} points, {len(recorder.deaths)} different states")
    for when, tree in some(list(recorder.deaths.values()), scenario.step):
        try:
            scenario.check_half(tree)
            scenario.finish(scenario.begin(tree))
        except BaseException as error:
            raise AssertionError(f"{kind}, killed: {when}") from error


def test_power_lost_after_every_call_and_inside_every_write(scenario: Scenario, kind: str) -> None:
    """Rows that were synced are there before anything is continued; a finished run is whole."""
    recorder, _ = recorded(scenario)
    print(f"{kind}: {len(recorder.losses)} different states after a power failure")
    for when, tree, acknowledged in some(list(recorder.losses.values()), 3 * scenario.step):
        rows = {line for name, data in tree.items() if is_part(name) for line in lines(data)}
        assert kind == "overwrite" or rows >= acknowledged, f"{kind}, {when}: a synced row is gone"
        try:
            scenario.finish(scenario.begin(tree))
        except BaseException as error:
            raise AssertionError(f"{kind}, power lost: {when}") from error
    after = content(scenario.begin(recorder.durable()) / "run")
    for key in ("rows", "pairs", "table", "filter"):
        assert after[key] == scenario.expected[key], f"{key} of a finished run was not durable"


class NoSpaceForPairs(Os):
    """The disk takes everything but new pairs."""

    def around(self, name: str, real: Callable[..., Any], *args: Any) -> Any:
        if name == "mkdir" and args[0].name == ".pairs.new":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)


def test_pairs_stand_until_new_ones_do(
    flow: Flow, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any point of a filter, and the next one fails: the old or the new pairs are there,
    whole."""
    scenario = FilterAgain(flow, disk, monkeypatch)
    old = tree_of(scenario.begin() / "run" / "pairs")
    recorder, root = recorded(scenario)
    new = tree_of(root / "run" / "pairs")
    assert old != new
    found = []
    for when, tree in recorder.deaths.values():
        dead = scenario.begin(tree)
        with in_place_of_os(NoSpaceForPairs()), pytest.raises(RunError, match="disk is full"):
            scenario.command(dead)
        pairs = tree_of(dead / "run" / "pairs")
        assert pairs in (old, new), when
        found.append(pairs == new)
    assert any(found) and not all(found)


@pytest.mark.parametrize("fault", [*FAULTS, "disk stays full"])
def test_every_call_fails_once(scenario: Scenario, kind: str, fault: str) -> None:
    """One line for the user or success; afterwards the same command ends in the same content."""
    code = FAULTS.get(fault, errno.ENOSPC)
    calls = calls_of(scenario, kind)
    refused = interrupted = 0
    step = scenario.step * {"ENOSPC": 1, "EIO": 4, "EINTR": 4}.get(fault, 9)
    points = some(range(1, len(calls) + 1), step)
    for k in points:
        faults = Faults(k, code, lasting=fault == "disk stays full")
        root = scenario.begin()
        try:
            with in_place_of_os(faults):
                scenario.command(root)
        except SsoDataError as error:
            refused += 1
            assert isinstance(error, RunError), error
            assert str(root) in line_of(error)
        except KeyboardInterrupt:
            interrupted += 1
        assert faults.hit == calls[k - 1]
        try:
            scenario.finish(root)
        except BaseException as error:
            raise AssertionError(f"{kind}, {fault} at call {k} ({faults.hit})") from error
    print(f"{kind}: {len(points)} times {fault}, {refused} of them told to the user")
    if fault == "Ctrl-C":
        assert interrupted == len(points)
    elif fault in ("EINTR", "short write"):
        assert refused == 0, "an interrupted call was not made again"
    else:
        assert refused >= len(points) // 2
