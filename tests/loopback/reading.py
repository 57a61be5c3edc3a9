"""What the loopback Hub lets a client read: accounts, repositories, trees, files."""

import json
import re
from typing import Any
from urllib.parse import parse_qs

from tests.loopback.http import ID, KIND, Handler, route
from tests.loopback.repos import DATE, Blob, Commit, Repo, git_id, tree, tree_entry

_REVISION = r"(?P<revision>[^/]+)"


def at(handler: Handler, kind: str, name: str, revision: str) -> tuple[Repo, Commit] | None:
    """The repository and the commit of a revision, or None after it was refused."""
    repo = handler.found(kind, name)
    if repo is None:
        return None
    commit = repo.at(revision)
    if commit is None:
        handler.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None
    return repo, commit


@route("GET", r"/api/whoami-v2")
def whoami(handler: Handler) -> None:
    if account := handler.account():
        handler.answer_json(account)
    else:
        handler.refuse(401, "", "Invalid credentials in Authorization header")


@route("GET", rf"/api/{KIND}/{ID}/tree/{_REVISION}(?:/(?P<folder>.*))?")
def list_tree(handler: Handler, kind: str, repo: str, revision: str, folder: str) -> None:
    if found := at(handler, kind, repo, revision):
        recursive = handler.query.get("recursive", "").lower() in ("true", "1")
        entries = tree(found[1], folder, recursive=recursive)
        if entries is None:
            handler.refuse(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        else:
            handler.answer_json(entries)


@route("POST", rf"/api/{KIND}/{ID}/paths-info/{_REVISION}")
def paths_info(handler: Handler, kind: str, repo: str, revision: str) -> None:
    if found := at(handler, kind, repo, revision):
        text = handler.body.decode()
        is_json = text.startswith("{")
        paths = json.loads(text)["paths"] if is_json else parse_qs(text).get("paths", [])
        entries = [tree_entry(found[1], path.strip("/")) for path in paths]
        handler.answer_json([entry for entry in entries if entry])


@route("GET", rf"/api/{KIND}/{ID}/refs")
def refs(handler: Handler, kind: str, repo: str) -> None:
    if found := handler.found(kind, repo):

        def listed(prefix: str) -> list[dict[str, str]]:
            names = [name for name in found.branches if name.startswith("refs/") == bool(prefix)]
            return [
                {
                    "name": name.removeprefix("refs/"),
                    "ref": name if prefix else f"refs/heads/{name}",
                    "targetCommit": found.head(name).oid,
                }
                for name in names
            ]

        handler.answer_json(
            {"branches": listed(""), "tags": [], "converts": [], "pullRequests": listed("refs/")}
        )


@route("GET", rf"/api/{KIND}/{ID}/commits/{_REVISION}")
def commits(handler: Handler, kind: str, repo: str, revision: str) -> None:
    if found := at(handler, kind, repo, revision):
        history = found[0].branches[revision]
        handler.answer_json(
            [
                {"id": one.oid, "title": one.title, "date": DATE, "message": "", "authors": []}
                for one in reversed(history)
            ]
        )


@route("GET", rf"/api/{KIND}/{ID}/revision/{_REVISION}")
def info_at(handler: Handler, kind: str, repo: str, revision: str) -> None:
    if found := at(handler, kind, repo, revision):
        handler.answer_json(_info(repo, *found))


@route("GET", rf"/api/{KIND}/{ID}")
def info(handler: Handler, kind: str, repo: str) -> None:
    if found := at(handler, kind, repo, "main"):
        handler.answer_json(_info(repo, *found))


@route("GET HEAD", rf"/datasets/{ID}/resolve/{_REVISION}/(?P<path>.+)")
def resolve_dataset(handler: Handler, repo: str, revision: str, path: str) -> None:
    _resolve(handler, "dataset", repo, revision, path)


@route("GET HEAD", rf"/{ID}/resolve/{_REVISION}/(?P<path>.+)")
def resolve_model(handler: Handler, repo: str, revision: str, path: str) -> None:
    _resolve(handler, "model", repo, revision, path)


def _resolve(handler: Handler, kind: str, name: str, revision: str, path: str) -> None:
    found = at(handler, kind, name, revision)
    if found is None:
        return
    commit = found[1]
    blob = commit.blobs.get(path)
    if blob is None:
        handler.refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit.oid)
        return
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if blob.is_large:
        _point_to_storage(handler, kind, name, commit, blob, headers)
        return
    headers |= {"ETag": f'"{blob.git_id}"', "Content-Type": "application/octet-stream"}
    serve(handler, blob.content, headers)


def _point_to_storage(
    handler: Handler, kind: str, name: str, commit: Commit, blob: Blob, headers: dict[str, str]
) -> None:
    """Send the client to the other origin; what the file is stands in headers of its own."""
    headers |= {
        "Location": f"{handler.hub.storage}/objects/{blob.sha256}?signature=s",
        "X-Linked-Etag": f'"{blob.sha256}"',
        "X-Linked-Size": str(len(blob.content)),
        "ETag": f'"{blob.git_id}"',
    }
    if blob.xet_hash:
        route_to_token = f"{handler.hub.endpoint}/api/{kind}s/{name}/xet-read-token/{commit.oid}"
        headers |= {"X-Xet-Hash": blob.xet_hash, "X-Xet-Refresh-Route": route_to_token}
    handler.answer(302, b"", headers)


@route("GET HEAD", r"/objects/(?P<sha256>[0-9a-f]{64})")
def download(handler: Handler, sha256: str) -> None:
    """A large file, from the other origin."""
    if handler.headers.get("Authorization"):
        handler.hub.leaked.append(handler.path)
    content = handler.hub.objects.get(sha256)
    if content is None:
        handler.refuse(404, "", "no such object")
    else:
        serve(handler, content, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})


def serve(handler: Handler, content: bytes, headers: dict[str, str]) -> None:
    """A file, or the range of it that is asked for."""
    start, stop = _byte_range(handler.headers.get("Range"), len(content))
    if start is None:
        handler.answer(200, content, headers)
    elif start >= len(content):
        handler.answer(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
    else:
        span = f"bytes {start}-{stop - 1}/{len(content)}"
        handler.answer(206, content[start:stop], headers | {"Content-Range": span})


def _info(name: str, repo: Repo, commit: Commit) -> dict[str, Any]:
    return {
        "_id": git_id(name.encode())[:24],
        "id": name,
        "sha": commit.oid,
        "lastModified": DATE,
        "createdAt": DATE,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": path} for path in sorted(commit.blobs)],
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
