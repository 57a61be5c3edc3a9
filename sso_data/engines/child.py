"""An engine in a spawned process, which can die or hang without ending the run."""

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from sso_data.config.run import EngineConfig
from sso_data.core import errors
from sso_data.core.errors import EngineDeadError, EngineError, SsoDataError
from sso_data.core.streams import open_closed
from sso_data.engines import worker
from sso_data.engines.inline import start_inline
from sso_data.engines.interface import EngineInfo, Request, Result
from sso_data.engines.requests import take_keys

POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0
START_PATIENCE = 5
"""Heartbeats may stay away this much longer while an engine starts: libraries are imported."""


class RemoteEngine(ABC):
    """An engine in another process, which is known by its messages and can die or fall silent.

    It is made at once; `poll` tells when it is ready, and `info` waits for that. Once the engine is
    ready, its own failures are EngineDeadError. Subclasses say how messages travel.
    """

    def __init__(self, config: EngineConfig, start_timeout: float = 3600.0) -> None:
        self._heartbeat_timeout = config.heartbeat_timeout
        self._start_timeout = start_timeout
        self._made = self._looked = time.monotonic()
        self._silence = 0.0
        self._info: EngineInfo | None = None
        self._results: list[Result] = []
        self._open: set[str] = set()

    @property
    def info(self) -> EngineInfo:
        while (info := self.poll(POLL_SECONDS)) is None:
            pass
        return info

    def poll(self, timeout: float = 0.0) -> EngineInfo | None:
        """Return the engine's properties, or None while it starts.

        Raises the error of the start, after which the process has ended.
        """
        if self._info is None:
            try:
                self._look(timeout)
                if self._info is None and time.monotonic() - self._made > self._start_timeout:
                    limit = f"{self._start_timeout:.0f} s"
                    raise EngineError(f"the engine was not ready after {limit}{self._last_words()}")
            except BaseException:
                self._end(grace=0.0)
                raise
        return self._info

    def submit(self, requests: Sequence[Request]) -> None:
        take_keys(self._open, requests)
        if requests:
            self._send(requests)

    def step(self, timeout: float = POLL_SECONDS) -> list[Result]:
        """Return what finished; waits up to `timeout` seconds for it while anything is unanswered.

        Raises EngineDeadError where the process ended or sent no heartbeat.
        """
        self._look(timeout if self._open else 0.0)
        results, self._results = self._results, []
        self._open.difference_update(result.key for result in results)
        return results

    def _look(self, timeout: float) -> None:
        """Take the messages that have come.

        Raises EngineDeadError when the process is dead, or silent for too long; its own error when
        it failed. The time since the last look counts as silence, but not more than POLL_SECONDS of
        it: a parent that was away or suspended does not take its child for dead.
        """
        messages = self._receive(timeout)
        for message in messages:
            if message[0] == "results":
                self._results += message[1]
            elif message[0] == "ready":
                self._info = message[1]
            elif message[0] == "failed":
                raise self._failed(message, EngineDeadError if self._info else EngineError)
        now = time.monotonic()
        self._silence = 0.0 if messages else self._silence + min(now - self._looked, POLL_SECONDS)
        self._looked = now
        limit = self._heartbeat_timeout * (1 if self._info else START_PATIENCE)
        if self._silence > limit and (self._open or self._info is None):
            last_words = self._last_words()
            self._end(grace=0.0)
            raise EngineDeadError(
                f"the engine's process sent no heartbeat for {self._silence:.0f} s and was killed; "
                f"requests in flight: {len(self._open)}{last_words}"
            )

    def _failed(self, message: tuple[Any, ...], least: type[EngineError]) -> SsoDataError:
        """The engine's own error, under its own name; an engine's error is at `least` that."""
        _, name, text = message
        kind = getattr(errors, name, EngineError)
        is_ours = issubclass(kind, SsoDataError) and not issubclass(least, kind)
        return kind(text) if is_ours else least(text)

    @abstractmethod
    def _send(self, requests: Sequence[Request]) -> None:
        """Send requests. Raises EngineDeadError where the process is gone."""

    @abstractmethod
    def _receive(self, timeout: float) -> list[tuple[Any, ...]]:
        """Return all messages that are there, after waiting up to `timeout` for the first.

        Raises EngineDeadError where the process is gone.
        """

    @abstractmethod
    def _end(self, grace: float) -> None:
        """End the process, by force after `grace` seconds."""

    def _last_words(self) -> str:
        """The end of an error message: what the process wrote last."""
        return ""


class ChildEngine(RemoteEngine):
    """An engine in one child process; this process imports neither torch nor vLLM.

    Make it in the main thread: on Linux the child is killed when the thread that started it ends.
    `start` makes the engine, there, and may take `start_timeout` seconds; the other limits are the
    configuration's. `environment` is added to the child's. With `verbose` the child's stderr is
    this process's; else it is kept for error messages.
    """

    def __init__(
        self,
        model_path: Path,
        config: EngineConfig,
        *,
        environment: Mapping[str, str] | None = None,
        start: worker.Start = start_inline,
        start_timeout: float = 3600.0,
        verbose: bool = False,
    ) -> None:
        super().__init__(config, start_timeout)
        self._closed = False
        self._stderr: BinaryIO | None = None
        stderr_path = None
        open_closed()  # before the connection could be opened there, which the child would close
        if not verbose:  # open for reading here; the child unlinks it
            descriptor, stderr_path = tempfile.mkstemp(prefix="sso-data-engine-", suffix=".log")
            os.close(descriptor)
            self._stderr = Path(stderr_path).open("rb")  # noqa: SIM115 - for as long as the child
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=worker.serve,
            args=(theirs, model_path, config, start, os.getpid(), stderr_path),
            name="sso-data engine",
        )
        atexit.register(self.close)
        try:
            with _spawning(environment or {}):
                self._process.start()
            theirs.close()
        except BaseException:
            self._end(grace=0.0)
            raise

    @property
    def waitables(self) -> tuple[Any, ...]:
        """For `multiprocessing.connection.wait`: ready when there is something to `step` for."""
        return self._connection, self._process.sentinel

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid

    def _send(self, requests: Sequence[Request]) -> None:
        try:
            self._connection.send(("submit", list(requests)))
        except OSError:
            raise self._died() from None

    def _receive(self, timeout: float) -> list[tuple[Any, ...]]:
        ready = wait(self.waitables, timeout)
        messages: list[tuple[Any, ...]] = []
        try:
            while self._connection.poll():
                messages.append(self._connection.recv())
        except (EOFError, OSError):
            if not messages:
                raise self._died() from None
        if not messages and self._process.sentinel in ready:  # it may not be reaped yet
            raise self._died()
        return messages

    def close(self) -> None:
        """Ask the child to end, and end it if it has not after five seconds."""
        with suppress(OSError, ValueError):
            self._connection.send(("close",))
        self._end(grace=GRACE_SECONDS if self._info else 0.0)

    def _died(self) -> EngineDeadError:
        self._process.join(GRACE_SECONDS)
        code = self._process.exitcode
        if code is None:
            how = "closed its connection"
        elif code < 0:
            known = {number.value: number.name for number in signal.Signals}
            how = f"was killed by {known.get(-code, f'signal {-code}')}"
        else:
            how = f"ended with exit code {code}"
        return EngineDeadError(
            f"the engine's process {how}; requests in flight: {len(self._open)}{self._last_words()}"
        )

    def _last_words(self) -> str:
        """The last line of the child's stderr, as the end of an error message."""
        if self._stderr is None:
            return ""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 4096))
        tail = self._stderr.read().decode(errors="replace")
        lines = [" ".join(line.split()) for line in tail.splitlines() if line.strip()]
        return f"; its last line: {lines[-1][:200]!r}" if lines else ""

    def _end(self, grace: float) -> None:
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        if self._process.pid is not None:
            self._process.join(grace)
            if self._process.exitcode is None:
                self._process.kill()  # SIGKILL: also ends a stopped process
                self._process.join(GRACE_SECONDS)
        self._connection.close()
        if self._stderr is not None:
            self._stderr.close()
            Path(self._stderr.name).unlink(missing_ok=True)
            self._stderr = None


@contextmanager
def _spawning(environment: Mapping[str, str]) -> Iterator[None]:
    """Start a process with this added to its environment, and a quiet resource tracker.

    The spawned process imports the module `__main__`, which may be a user's script without a guard
    and is needed for nothing: it is hidden. multiprocessing's resource tracker, started with the
    process, would warn of a killed one.
    """
    main, warnings = sys.modules["__main__"], os.environ.get("PYTHONWARNINGS")
    sys.modules["__main__"] = ModuleType("__main__")
    ignored = "ignore:resource_tracker:UserWarning"
    changes = {**environment, "PYTHONWARNINGS": f"{warnings},{ignored}" if warnings else ignored}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
