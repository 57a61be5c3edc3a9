"""How the loopback Hub listens and answers: routes, headers, failures on demand."""

import io
import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback.faults import Fault, Plan, never, pause
from tests.loopback.repos import Repo

Handle = Callable[..., None]
ROUTES: list[tuple[str, re.Pattern[str], Handle]] = []
ID = r"(?P<repo>[^/]+/[^/]+|[^/]+)"
KIND = r"(?P<kind>dataset|model|space)s"


def route(methods: str, pattern: str) -> Callable[[Handle], Handle]:
    """Let a function answer `methods` on paths that match; the handler and its groups are given."""

    def register(handle: Handle) -> Handle:
        for method in methods.split():
            ROUTES.append((method, re.compile(pattern), handle))
        return handle

    return register


@dataclass
class Hub:
    """What is there, who may come, and what came: 'METHOD /path?query' strings.

    `accounts` says what whoami answers for a token; other tokens in `tokens` are those of `tester`.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    plan: Plan = never
    large_bytes: int = 10_000_000
    part_bytes: int | None = None
    leaked: list[str] = field(default_factory=list)
    xet_folder: str | None = None
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    endpoint: str = ""
    storage: str = ""

    def find(self, kind: str, name: str) -> Repo | None:
        """The repository of that type and name."""
        return self.repos.get(name if kind == "dataset" else f"{kind}s/{name}")

    def keep(self, kind: str, name: str, repo: Repo) -> None:
        self.repos[name if kind == "dataset" else f"{kind}s/{name}"] = repo


class Handler(BaseHTTPRequestHandler):
    """One request: the first route that matches answers it."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two would wait for each other
    disable_nagle_algorithm = True
    is_storage = False

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: `hub.requests` is the log."""

    def handle_one(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        with self.hub.lock:
            number = len(self.hub.requests)
            where = " storage" if self.is_storage else ""
            self.hub.requests.append(f"{self.command}{where} {self.path}")
        self.body = self._read_body()
        fault = self.hub.plan(number)
        if fault is None:
            self._routed(parts.path)
        else:
            self._failing(fault, parts.path)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one  # noqa: N815 - the server's names

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _routed(self, path: str) -> None:
        with self.hub.lock:
            for method, pattern, handle in ROUTES:
                match = pattern.fullmatch(path)
                if method == self.command and match:
                    groups = match.groupdict().items()
                    handle(self, **{name: unquote(value or "") for name, value in groups})
                    return
        self.refuse(404, "NotFound", f"no endpoint {self.command} {path}")

    def _failing(self, fault: Fault, path: str) -> None:
        """Answer as the failure says."""
        if fault.kind == "status":
            self.refuse(fault.code, "", fault.message, **dict(fault.headers))
        elif fault.kind == "cut":
            self._hang_up()
        elif fault.kind in ("lost", "torn"):
            wire, self.wfile = self.wfile, io.BytesIO()
            self._routed(path)
            answer = self.wfile.getvalue()
            self.wfile = wire
            if fault.kind == "torn":
                self.wfile.write(answer[: max(1, len(answer) - 1)])
            self._hang_up()
        else:
            pause(fault.seconds)
            if fault.act:
                with self.hub.lock:
                    fault.act()
            self._routed(path)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole response; a HEAD request gets its headers only."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        """An error as the Hub words it: the code in a header, the message in header and body."""
        body = json.dumps({"error": message}).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        fixed = {"Content-Type": "application/json", "X-Error-Message": message}
        self.answer(status, body, fixed | {"X-Error-Code": code} | named)

    def bearer(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def account(self) -> dict[str, Any] | None:
        """Who the token belongs to, or None when it is not valid."""
        token = self.bearer()
        if token not in self.hub.tokens:
            return None
        default = {
            "type": "user",
            "name": "tester",
            "orgs": [{"type": "org", "name": "team", "roleInOrg": "write"}],
            "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}},
        }
        return self.hub.accounts.get(token, default)

    def found(self, kind: str, name: str) -> Repo | None:
        """The repository, or None after it was refused."""
        repo = self.hub.find(kind, name)
        account = self.account()
        if repo is not None and repo.private and account is None:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and not may_write(account, name)):
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif repo.gated and account is None:
            self.refuse(401, "GatedRepo", f"Access to {kind} {name} is restricted.")
        else:
            return repo
        return None

    def writable(self, kind: str, name: str) -> Repo | None:
        """The repository, where the token may write to it; None after it was refused."""
        if self.account() is None:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return None
        repo = self.found(kind, name)
        if repo is not None and not may_write(self.account(), name):
            self.refuse(403, "", "You don't have the required permissions to write here")
            return None
        return repo


def may_write(account: Mapping[str, Any] | None, name: str) -> bool:
    """Whether the account's token may write to the repository `name`."""
    if account is None:
        return False
    token = account["auth"]["accessToken"]
    namespace = name.split("/")[0]
    if token["role"] == "fineGrained":
        return any(
            scope["entity"]["name"] in (namespace, name) and "repo.write" in scope["permissions"]
            for scope in token["fineGrained"]["scoped"]
        )
    spaces = [account["name"], *(org["name"] for org in account["orgs"])]
    return namespace in spaces and token["role"] == "write"


class Listening(ThreadingHTTPServer):
    """A server on a free port of the loopback."""

    daemon_threads = True

    def __init__(self, hub: Hub, *, is_storage: bool) -> None:
        kind = type("Handler", (Handler,), {"hub": hub, "is_storage": is_storage})
        super().__init__(("127.0.0.1", 0), kind)
        self._name = "localhost" if is_storage else "127.0.0.1"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        """Another host name for the storage: the client compares names, not ports."""
        return f"http://{self._name}:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()
