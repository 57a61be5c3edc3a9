"""A Hub on the loopback for the real client: datasets to read, on the standard library.

    with HubServer() as hub:
        hub.add_dataset("team/prompts", {"train.jsonl": b"..."})
        subprocess.run(command, env=os.environ | hub.environment(tmp_path / "hf"))

The client reads HF_ENDPOINT when it is imported, so it runs in a child process. `@route` adds an
endpoint: a handler method per HTTP method and path pattern, the first that matches answers. What no
route answers is a 404; `hub.requests` holds every request that came.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Handle = Callable[..., None]
ROUTES: list[tuple[str, re.Pattern[str], Handle]] = []
_ID = r"(?P<repo>[^/]+/[^/]+|[^/]+)"


def route(methods: str, pattern: str) -> Callable[[Handle], Handle]:
    """Let a handler method answer `methods` on paths that match; its groups are the arguments."""

    def register(handle: Handle) -> Handle:
        for method in methods.split():
            ROUTES.append((method, re.compile(pattern), handle))
        return handle

    return register


@dataclass
class Repo:
    """A dataset repository with one branch, `main`, whose commit is a hash of its files."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False

    @property
    def commit(self) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + content + b"\0")
        return digest.hexdigest()

    def entry(self, path: str) -> dict[str, object] | None:
        """The tree's entry for a file or a folder, or None."""
        if path in self.files:
            content = self.files[path]
            return {"type": "file", "oid": etag(content), "size": len(content), "path": path}
        if any(name.startswith(f"{path}/") for name in self.files):
            return {"type": "directory", "oid": etag(path.encode()), "size": 0, "path": path}
        return None

    def tree(self, folder: str, *, recursive: bool) -> list[dict[str, object]] | None:
        """The entries in `folder` ('' is the root), or None where there is no such folder."""
        prefix = f"{folder}/" if folder else ""
        paths: set[str] = set()
        for name in self.files:
            if name.startswith(prefix):
                parts = name.removeprefix(prefix).split("/")
                depths = range(1, len(parts) + 1) if recursive else [1]
                paths.update(prefix + "/".join(parts[:depth]) for depth in depths)
        if folder and not paths:
            return None
        return [entry for path in sorted(paths) if (entry := self.entry(path))]


@dataclass
class HubServer:
    """The server, its repositories and the requests that came: 'METHOD /path?query' strings."""

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    def add_dataset(self, repo: str, files: Mapping[str, bytes], *, gated: bool = False) -> Repo:
        self.repos[repo] = Repo(files=dict(files), gated=gated)
        return self.repos[repo]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """What a child process needs to take this server for the Hub."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def __enter__(self) -> "HubServer":
        handler = type("Handler", (HubHandler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class HubHandler(BaseHTTPRequestHandler):
    """One request: the first route that matches answers it."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: `hub.requests` is the log."""

    def handle_one(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        self.hub.requests.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        for method, pattern, handle in ROUTES:
            match = pattern.fullmatch(parts.path)
            if method == self.command and match:
                values = {name: unquote(value or "") for name, value in match.groupdict().items()}
                handle(self, **values)
                return
        self.refuse(404, "NotFound", f"no endpoint {self.command} {parts.path}")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one  # noqa: N815 - the server's names

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

    def found(self, name: str, revision: str = "main") -> Repo | None:
        """The repository at a revision, or None after it was refused."""
        repo = self.hub.repos.get(name)
        if repo is None:
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif repo.gated and self.bearer() not in self.hub.tokens:
            self.refuse(401, "GatedRepo", f"Access to dataset {name} is restricted.")
        elif revision not in ("main", "refs/heads/main", repo.commit):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def bearer(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    @route("GET", r"/api/whoami-v2")
    def whoami(self) -> None:
        if self.bearer() in self.hub.tokens:
            self.answer_json({"type": "user", "name": "tester", "orgs": []})
        else:
            self.refuse(401, "", "Invalid credentials in Authorization header")

    @route("GET", rf"/api/datasets/{_ID}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?")
    def tree(self, repo: str, revision: str, folder: str) -> None:
        if stored := self.found(repo, revision):
            recursive = self.query.get("recursive", "").lower() in ("true", "1")
            entries = stored.tree(folder, recursive=recursive)
            if entries is None:
                self.refuse(404, "EntryNotFound", f"{folder} does not exist on {revision}")
            else:
                self.answer_json(entries)

    @route("POST", rf"/api/datasets/{_ID}/paths-info/(?P<revision>[^/]+)")
    def paths_info(self, repo: str, revision: str) -> None:
        if stored := self.found(repo, revision):
            text = self.body.decode()
            is_json = text.startswith("{")
            paths = json.loads(text)["paths"] if is_json else parse_qs(text).get("paths", [])
            entries = [stored.entry(path.strip("/")) for path in paths]
            self.answer_json([entry for entry in entries if entry])

    @route("GET", rf"/api/datasets/{_ID}/revision/(?P<revision>[^/]+)")
    def revision(self, repo: str, revision: str) -> None:
        if stored := self.found(repo, revision):
            self.answer_json(_info(repo, stored))

    @route("GET", rf"/api/datasets/{_ID}")
    def info(self, repo: str) -> None:
        if stored := self.found(repo):
            self.answer_json(_info(repo, stored))

    @route("GET HEAD", rf"/datasets/{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, repo: str, revision: str, path: str) -> None:
        if not (stored := self.found(repo, revision)):
            return
        if path not in stored.files:
            self.refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=stored.commit)
            return
        content = stored.files[path]
        headers = {
            "X-Repo-Commit": stored.commit,
            "ETag": f'"{etag(content)}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        start, stop = _byte_range(self.headers.get("Range"), len(content))
        if start is None:
            self.answer(200, content, headers)
        elif start >= len(content):
            self.answer(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        else:
            span = f"bytes {start}-{stop - 1}/{len(content)}"
            self.answer(206, content[start:stop], headers | {"Content-Range": span})


def etag(content: bytes) -> str:
    """git's id of a blob, which is the Hub's ETag of a file outside LFS."""
    blob = b"blob %d\0" % len(content) + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()


def _info(name: str, repo: Repo) -> dict[str, Any]:
    return {
        "_id": etag(name.encode())[:24],
        "id": name,
        "sha": repo.commit,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": path} for path in sorted(repo.files)],
    }


def _byte_range(header: str | None, size: int) -> tuple[int | None, int]:
    """The first byte and the one behind the last that a Range header asks for."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if not match or match.groups() == ("", ""):
        return None, size
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size
