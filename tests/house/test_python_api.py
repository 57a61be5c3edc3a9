"""The Python API: every public name can be imported whatever was imported before, and called."""

import inspect
import os
import pkgutil
import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import sso_data
from sso_data import api
from sso_data.core.errors import SsoDataError
from tests.waiting import CHILD_SECONDS

ROOT = Path(__file__).parents[2]
NAMES = [name for name in sso_data.__all__ if name != "__version__"]

IMPORT_ALL = """
import importlib, pkgutil, sso_data
for found in pkgutil.walk_packages(sso_data.__path__, "sso_data."):
    if found.name not in ("sso_data.__main__", "sso_data.engines.vllm"):
        importlib.import_module(found.name)
"""
USE_ALL = """
import sso_data
from sso_data import *
for name in sso_data.__all__:
    if name != "__version__":
        assert callable(getattr(sso_data, name)) and callable(globals()[name]), name
assert isinstance(load_config(), object)
try:
    generate("no-such-prompts.jsonl", "no-such-run", model="no-such-model")
except sso_data.core.errors.SsoDataError as error:
    print(type(error).__name__)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=CHILD_SECONDS,
    )


@pytest.mark.parametrize("code", [IMPORT_ALL + USE_ALL, USE_ALL + IMPORT_ALL + USE_ALL])
def test_every_public_name_works_before_and_after_every_submodule(code: str) -> None:
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"InputError"}


def test_import_is_as_light_as_help() -> None:
    heavy = ("torch", "transformers", "vllm", "datasets", "pyarrow", "numpy", "pydantic", "typer")
    done = run(f"import sys, sso_data; print([name for name in {heavy!r} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", sorted(set(api.__all__) - {"load_config"}))
def test_each_function_is_documented_and_takes_progress_none(name: str) -> None:
    function = getattr(sso_data, name)
    assert "Raises" in (function.__doc__ or "")
    parameters = inspect.signature(function).parameters
    if "progress" in parameters:
        assert parameters["progress"].default is None


MISTAKES: dict[str, tuple[Any, ...]] = {
    "generate": ("missing.jsonl", "out"),
    "filter_run": ("missing",),
    "train": ("missing", "out"),
    "evaluate": ("missing", "missing.jsonl", "out"),
    "iterate": ("missing.jsonl", "out"),
    "augment": ("missing.jsonl", "out.jsonl", 3),
    "export": ("missing", "trl", "out"),
    "push": ("missing", "me/data"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_function_answers_a_mistake_with_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = {"against": "missing"} if name == "evaluate" else {}
    with pytest.raises(SsoDataError) as refused:
        getattr(sso_data, name)(*MISTAKES[name], **more)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_model_is_not_pushed_with_the_options_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(SsoDataError, match="is a trained model; leave them out"):
        sso_data.push(tmp_path, "me/model", what="pairs")


@pytest.mark.parametrize("name", ["generate", "evaluate", "iterate", "augment"])
def test_prompts_are_not_written_where_the_configuration_is_wrong(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [["a prompt"] if str(one).startswith("missing.") else one for one in MISTAKES[name]]
    more = {"against": "missing"} if name == "evaluate" else {}
    with pytest.raises(SsoDataError, match="no_such_key"):
        getattr(sso_data, name)(*words, **more, config={"no_such_key": 1})
    assert not list(tmp_path.iterdir())


def test_a_configuration_of_another_kind_is_named() -> None:
    with pytest.raises(SsoDataError, match="config: is a list; give a file, a mapping or a RunCon"):
        sso_data.generate(["a prompt"], "run", model="m", config=[])  # type: ignore[arg-type]


def test_the_page_names_every_field_of_every_result() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 9
    for name, record, cell in rows:
        home = next(
            found
            for found in pkgutil.walk_packages(sso_data.__path__, "sso_data.")
            if name_defined(found.name, record)
        )
        known = [field.name for field in fields(getattr(import_module(home.name), record))]
        assert re.findall(r"`(\w+)`", cell) == known, name


def name_defined(module: str, record: str) -> bool:
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return file.is_file() and f"\nclass {record}:" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("read", [sso_data.read_rows, sso_data.read_pairs])
def test_reading_what_is_not_there_is_one_line(read: Any, tmp_path: Path) -> None:
    with pytest.raises(SsoDataError, match="sso-data"):
        next(iter(read(tmp_path / "missing")))


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 6
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert set(re.findall(r"\b(\w+)\(", page)) >= set(NAMES) - {"Row"}


def test_a_script_without_a_guard_starts_its_engine_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('started')\n"
        "from sso_data import generate\n"
        "from sso_data.demo import demo_config\n"
        "engine = demo_config().engine.model_copy(update={'isolation': 'subprocess'})\n"
        "config = demo_config().model_copy(update={'engine': engine})\n"
        "run = generate(['Describe a small boat.'], 'run', config=config)\n"
        "print(run.account.prompts)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=CHILD_SECONDS,
    )
    assert done.stdout.split() == ["started", "1"], done.stderr
