"""What the loopback Hub lets a client write: repositories, large files, commits, settings."""

import base64
import hashlib
import json
from typing import Any

import yaml

from tests.loopback.http import ID, KIND, Handler, may_write, route
from tests.loopback.repos import GITATTRIBUTES, Blob, PullRequest, Repo, with_xet
from tests.loopback.xet import content_of, hash_of

_REVISION = r"(?P<revision>[^/]+)"
_LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "cc0-1.0", "other")


@route("POST", r"/api/repos/create")
def create(handler: Handler) -> None:
    asked = json.loads(handler.body)
    account = handler.account()
    if account is None:
        handler.refuse(401, "", "Invalid credentials in Authorization header")
        return
    name = f"{asked.get('organization') or account['name']}/{asked['name']}"
    kind = asked.get("type", "model")
    url = f"{handler.hub.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{name}"
    if not may_write(account, name):
        handler.refuse(403, "", "You don't have the rights to create a repo in this namespace")
    elif handler.hub.find(kind, name):
        message = {"error": "You already created this repo", "url": url}
        handler.answer_json(message, 409)
    else:
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        repo = Repo.of({".gitattributes": GITATTRIBUTES}, kind=kind, private=private)
        handler.hub.keep(kind, name, repo)
        handler.answer_json({"url": url, "name": name})


@route("POST", r"/api/validate-yaml")
def validate(handler: Handler) -> None:
    """The card's metadata, as strictly as a few of the Hub's rules go."""
    asked = json.loads(handler.body)
    problem = _problem(asked["content"])
    warnings = [] if asked["content"].startswith("---") else [{"message": "empty metadata"}]
    if problem:
        answer = {"error": problem, "errors": [{"message": problem}], "warnings": []}
        handler.answer_json(answer, 400)
    else:
        handler.answer_json({"errors": [], "warnings": warnings})


def _problem(card: str) -> str | None:
    if not card.startswith("---\n"):
        return None
    try:
        metadata = yaml.safe_load(card.split("---\n")[1]) or {}
    except yaml.YAMLError as error:
        return f"YAML: {error}"
    license_ = metadata.get("license")
    if license_ is not None and license_ not in _LICENSES:
        return f'"license" must be one of [{", ".join(_LICENSES)}]'
    languages = metadata.get("language") or []
    for code in [languages] if isinstance(languages, str) else languages:
        if not (isinstance(code, str) and 2 <= len(code) <= 3 and code.islower()):
            return '"language" must only contain lowercase ISO 639 codes'
    for config in metadata.get("configs") or []:
        if not config.get("config_name") or not config.get("data_files"):
            return '"configs[0].data_files" is required'
    return None


@route("POST", rf"/api/{KIND}/{ID}/preupload/{_REVISION}")
def preupload(handler: Handler, kind: str, repo: str, revision: str) -> None:
    stored = handler.writable(kind, repo)
    if stored is None:
        return
    commit = stored.at(revision)
    if commit is None:
        handler.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return
    files = []
    for file in json.loads(handler.body)["files"]:
        path, blob = file["path"], commit.blobs.get(file["path"])
        large_bytes = handler.hub.large_bytes
        files.append(
            {
                "path": path,
                "uploadMode": stored.upload_mode(path, file["size"], large_bytes=large_bytes),
                "shouldIgnore": stored.is_ignored(path, revision),
                **({"oid": blob.upload_id} if blob else {}),
            }
        )
    handler.answer_json({"files": files})


@route("POST", rf"/datasets/{ID}\.git/info/lfs/objects/batch")
def batch_dataset(handler: Handler, repo: str) -> None:
    _batch(handler, "dataset", repo)


@route("POST", rf"/{ID}\.git/info/lfs/objects/batch")
def batch_model(handler: Handler, repo: str) -> None:
    _batch(handler, "model", repo)


def _batch(handler: Handler, kind: str, name: str) -> None:
    """Where each object is to be sent; nothing to do for one that is there."""
    if handler.writable(kind, name) is None:
        return
    objects = []
    for wanted in json.loads(handler.body)["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        answer: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
        if oid not in handler.hub.objects:
            verify = f"{handler.hub.endpoint}/api/{kind}s/{name}/lfs-verify"
            upload = _upload_action(handler, oid, size)
            answer["actions"] = {"upload": upload, "verify": {"href": verify}}
        objects.append(answer)
    handler.answer_json({"transfer": "basic", "objects": objects})


def _upload_action(handler: Handler, oid: str, size: int) -> dict[str, Any]:
    hub = handler.hub
    put = f"{hub.storage}/upload/{oid}"
    if hub.part_bytes is None or size <= hub.part_bytes:
        return {"href": f"{put}?signature=s"}
    count = -(-size // hub.part_bytes)
    urls = {str(number): f"{put}?part={number}" for number in range(1, count + 1)}
    done = f"{hub.endpoint}/api/complete-multipart/{oid}"
    return {"href": done, "header": {"chunk_size": str(hub.part_bytes), **urls}}


@route("PUT", r"/upload/(?P<oid>[0-9a-f]{64})")
def upload(handler: Handler, oid: str) -> None:
    """An object, or a part of one, at the other origin."""
    if handler.headers.get("Authorization"):
        handler.hub.leaked.append(handler.path)
    part = handler.query.get("part")
    if part:
        handler.hub.parts.setdefault(oid, {})[int(part)] = handler.body
    elif hashlib.sha256(handler.body).hexdigest() == oid:
        handler.hub.objects[oid] = handler.body
    else:
        handler.refuse(400, "", "the content is not that of its id")
        return
    handler.answer(200, b"", {"ETag": f'"{hashlib.md5(handler.body).hexdigest()}"'})


@route("POST", r"/api/complete-multipart/(?P<oid>[0-9a-f]{64})")
def complete(handler: Handler, oid: str) -> None:
    asked = json.loads(handler.body)
    parts = handler.hub.parts.get(oid, {})
    content = b"".join(parts[part["partNumber"]] for part in asked["parts"])
    if hashlib.sha256(content).hexdigest() == oid:
        handler.hub.objects[oid] = content
        handler.answer_json({})
    else:
        handler.refuse(400, "", "the parts do not make the object")


@route("POST", rf"/api/{KIND}/{ID}/lfs-verify")
def verify(handler: Handler, kind: str, repo: str) -> None:
    if handler.writable(kind, repo):
        asked = json.loads(handler.body)
        content = handler.hub.objects.get(asked["oid"])
        if content is None or len(content) != asked["size"]:
            handler.refuse(404, "", "the object did not arrive")
        else:
            handler.answer_json({})


@route("POST", rf"/api/{KIND}/{ID}/commit/{_REVISION}")
def commit(handler: Handler, kind: str, repo: str, revision: str) -> None:
    stored = handler.writable(kind, repo)
    if stored is None:
        return
    if revision not in stored.branches:
        handler.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return
    lines = [json.loads(line) for line in handler.body.splitlines() if line]
    header = lines[0]["value"]
    head = stored.head(revision)
    if header.get("parentCommit") not in (None, head.oid):
        handler.refuse(412, "", "A commit has happened since. Please refresh and try again.")
        return
    new: dict[str, Blob] = {}
    gone: list[str] = []
    for line in lines[1:]:
        key, value = line["key"], line["value"]
        if key == "file":
            new[value["path"]] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            blob = _large(handler, value["oid"])
            if blob is None:
                handler.refuse(400, "", f"the large file of {value['path']} was not uploaded")
                return
            new[value["path"]] = blob
        else:
            gone.append(value["path"] + "/" * (key == "deletedFolder"))
    done = stored.change(revision, new, gone, header["summary"])
    handler.answer_json(
        {
            "success": True,
            "commitOid": done.oid,
            "commitUrl": f"{handler.hub.endpoint}/{kind}s/{repo}/commit/{done.oid}",
        }
    )


def _large(handler: Handler, oid: str) -> Blob | None:
    """The large file that was uploaded, over LFS or over Xet; None where it was not."""
    hub = handler.hub
    if oid in hub.objects and hub.xet_folder is None:
        return Blob(hub.objects[oid], is_large=True)
    if hub.xet_folder is None:
        return None
    xet_hash = hash_of(hub.xet_folder, oid)
    if xet_hash is None:
        return None
    if oid not in hub.objects:
        hub.objects[oid] = content_of(hub.xet_folder, xet_hash)
    return with_xet(Blob(hub.objects[oid], is_large=True), xet_hash)


@route("GET", rf"/api/{KIND}/{ID}/xet-(?P<use>write|read)-token/{_REVISION}")
def xet_token(handler: Handler, kind: str, repo: str, use: str, revision: str) -> None:
    """Where Xet's content-addressed store is: a folder of this machine."""
    stored = (handler.writable if use == "write" else handler.found)(kind, repo)
    if stored is None:
        return
    if handler.hub.xet_folder is None:
        handler.refuse(404, "", "no Xet here")
        return
    where, until = f"local://{handler.hub.xet_folder}", 4_000_000_000
    content = {"accessToken": "xet", "exp": until, "casUrl": where}
    headers = {
        "Content-Type": "application/json",
        "X-Xet-Cas-Url": where,
        "X-Xet-Access-Token": "xet",
        "X-Xet-Token-Expiration": str(until),
    }
    handler.answer(200, json.dumps(content).encode(), headers)


@route("POST", rf"/api/{KIND}/{ID}/branch/{_REVISION}")
def branch(handler: Handler, kind: str, repo: str, revision: str) -> None:
    if stored := handler.writable(kind, repo):
        start = json.loads(handler.body or b"{}").get("startingPoint") or "main"
        if revision in stored.branches:
            handler.refuse(409, "", "Reference already exists")
        else:
            stored.branches[revision] = list(stored.branches[start])
            handler.answer_json({})


@route("PUT", rf"/api/{KIND}/{ID}/settings")
def settings(handler: Handler, kind: str, repo: str) -> None:
    if stored := handler.writable(kind, repo):
        asked = json.loads(handler.body)
        if "visibility" in asked or "private" in asked:
            stored.set_private(asked.get("visibility") == "private" or bool(asked.get("private")))
        if "gated" in asked:
            stored.gated = bool(asked["gated"])
        handler.answer_json({"private": stored.private})


@route("GET", rf"/api/{KIND}/{ID}/discussions")
def discussions(handler: Handler, kind: str, repo: str) -> None:
    if stored := handler.found(kind, repo):
        status = handler.query.get("status")
        shown = [
            _discussion(repo, kind, request)
            for request in stored.pull_requests
            if status != "open" or request.status in ("open", "draft")
        ]
        handler.answer_json({"discussions": shown, "count": len(shown), "start": 0})


@route("POST", rf"/api/{KIND}/{ID}/discussions")
def open_discussion(handler: Handler, kind: str, repo: str) -> None:
    if stored := handler.writable(kind, repo):
        account = handler.account() or {}
        title = json.loads(handler.body)["title"]
        request = stored.open_pull_request(title, account["name"])
        handler.answer_json({"num": request.number, "url": "", "pullRequest": True})


@route("GET", rf"/api/{KIND}/{ID}/discussions/(?P<number>\d+)")
def discussion(handler: Handler, kind: str, repo: str, number: str) -> None:
    if stored := handler.found(kind, repo):
        request = stored.pull_requests[int(number) - 1]
        more = {"events": [], "filesWithConflicts": [], "changes": {"base": "refs/heads/main"}}
        handler.answer_json(_discussion(repo, kind, request) | more)


@route("POST", rf"/api/{KIND}/{ID}/discussions/(?P<number>\d+)/status")
def set_status(handler: Handler, kind: str, repo: str, number: str) -> None:
    if stored := handler.writable(kind, repo):
        request = stored.pull_requests[int(number) - 1]
        if request.status == "merged":
            handler.refuse(400, "", "This pull request is merged")
            return
        request.status = json.loads(handler.body)["status"]
        handler.answer_json({"newStatus": _event(request)})


@route("POST", rf"/api/{KIND}/{ID}/discussions/(?P<number>\d+)/merge")
def merge(handler: Handler, kind: str, repo: str, number: str) -> None:
    if stored := handler.writable(kind, repo):
        request = stored.pull_requests[int(number) - 1]
        if request.status == "open":
            stored.merge(request)
            handler.answer_json({})
        else:
            handler.refuse(400, "", f"This pull request is {request.status}")


def _discussion(repo: str, kind: str, request: PullRequest) -> dict[str, Any]:
    return {
        "title": request.title,
        "num": request.number,
        "author": {"name": request.author},
        "createdAt": "2026-01-01T00:00:00.000Z",
        "status": request.status,
        "repo": {"name": repo, "type": kind},
        "isPullRequest": True,
    }


def _event(request: PullRequest) -> dict[str, Any]:
    return {
        "id": "0",
        "type": "status-change",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "author": {"name": request.author},
        "data": {"status": request.status},
    }
