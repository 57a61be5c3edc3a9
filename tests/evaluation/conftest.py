"""The tiny policy, a spoilt copy of it, prompts, and the `eval` command in this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.world import catalogue_dir, policy_dir, queries

SETTINGS = (
    f"--principles={catalogue_dir()}",
    "--engine=transformers",
    "--set=generate.engine.isolation=inline",
    "--set=generate.engine.dtype=float32",
    "--set=generate.sampling.max_tokens=96",
)
Eval = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny policy with noise on its weights: it still talks, and worse."""
    folder = tmp_path_factory.mktemp("spoilt") / "spoilt"
    shutil.copytree(policy_dir(), folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    generator = torch.Generator().manual_seed(1)
    for name, weight in weights.items():
        noise = torch.randn(weight.shape, generator=generator) * weight.float().std() * 0.6
        weights[name] = (weight.float() + noise).to(weight.dtype)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def write_prompts(file: Path, texts: list[Any]) -> Path:
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return file


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve held-out queries, one of them twice."""
    texts = queries(11, seed=31, held_out=True)
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    return write_prompts(file, [*texts, texts[0]])


@pytest.fixture(scope="session")
def made(spoilt: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation of the policy against the spoilt one by the oracle; do not touch."""
    out = tmp_path_factory.mktemp("made") / "eval"
    arguments = ["eval", policy_dir(), "--against", spoilt, *SETTINGS]
    arguments += ["--prompts", prompts, "--judge=oracle", "--out", out]
    told = done(CliRunner().invoke(app, [str(argument) for argument in arguments]))
    (out.parent / "told").write_text(told.output)
    return out


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "eval"))


@pytest.fixture
def evaluated(spoilt: Path) -> Eval:
    """`sso-data eval POLICY --against SPOILT` with options."""

    def invoke(*options: object, model: object = policy_dir(), against: object = spoilt) -> Result:
        arguments = ["eval", model, "--against", against, *SETTINGS, *options]
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def done(result: Result, code: int = 0) -> Result:
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
