"""The commands in this process, with an engine that answers at once, and the counts at the end."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.generation import generate
from tests.generation.scripted import ScriptedEngine
from tests.hostile.cases import Case, Place

Run = Callable[[Case], tuple[Result, Place]]
TRIED = pytest.StashKey[dict[tuple[str, str], int]]()


@pytest.fixture
def run_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Run]:
    def run(case: Case) -> tuple[Result, Place]:
        if not case.engine:
            monkeypatch.setattr(
                generate, "start_engine", lambda *_, **__: ScriptedEngine(context_tokens=4096)
            )
        tmp_path.chmod(0o777)
        place = Place(tmp_path)
        arguments = case.make(place)
        with case.surroundings():
            done = CliRunner().invoke(app, arguments)
        counts = request.config.stash.setdefault(TRIED, {})
        key = (case.area, case.outcome.outcome)
        counts[key] = counts.get(key, 0) + 1
        return done, place

    yield run


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Bad inputs tried, by area and outcome."""
    counts = config.stash.get(TRIED, {})
    if not counts:
        return
    terminalreporter.section("hostile inputs")
    for (area, outcome), count in sorted(counts.items()):
        terminalreporter.line(f"{area:<18} {outcome:<28} {count:>4}")
    terminalreporter.line(f"{'together':<47} {sum(counts.values()):>4}")
