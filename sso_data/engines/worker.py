"""The far side of an engine in a process of its own: hosts the real engine and answers messages.

Messages from there: ("ready", EngineInfo), ("beat",), ("results", [Result]),
("failed", name of an SsoDataError, one line). To a child process: ("submit", [Request]),
("close",).
"""

import os
import queue
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from sso_data.config.run import EngineConfig
from sso_data.core.errors import SsoDataError, one_line
from sso_data.core.process_guard import at_parents_death
from sso_data.core.streams import sound_streams
from sso_data.engines.environment import prepare_environment
from sso_data.engines.interface import Engine, Request

Start = Callable[[Path, EngineConfig], Engine]
"""Starts the engine in the child; a function of a module, so that it can be sent there."""


def serve(
    connection: "Connection[Any, Any]",
    model_path: Path,
    config: EngineConfig,
    start: Start,
    parent_pid: int,
    stderr_file: str | None,
) -> None:
    """Run the child process: start the engine, answer requests until the parent closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    at_parents_death(signal.SIGKILL)
    if sys.platform == "linux" and os.getppid() != parent_pid:
        _leave(1)
    if stderr_file is not None:
        descriptor = os.open(stderr_file, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        with suppress(OSError):
            Path(stderr_file).unlink()  # the parent holds it open
    os.dup2(2, 1)  # stdout to stderr
    sound_streams()
    prepare_environment(config)
    link = _Pipe(connection, config.step_timeout)
    _leave(0 if work(link, model_path, config, start) else 1)


class Link(ABC):
    """How requests come in and messages go out.

    The heart stops while one step takes longer than `step_timeout` seconds.
    """

    def __init__(self, step_timeout: float) -> None:
        self.inbox: queue.SimpleQueue[list[Request] | None] = queue.SimpleQueue()
        self.step_began: float | None = None
        self._step_timeout = step_timeout

    @property
    def is_beating(self) -> bool:
        began = self.step_began
        return began is None or time.monotonic() - began < self._step_timeout

    @abstractmethod
    def send(self, *message: Any) -> None:
        """Send a message to the other side."""


def work(link: Link, model_path: Path, config: EngineConfig, start: Start) -> bool:
    """Start the engine and answer requests until asked to close; True unless something failed."""
    try:
        engine = start(model_path, config)
        link.send("ready", engine.info)
        unanswered = 0
        while (taken := _take(link, wait=unanswered == 0)) is not None:
            engine.submit(taken)
            unanswered += len(taken)
            link.step_began = time.monotonic()
            try:
                results = engine.step()
            finally:
                link.step_began = None
            if results:
                link.send("results", results)
                unanswered -= len(results)
        engine.close()
    except SsoDataError as error:
        link.send("failed", type(error).__name__, str(error))
        return False
    except Exception as error:  # noqa: BLE001 - the process border: the other side gets one line
        import traceback

        traceback.print_exc()
        text = f"the engine failed: {type(error).__name__}: {one_line(error, 300)}"
        link.send("failed", "EngineError", text)
        return False
    return True


class _Pipe(Link):
    """A connection, with a thread that reads it and one that sends a heartbeat every second.

    The reader keeps the parent's writes from ever blocking, and ends this process when the parent
    is gone.
    """

    def __init__(self, connection: "Connection[Any, Any]", step_timeout: float) -> None:
        super().__init__(step_timeout)
        self._connection = connection
        self._sending = threading.Lock()
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def send(self, *message: Any) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            _leave(1)

    def _read(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                _leave(1)
            self.inbox.put(message[1] if message[0] == "submit" else None)

    def _beat(self) -> None:
        while True:
            if self.is_beating:
                self.send("beat")
            time.sleep(1.0)


def _take(link: Link, *, wait: bool) -> list[Request] | None:
    """All requests that have come in (waiting for one if `wait`), or None when asked to close."""
    taken: list[Request] = []
    while True:
        try:
            message = link.inbox.get(block=wait and not taken)
        except queue.Empty:
            return taken
        if message is None:
            return None
        taken += message


def _leave(code: int) -> NoReturn:
    """End at once: libraries' exit handlers can hang, and there is nothing left to save."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)
