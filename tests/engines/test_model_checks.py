"""What would fail at the end of the work is found at its start."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sso_data.config.run import EngineConfig, ViewsConfig
from sso_data.core.errors import ModelError, RunError
from sso_data.models.checks import check_model, check_space, check_trainable, weight_formats
from sso_data.models.facts import ModelFacts, read_model_facts
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer
from sso_data.world import policy_dir


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    return ChatTemplate(load_tokenizer(policy_dir()), ViewsConfig(), today="2026-02-03")


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return read_model_facts(policy_dir(), EngineConfig())


def weights(folder: Path, **formats: str) -> Path:
    """A model directory whose tensors, of 1000 numbers each, are in these formats."""
    sizes = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
    header: dict[str, Any] = {"__metadata__": {}}
    at = 0
    for name, kind in formats.items():
        end = at + 1000 * sizes[kind]
        header[name] = {"dtype": kind, "shape": [10, 100], "data_offsets": [at, end]}
        at = end
    head = json.dumps(header).encode()
    data = len(head).to_bytes(8, "little") + head + bytes(at)
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_sound_model(template: ChatTemplate, facts: ModelFacts) -> None:
    assert check_model(policy_dir(), template, facts) == []
    check_trainable(policy_dir())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"vocab_size": 2}, r"uses the token .* and the model has 2 embeddings"),
        ({"context": 17}, r"its context of 17 tokens is too small"),
    ],
)
def test_a_template_that_the_model_has_no_room_for(
    template: ChatTemplate, facts: ModelFacts, changed: dict[str, Any], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        check_model(policy_dir(), template, replace(facts, **changed))


def test_quantized_weights_cannot_be_trained(tmp_path: Path) -> None:
    check_trainable(weights(tmp_path, a="BF16", b="F32"))
    with pytest.raises(ModelError, match=r"quantized \(F8_E4M3\)"):
        check_trainable(weights(tmp_path, a="BF16", b="F8_E4M3"))
    weights(tmp_path, a="BF16")
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(ModelError, match=r"quantized \(gptq\)"):
        check_trainable(tmp_path)


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize(
    ("free", "outcome"), [(3_999, "refused"), (4_000, "warned"), (51_999, "warned"), (52_000, "")]
)
def test_the_space_for_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, outcome: str
) -> None:
    """2000 numbers: 4000 bytes in bfloat16, and two checkpoints of 12 bytes each number."""
    model = weights(tmp_path, a="F32", b="F32")
    assert weight_formats(model) == {"F32": 2000}
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(free=free))
    out = tmp_path / "not" / "there"
    if outcome == "refused":
        with pytest.raises(RunError, match="free some space"):
            check_space(model, out, saved_bytes=2, checkpoints=2)
    else:
        found = check_space(model, out, saved_bytes=2, checkpoints=2)
        assert bool(found) == (outcome == "warned")
