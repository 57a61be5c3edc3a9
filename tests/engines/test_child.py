"""The child process dies, hangs, is orphaned or fails to start; the parent says so in one line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineDeadError, EngineError, ModelError
from sso_data.engines import child
from sso_data.engines.child import ChildEngine
from sso_data.engines.interface import Engine, ScoreRequest
from tests.engines import fake
from tests.engines.calls import ask, collect, score
from tests.waiting import CHILD_SECONDS, until

ROOT = Path(__file__).parents[2]
NOWHERE = Path("nowhere")
ORPHAN = """
import sys, time
from pathlib import Path
from sso_data.config.run import EngineConfig
from sso_data.engines.child import ChildEngine
from tests.engines.calls import score
from tests.engines.fake import start_fake

if __name__ == "__main__":
    engine = ChildEngine(Path("nowhere"), EngineConfig(), start=start_fake)
    print(engine.pid, flush=True)
    engine.submit([score("hang", (1,), (2,))])
    if sys.argv[1] == "leave":
        sys.exit(0)
    if sys.argv[1] == "fail":
        raise RuntimeError
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 1.0)


@contextmanager
def started(**settings: Any) -> Iterator[ChildEngine]:
    config = EngineConfig(**{k: v for k, v in settings.items() if k in EngineConfig.model_fields})
    others = {k: v for k, v in settings.items() if k not in EngineConfig.model_fields}
    engine = ChildEngine(NOWHERE, config, **({"start": fake.start_fake} | others))
    try:
        yield engine
    finally:
        engine.close()


def requests(*keys: str) -> list[ScoreRequest]:
    return [score(key, (1, 2, 3), (4,)) for key in keys]


def error_of(engine: ChildEngine, limit: float = CHILD_SECONDS) -> str:
    """Step until the engine raises, and return its message: one line."""
    deadline = time.monotonic() + limit
    with pytest.raises(EngineDeadError) as caught:
        while time.monotonic() < deadline:
            engine.step()
    message = str(caught.value)
    assert "\n" not in message
    return message


def pid_of(engine: ChildEngine) -> int:
    assert engine.pid is not None
    return engine.pid


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_killed_child_is_named_with_its_signal() -> None:
    with started() as engine:
        engine.submit(requests("hang", "b"))
        os.kill(pid_of(engine), signal.SIGKILL)
        message = error_of(engine)
        assert "SIGKILL" in message and "in flight: 2" in message
        with pytest.raises(EngineError):
            engine.submit(requests("c"))
            engine.step()


def test_answers_given_before_death_are_not_lost() -> None:
    with started() as engine:
        engine.submit(requests("a", "b", "die", "c"))
        assert set(collect(engine, 2)) == {"a", "b"}
        message = error_of(engine)
        assert "exit code 3" in message and "'the last words'" in message


def test_a_failure_in_a_step_is_one_line() -> None:
    with started() as engine:
        engine.submit(requests("fail"))
        assert error_of(engine) == "the engine failed: RuntimeError: one two"


def test_a_stopped_child_is_found_and_ended() -> None:
    with started(heartbeat_timeout=3) as engine:
        os.kill(pid_of(engine), signal.SIGSTOP)
        engine.submit(requests("lost"))
        began = time.monotonic()
        assert "no heartbeat for" in error_of(engine)
        assert time.monotonic() - began > 2
        assert not is_alive(pid_of(engine))


def test_a_step_without_end_silences_the_heartbeat() -> None:
    with started(heartbeat_timeout=4, step_timeout=5.0) as engine:
        engine.submit(requests("a", "hang"))
        assert set(collect(engine, 1)) == {"a"}
        assert "no heartbeat" in error_of(engine)


def test_a_long_step_within_its_limit_is_waited_for() -> None:
    with started(heartbeat_timeout=10) as engine:
        engine.submit(requests("hang"))
        deadline = time.monotonic() + 12.0
        while time.monotonic() < deadline:
            assert engine.step() == []


def test_a_parent_that_was_away_does_not_suspect_its_child() -> None:
    with started(heartbeat_timeout=10) as engine:
        engine.submit(requests("a", "b"))
        time.sleep(12)
        assert set(collect(engine, 2)) == {"a", "b"}


@pytest.mark.parametrize("how", ["leave", "fail", "SIGKILL", "SIGINT"])
def test_the_child_ends_with_its_parent(how: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if how.startswith("SIG"):
        assert is_alive(pid)
        parent.send_signal(getattr(signal, how))
    until(lambda: not is_alive(pid))
    parent.wait(CHILD_SECONDS)
    parent.stdout.close()


def test_ctrl_c_leaves_the_child_at_work() -> None:
    with started() as engine:
        assert engine.info
        os.kill(pid_of(engine), signal.SIGINT)
        assert ask(engine, requests("a"))["a"].total_nats == -3.0


def test_close_ends_the_child_even_when_it_is_stuck() -> None:
    with started() as engine:
        pid = pid_of(engine)
    assert not is_alive(pid)
    engine.close()
    with started() as engine:
        os.kill(pid_of(engine), signal.SIGSTOP)
    assert not is_alive(pid_of(engine))


def test_stdout_is_ours(capfd: pytest.CaptureFixture[str]) -> None:
    with started(verbose=True) as engine:
        ask(engine, requests("noise"))
    assert capfd.readouterr() == ("", "noise on stdout\n")


def test_many_large_batches_do_not_block_each_other() -> None:
    """More bytes each way than a pipe holds, before either side reads."""
    with started() as engine:
        for batch in range(20):
            engine.submit([score(f"{batch}/{i}", range(2000), (1,)) for i in range(50)])
        assert len(collect(engine, 1000)) == 1000


def test_threads_are_set_before_the_engine_starts() -> None:
    with started(threads=3) as engine:
        assert engine.poll() is None, "it is made at once, and starts in the background"
        assert engine.info.version == "3"


def test_a_failed_start_is_the_childs_own_error() -> None:
    with pytest.raises(ModelError, match=r"^nowhere: not today$"):
        _ = ChildEngine(NOWHERE, EngineConfig(), start=fake.start_refusing).info
    with pytest.raises(EngineError, match=r"^the engine failed: KeyError: 'surprise'$"):
        _ = ChildEngine(NOWHERE, EngineConfig(), start=fake.start_crashing).info


def test_no_file_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with started() as engine:
        ask(engine, requests("a"))
    assert list(tmp_path.iterdir()) == []


def test_it_is_an_engine() -> None:
    with started() as engine:
        same: Engine = engine
        assert same.info.max_in_flight == 8
