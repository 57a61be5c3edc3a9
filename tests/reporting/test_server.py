"""`view`: only who knows the address sees the run, and a growing run is followed."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from sso_data.core.errors import RunError
from sso_data.reporting.server import HOST, Viewer
from sso_data.runs.tokens import Answers
from tests.factories import make_row, to_line
from tests.reporting.test_report import unpacked


@contextmanager
def serving(run: Path, tokens: Mapping[str, Answers] | None = None) -> Iterator[Viewer]:
    """The page of a run, served in a thread."""
    with Viewer(run, tokens=tokens) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield found
        finally:
            found.shutdown()
            thread.join()


@pytest.fixture
def viewer(run: Path) -> Iterator[Viewer]:
    with serving(run) as found:
        yield found


def get(viewer: Viewer, path: str, host: str | None = None) -> tuple[int, bytes]:
    port = viewer.server_address[1]
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    connection.request("GET", path, headers={"Host": host or f"{HOST}:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_page_and_its_blocks(viewer: Viewer) -> None:
    status, body = get(viewer, f"/{viewer.token}/")
    assert status == 200 and b'data-live="rows.json"' in body
    status, body = get(viewer, f"/{viewer.token}/data/00000.js")
    assert status == 200 and len(unpacked(body.decode().split('"')[1])) == 12
    for path in ("data/00009.js", "data/-1.js", "../run.json", "run.json", "data/x.js"):
        assert get(viewer, f"/{viewer.token}/{path}")[0] == 404, path


def test_what_the_headers_say(viewer: Viewer) -> None:
    port = viewer.server_address[1]
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    connection.request("HEAD", f"/{viewer.token}/rows.json")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.headers["Content-Length"] == "11"
    assert answer.read() == b"" and answer.headers["Server"] == "sso-data"


def test_strangers_see_nothing(viewer: Viewer) -> None:
    assert viewer.server_address[0] == HOST and len(viewer.token) >= 20
    assert get(viewer, "/")[0] == get(viewer, "/run.json")[0] == 404
    assert get(viewer, f"/{viewer.token}/", host="evil.example")[0] == 404
    port = viewer.server_address[1]
    assert get(viewer, f"/{viewer.token}/", host=f"localhost:{port}")[0] == 200


def test_a_growing_run_is_followed(viewer: Viewer, run: Path) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with (run / "rows" / "00000.jsonl").open("ab") as part:
        part.write(to_line(make_row(99)) + b'{"id": "half a li')
    status, body = get(viewer, f"/{viewer.token}/rows.json")
    assert status == 200 and json.loads(body) == {"rows": 13}
    assert get(viewer, f"/{viewer.token}/")[0] == 200
    assert len(viewer.found.scores) == 13
    changed = {f for f in run.rglob("*") if f.is_file() and before.get(f) != f.read_bytes()}
    assert changed == {run / "rows" / "00000.jsonl"}, "it reads only"


def test_a_port_in_use(viewer: Viewer, run: Path) -> None:
    with pytest.raises(RunError, match=r"--port \d+: Address already in use; leave it out"):
        Viewer(run, viewer.server_address[1])
