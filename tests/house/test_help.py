"""Help is fast and complete: no heavy import, an example for every command, all of it in docs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from sso_data import __version__
from sso_data.cli import app

HEAVY = ("torch", "transformers", "vllm", "datasets", "pyarrow", "numpy", "pydantic")
ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "sso_data", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [(name, sub) for sub in inner] if inner else [(name,)]
    return found


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from sso_data.cli import app
try:
    app(["--help"])
except SystemExit:
    pass
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print("heavy:", heavy, file=sys.stderr)
sys.exit(bool(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert f"Example: sso-data {' '.join(command)}" in re.sub(r"\s+", " ", done.stdout)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_is_on_a_page_that_somebody_wrote(command: tuple[str, ...]) -> None:
    pages = set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "commands.md"}
    assert any(f"sso-data {command[0]} " in page.read_text(encoding="utf-8") for page in pages)


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"sso-data {__version__}\n")


def test_shell_completion_can_be_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sso_data", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert done.returncode == 0
    assert "complete" in done.stdout


@pytest.mark.parametrize("arguments", [("generate",), ("nonsense",), ("filter", "--presets")])
def test_usage_errors_exit_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2
