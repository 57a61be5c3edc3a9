"""The built wheel works in an empty environment, run from `/`: all it reads travels along."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.once import once

ROOT = Path(__file__).parents[2]


def call(*arguments: object, cwd: Path | str = "/", **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:

    def make(folder: Path) -> None:
        call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)

    (built,) = once(tmp_path_factory, "dist", make).glob("*.whl")
    return built


def test_the_wheel_carries_what_is_read_at_run_time(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("principles", "templates", "examples/recipes", "examples/accelerate"):
        for file in filter(Path.is_file, (ROOT / folder).rglob("*")):
            assert f"sso_data/_shipped/{file.relative_to(ROOT)}" in names
    assert "sso_data/world/policy/model.safetensors" in names
    assert "sso_data/world/data/prompts.jsonl" in names
    assert "sso_data/py.typed" in names
    assert not any(name.startswith(("tests/", "benchmarks/", "tools/")) for name in names)
    world = {Path(name) for name in names if name.startswith("sso_data/world/")}
    modules = {file.stem for file in world if file.suffix == ".py"}
    assert modules == {"__init__", "lexicon", "oracle", "query"}, "what trains is in tools/"


def test_the_sdist_carries_what_tests_and_tools_need(tmp_path: Path) -> None:
    call(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ("tools/tiny_world/train_policy.py", "benchmarks/train.py", "tests/conftest.py")
    assert names >= {*needed, "zensical.toml", ".ci/newest.py", "docs/site.py"}
    assert names >= {"Makefile", "sso_data/world/policy/model.safetensors"}


_RECIPES = """
from pathlib import Path
from sso_data.config.recipes import load_recipe, recipe_names
print("llama3.1-8b-sft-sso" in recipe_names())
whole, tiny = load_recipe("llama3.1-8b-sft-sso"), load_recipe("llama3.1-8b-sft-sso", tiny=True)
print(Path(whole["launcher"][-1]).is_file(), Path(tiny["model"]).is_dir())
print("_shipped" in whole["launcher"][-1])
"""


@pytest.mark.slow
def test_installed_into_an_empty_venv_it_runs_from_the_root(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    uv = Path(sys.executable).with_name("uv")
    call(uv, "venv", "--quiet", "--python", sys.executable, venv)
    python = venv / "bin" / "python"
    call(uv, "pip", "install", "--quiet", "--python", python, wheel, "torch==2.13.0")
    command = venv / "bin" / "sso-data"
    assert "Helpfulness" in call(command, "principles", "list")
    assert call(python, "-c", _RECIPES).split() == ["True"] * 4
    assert call(python, "-c", "import sso_data; print(sso_data.__file__)").startswith(str(venv))
    result = json.loads(call(command, "demo", "-n", "16", "--json"))
    assert result["account"] == {
        "prompts": 16,
        "rows": 16,
        "failed": 0,
        "samples": 1,
        "elsewhere": 0,
    }
