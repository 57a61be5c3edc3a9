"""The child's side of a child engine: hosts the real engine and talks to the parent.

Messages to the parent: ("ready", EngineInfo), ("beat",), ("results", [Result]),
("failed", name of an SsoDataError, one line). From the parent: ("submit", [Request]), ("close",).
"""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from sso_data.config.run import EngineConfig
from sso_data.core.errors import SsoDataError
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
    link = _Link(connection, config.step_timeout)
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
    except Exception as error:  # noqa: BLE001 - the process border: the parent gets one line
        import traceback

        traceback.print_exc()
        text = " ".join(str(error).split())[:300]
        link.send("failed", "EngineError", f"the engine failed: {type(error).__name__}: {text}")
    else:
        _leave(0)
    _leave(1)


class _Link:
    """The connection, with a thread that reads it and one that sends a heartbeat every second.

    The reader keeps the parent's writes from ever blocking, and ends this process when the parent
    is gone. The heartbeat falls silent when one step takes longer than `step_timeout` seconds.
    """

    def __init__(self, connection: "Connection[Any, Any]", step_timeout: float) -> None:
        self.inbox: queue.SimpleQueue[list[Request] | None] = queue.SimpleQueue()
        self.step_began: float | None = None
        self._connection = connection
        self._step_timeout = step_timeout
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
            began = self.step_began
            if began is None or time.monotonic() - began < self._step_timeout:
                self.send("beat")
            time.sleep(1.0)


def _take(link: _Link, *, wait: bool) -> list[Request] | None:
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
