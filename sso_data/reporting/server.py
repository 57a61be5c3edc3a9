"""`view`: the page of a run, served from its journal on this machine alone, read-only."""

import re
import secrets
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from sso_data.core.errors import RunError, SsoDataError
from sso_data.reporting.data import BLOCK, Read, blocks, index, packed, read
from sso_data.reporting.page import page, served_block
from sso_data.runs.journal import load_scores
from sso_data.runs.tokens import Answers

HOST = "127.0.0.1"


class Viewer(ThreadingHTTPServer):
    """Serves the page of `run` under an address that only who started it knows.

    The journal is read again whenever the page is loaded, so that a growing run can be followed; a
    block is that of the page that was loaded last. `tokens`: as in `page.report`. Raises RunError
    where the run cannot be read or the port is taken; port 0 takes a free one.
    """

    daemon_threads = True

    def __init__(
        self, run: Path, port: int = 0, tokens: Mapping[str, Answers] | None = None
    ) -> None:
        self.run, self.token, self._tokens = run, secrets.token_urlsafe(16), tokens or {}
        self._lock = Lock()
        self.found: Read = read(run)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise RunError(
                f"--port {port}: {error.strerror or error}; leave it out to take a free one"
            ) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that was closed while it loaded is no news; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    @property
    def hosts(self) -> frozenset[str]:
        """The values of the Host header that a browser on this machine, or a tunnel, sends."""
        port = self.server_address[1]
        return frozenset(f"{name}:{port}" for name in (HOST, "localhost"))

    def content(self, name: str) -> tuple[str, bytes] | None:
        """Return the type and the bytes of a part of the page, None where there is none."""
        with self._lock:
            if name == "":
                self.found = read(self.run)
                rows = (row for block in blocks(self.found) for row in block)
                return "text/html", page(index(self.found, rows), [], live="rows.json").encode()
            if name == "rows.json":
                return "application/json", packed({"rows": len(load_scores(self.run, dry=True))})
            block = re.fullmatch(r"data/([0-9]{5,9})\.js", name)
            if block and int(block[1]) * BLOCK < len(self.found.scores):
                text = served_block(self.found, int(block[1]), self._tokens)
                return "text/javascript", text.encode()
            return None


class _Handler(BaseHTTPRequestHandler):
    server: Viewer

    def version_string(self) -> str:
        """What the header Server says: no version."""
        return "sso-data"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        home = f"/{self.server.token}/"
        path = self.path.partition("?")[0]
        if self.headers.get("Host") not in self.server.hosts or not path.startswith(home):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")
            return
        try:
            found = self.server.content(path.removeprefix(home))
        except SsoDataError as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{error}\n".encode())
            return
        kind, body = found or ("text/plain", b"not found\n")
        self._answer(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND, kind, body)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: the terminal shows the address alone."""
