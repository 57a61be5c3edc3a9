"""A small run, a Hub on the loopback, and the real client in this process, with no time to wait."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.config.run import RunConfig
from sso_data.core.records import Failure
from sso_data.filtering.refilter import refilter
from sso_data.publishing import card
from sso_data.publishing.numbers import PairNumbers, draw_plots
from sso_data.runs.run import require_run
from tests.factories import make_row, write_part
from tests.hub_server import HubServer
from tests.publishing.outcomes import TABLES

TOKEN = "hf_" + "t" * 34
REPO = "team/pairs"
Push = Callable[..., Result]


@pytest.fixture(scope="session")
def server() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


@pytest.fixture
def hub(server: HubServer) -> HubServer:
    """An empty Hub that knows the token; files of 2 kB and more are large ones."""
    reset(server)
    return server


def reset(hub: HubServer) -> None:
    """Nothing is there any more, nothing fails."""
    hub.repos.clear()
    hub.objects.clear()
    hub.parts.clear()
    hub.requests.clear()
    hub.accounts.clear()
    hub.leaked.clear()
    hub.tokens = {TOKEN}
    hub.__dict__.pop("plan", None)
    hub.plan = type(hub).__dataclass_fields__["plan"].default  # type: ignore[assignment]
    hub.large_bytes, hub.part_bytes, hub.xet_folder = 2000, None, None


@pytest.fixture(autouse=True)
def online(
    server: HubServer, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client in this process talks to the loopback, over LFS; nobody sleeps."""
    home = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(card, "draw_plots", _drawn_once)
    close_session()


def _drawn_once(numbers: PairNumbers) -> dict[str, bytes]:
    """The pictures of equal numbers, drawn once: they take most of a card's time."""
    key = repr(numbers)
    if key not in _DRAWN:
        _DRAWN[key] = draw_plots(numbers)
    return _DRAWN[key]


_DRAWN: dict[str, dict[str, bytes]] = {}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_run(tmp_path / "run")


def made_run(folder: Path, rows: int = 6, *, created: str = "2026-01-02T03:04:05+00:00") -> Path:
    """A run directory of made-up rows in two journal parts, one failed prompt, pairs decided on."""
    made = [make_row(index) for index in range(rows)]
    write_part(folder, made[: rows // 2], 0)
    write_part(folder, made[rows // 2 :], 1)
    lost = Failure(
        id="lost-0", stage="source", reason="malformed", detail="/data/mine/in.jsonl:7: not JSON"
    )
    (folder / "failed.jsonl").write_text(json.dumps(lost.to_json()) + "\n")
    config = RunConfig(model="/data/mine/models/test", seed=3)
    manifest = {
        "schema_version": 1,
        "sso_data": "0.1.0",
        "created": created,
        "identity": {"seed": 3, "model": "0123456789abcdef", "principles": "fedcba9876543210"},
        "config": config.model_dump(mode="json"),
        "date": "2026-01-02",
        "prompts": rows + 1,
        "sources": ["/data/mine/in.jsonl"],
        "template": {},
    }
    (folder / "run.json").write_text(json.dumps(manifest))
    refilter(folder, config)
    assert require_run(folder)
    return folder


@pytest.fixture
def push(hub: HubServer) -> Push:
    """`sso-data push` in this process."""
    runner = CliRunner()

    def invoke(run: object, *options: object, repo: str = REPO) -> Result:
        return runner.invoke(app, ["push", str(run), repo, *map(str, options)])

    return invoke


def pytest_configure(config: pytest.Config) -> None:
    """The client's own call of its HTTP library is no news here."""
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=<...>':DeprecationWarning")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what became of the failures, as the tables of docs/reliability.md."""
    for table in TABLES:
        terminalreporter.write_line("")
        for line in table.lines():
            terminalreporter.write_line(line)
