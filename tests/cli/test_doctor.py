"""`doctor` names the sampling settings that come with a model, and that they are not applied."""

import json
from pathlib import Path

import pytest

from sso_data.doctor import _generation_config

FINE = "asks for no other sampling than the defaults here"


@pytest.mark.parametrize(
    ("brought", "detail", "remedy"),
    [
        (None, FINE, ""),
        ({"eos_token_id": [1, 2], "pad_token_id": 0, "max_length": 20}, FINE, ""),
        ({"temperature": 0.7, "top_p": 0.8, "top_k": 0, "repetition_penalty": 1.0}, FINE, ""),
        ({"do_sample": True, "temperature": None, "min_p": 0, "typical_p": 1.0}, FINE, ""),
        (
            {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0},
            "temperature 0.6, top_p 0.95, top_k 20: not applied",
            "to sample like it: --set sampling.temperature=0.6 --set sampling.top_p=0.95 "
            "--set sampling.top_k=20",
        ),
        ({"temperature": 1.0}, "temperature 1.0: not applied", None),
        ({"min_p": 0.05}, "min_p 0.05: not applied", "--set sampling.min_p=0.05"),
        (
            {"do_sample": False, "repetition_penalty": 1.05},
            "do_sample False, repetition_penalty 1.05: not applied",
            "none needed",
        ),
    ],
)
def test_what_a_model_brings(
    tmp_path: Path, brought: dict[str, object] | None, detail: str, remedy: str | None
) -> None:
    if brought is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(brought))
    found = _generation_config(tmp_path)
    assert found.detail == detail
    assert found.state == ("ok" if detail == FINE else "warn")
    assert remedy is None or remedy in found.remedy


@pytest.mark.parametrize("content", ["{", "[]", "1"])
def test_an_unreadable_one_fails(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    assert _generation_config(tmp_path).state == "fail"
