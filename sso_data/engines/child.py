"""An engine in a spawned process, which can die or hang without ending the run."""

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from sso_data.config.run import EngineConfig
from sso_data.core import errors
from sso_data.core.errors import EngineDeadError, EngineError, SsoDataError
from sso_data.core.streams import open_closed
from sso_data.engines import start_inline, worker
from sso_data.engines.interface import EngineInfo, Request, Result
from sso_data.engines.requests import take_keys

POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0


class ChildEngine:
    """The same engine, in one child process; this process imports neither torch nor vLLM.

    Start it in the main thread: on Linux the child is killed when the thread that started it ends.
    `start` makes the engine, there, and may take `start_timeout` seconds; the other limits are the
    configuration's. With `verbose` the child's stderr is this process's; else it is kept for error
    messages. Once the engine is ready, its own failures are EngineDeadError.
    """

    def __init__(
        self,
        model_path: Path,
        config: EngineConfig,
        *,
        start: worker.Start = start_inline,
        start_timeout: float = 3600.0,
        verbose: bool = False,
    ) -> None:
        self._heartbeat_timeout = config.heartbeat_timeout
        self._silence = 0.0
        self._open: set[str] = set()
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
            with _spawning():
                self._process.start()
            theirs.close()
            self._info = self._await_ready(start_timeout)
        except BaseException:
            self._end(grace=0.0)
            raise

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid

    def submit(self, requests: Sequence[Request]) -> None:
        take_keys(self._open, requests)
        if requests:
            try:
                self._connection.send(("submit", list(requests)))
            except OSError:
                raise self._died() from None

    def step(self) -> list[Result]:
        """Return what finished; waits up to 0.2 s for it while anything is unanswered.

        Raises EngineDeadError where the process ended or sent no heartbeat.
        """
        results: list[Result] = []
        for message in self._receive(POLL_SECONDS if self._open else 0.0):
            if message[0] == "results":
                results += message[1]
            elif message[0] == "failed":
                raise self._failed(message, EngineDeadError)
        self._open.difference_update(result.key for result in results)
        if not results and self._open and self._silence > self._heartbeat_timeout:
            last_words = self._last_words()
            self._end(grace=0.0)
            raise EngineDeadError(
                f"the engine's process sent no heartbeat for {self._silence:.0f} s and was killed; "
                f"requests in flight: {len(self._open)}{last_words}"
            )
        return results

    def close(self) -> None:
        """Ask the child to end, and end it if it has not after five seconds."""
        with suppress(OSError, ValueError):
            self._connection.send(("close",))
        self._end(grace=GRACE_SECONDS)

    def _receive(self, timeout: float) -> list[tuple[Any, ...]]:
        """All messages that are there, after waiting up to `timeout` for the first.

        Raises EngineError when there are none and the child is dead. Only time spent waiting counts
        as silence, so a parent that was away or suspended does not take its child for dead.
        """
        began = time.monotonic()
        ready = wait([self._connection, self._process.sentinel], timeout)
        messages = []
        try:
            while self._connection.poll():
                messages.append(self._connection.recv())
        except (EOFError, OSError):
            if not messages:
                raise self._died() from None
        if not messages and self._process.sentinel in ready:  # it may not be reaped yet
            raise self._died()
        self._silence += min(time.monotonic() - began, timeout)
        if messages:
            self._silence = 0.0
        return messages

    def _await_ready(self, timeout: float) -> EngineInfo:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for message in self._receive(POLL_SECONDS):
                if message[0] == "ready":
                    info: EngineInfo = message[1]
                    return info
                if message[0] == "failed":
                    raise self._failed(message, EngineError)
        raise EngineError(f"the engine was not ready after {timeout:.0f} s{self._last_words()}")

    def _failed(self, message: tuple[Any, ...], least: type[EngineError]) -> SsoDataError:
        """The child's own error, under its own name; an engine's error is at `least` that."""
        _, name, text = message
        kind = getattr(errors, name, EngineError)
        is_ours = issubclass(kind, SsoDataError) and not issubclass(least, kind)
        return kind(text) if is_ours else least(text)

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
def _spawning() -> Iterator[None]:
    """Start a process that does not run the caller's script again and whose tracker is quiet.

    The spawned process imports the module `__main__`, which may be a user's script without a guard
    and is needed for nothing. multiprocessing's resource tracker, started with the process, would
    warn of a killed one.
    """
    main, warnings = sys.modules["__main__"], os.environ.get("PYTHONWARNINGS")
    sys.modules["__main__"] = ModuleType("__main__")
    ignored = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = f"{warnings},{ignored}" if warnings else ignored
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if warnings is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = warnings
