"""An OpenAI-compatible server whose replies a test writes down, on real sockets of this machine."""

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server does with one request: after `delay` seconds it sends this, or hangs up.

    `body` is sent as it is when it is bytes, else as JSON. `cut` sends that many bytes of it and
    closes the connection.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None


def said(text: str | None, finish: str = "stop", **message: Any) -> Reply:
    """A chat completion with this text."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
    }
    return Reply(
        body={
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
        }
    )


def failed(
    status: int, text: str = "no", *, headers: Mapping[str, str] = {}, **error: Any
) -> Reply:
    """An error as APIs report it."""
    return Reply(status=status, body={"error": {"message": text, **error}}, headers=headers)


Script = Callable[[dict[str, Any], int], Reply]
"""(request body, how often its last message came before) to reply."""


class _Quiet(ThreadingHTTPServer):
    """Says nothing of clients that were killed."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class ScriptedServer:
    """Keeps every request: `bodies`, `headers` and when they came, in seconds of `monotonic`."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.at_once = 0
        self.most_at_once = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._serve(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = _Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            last = json.dumps(body["messages"][-1])
            attempt, self._seen[last] = self._seen[last], self._seen[last] + 1
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        reply = self._script(body, attempt)
        time.sleep(reply.delay)
        with self._lock:
            self.at_once -= 1
        _send(handler, reply)


def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    try:
        handler.send_response(reply.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data if reply.cut is None else data[: reply.cut])
        if reply.cut is not None:
            handler.close_connection = True
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # who asked has gone
        handler.close_connection = True


@contextmanager
def serving(script: Script) -> Iterator[ScriptedServer]:
    """The server while the block runs."""
    server = ScriptedServer(script)
    try:
        yield server
    finally:
        server.close()


def in_turn(*replies: Reply) -> Script:
    """The first reply to the first time that a question comes, and so on; then the last again."""
    return lambda body, attempt: replies[min(attempt, len(replies) - 1)]
