"""The front door: names, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

from sso_data.config.run import EngineConfig
from sso_data.engines import resolve_name
from sso_data.engines.requests import checked_total


def test_importing_the_engines_imports_no_heavy_library() -> None:
    code = (
        "import sys, sso_data.engines, sso_data.engines.child\n"
        "print(sorted({'torch', 'transformers', 'vllm', 'peft'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert run.stdout.strip() == "[]"


def test_auto_is_vllm_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert resolve_name(EngineConfig()) == "vllm"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert resolve_name(EngineConfig()) == "transformers"
    assert resolve_name(EngineConfig(name="vllm")) == "vllm"


def test_a_total_is_finite_and_at_most_zero() -> None:
    assert checked_total([-1.0, -2.5]) == -3.5
    assert checked_total([5e-7]) == 0.0
    for wrong in ([-1.0, 1.1], [float("nan")], [float("-inf")]):
        assert isinstance(checked_total(wrong), str)
