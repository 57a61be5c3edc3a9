"""The recipes: valid in their languages whatever the names are, with the settings of `train`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sso_data.config.training import TrainConfig
from sso_data.exporting.export import export
from sso_data.exporting.formats import FORMATS
from tests.exporting.making import asking, make_run

TRAINERS = ("trl", "llama-factory", "axolotl", "openrlhf", "sso", "autoalign")
TRAIN = TrainConfig()
NASTY = "models/a 'b' \"c\" $(touch owned) `d` #e: [f] {g} é🦆\n--evil"


def recipe_of(run: Path, to: str, out: Path) -> tuple[Path, str]:
    export(run, to, out)
    (name,) = FORMATS[to].recipes
    return out / name, (out / name).read_text(encoding="utf-8")


def yaml_of(run: Path, to: str, out: Path) -> dict[str, Any]:
    content = yaml.safe_load(recipe_of(run, to, out)[1])
    assert isinstance(content, dict)
    return content


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", [asking(n, ("user", f"Question {n}")) for n in range(3)])


OPTIMIZER = {
    "learning_rate": TRAIN.optim.lr,
    "adam_beta1": TRAIN.optim.beta1,
    "adam_beta2": TRAIN.optim.beta2,
    "weight_decay": TRAIN.optim.weight_decay,
    "seed": TRAIN.seed,
}
"""What every recipe in YAML must say, under these names."""


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        (
            "trl",
            {
                "model_name_or_path": "test/model",
                "loss_type": "ipo",
                "beta": TRAIN.loss.beta,
                "max_length": TRAIN.sequence.max_length,
                "warmup_steps": 0,
                "num_train_epochs": TRAIN.optim.epochs,
            },
        ),
        (
            "llama-factory",
            {
                "model_name_or_path": "test/model",
                "pref_loss": "ipo",
                "pref_beta": TRAIN.loss.beta,
                "cutoff_len": TRAIN.sequence.max_length,
                "warmup_ratio": 0,
                "dataset": "pairs",
            },
        ),
        (
            "axolotl",
            {
                "base_model": "test/model",
                "rl": "dpo",
                "dpo_loss_type": ["ipo"],
                "rl_beta": TRAIN.loss.beta,
                "sequence_len": TRAIN.sequence.max_length,
                "warmup_ratio": 0,
            },
        ),
        (
            "sso",
            {
                "SSO": True,
                "pref_loss": TRAIN.loss.type,
                "pref_beta": TRAIN.loss.beta,
                "W_function": TRAIN.loss.use_w,
                "W_alpha": TRAIN.loss.alpha,
                "G_function": TRAIN.loss.use_g,
                "G_beta": TRAIN.loss.g,
            },
        ),
    ],
)
def test_the_settings_are_those_of_train(
    run: Path, tmp_path: Path, to: str, expected: dict[str, Any]
) -> None:
    found = yaml_of(run, to, tmp_path / to)
    assert {key: found.get(key) for key in expected} == expected
    assert {key: found.get(key) for key in OPTIMIZER} == OPTIMIZER
    rows = [value for key, value in found.items() if "batch_size" in key or "accumul" in key]
    micro = found.get("micro_batch_size", found.get("per_device_train_batch_size"))
    assert micro == TRAIN.optim.micro_batch_rows
    assert found["gradient_accumulation_steps"] * micro == TRAIN.optim.batch_size
    assert len(rows) == 2


def test_openrlhf_says_that_its_beta_is_not_ours(run: Path, tmp_path: Path) -> None:
    _, text = recipe_of(run, "openrlhf", tmp_path / "out")
    assert "takes the sum of a response's log-probs" in text
    assert "So its beta is not ours: ours is 0.2, and 0.025" in text  # responses of 8 tokens
    assert "BETA=${BETA:-0.025}" in text
    for flag in ("--model.ipo_enable", "--data.apply_chat_template", "--adam.betas 0.9 0.95"):
        assert flag in text


@pytest.mark.parametrize("to", TRAINERS)
def test_names_cannot_break_a_recipe(tmp_path: Path, to: str) -> None:
    """Names of models, revisions and directories are values, whatever stands in them."""
    quoted = json.dumps(NASTY, ensure_ascii=False)
    settings = [f"engine.revision={quoted}", f"engine.adapter={quoted}"]
    rows = [asking(0, ("user", "a"))]
    run = make_run(tmp_path / "run", rows, model=NASTY, settings=settings)
    out = tmp_path / 'o\'ut $(x) "é" #'
    file, text = recipe_of(run, to, out)
    if file.suffix == ".sh":
        assert run_script(file, tmp_path)[:2] == [NASTY, f"{out}-model"]
        assert not list(tmp_path.rglob("owned"))
        return
    found = yaml.safe_load(text)
    assert NASTY in (found.get("model_name_or_path"), found.get("base_model"))
    assert found["output_dir"] == f"{out}-model"
    plain = make_run(tmp_path / "plain", rows, settings=["engine.revision=main"])
    assert found.keys() == yaml_of(plain, to, tmp_path / "other").keys()


def run_script(file: Path, folder: Path) -> list[str]:
    """Run a recipe with stand-ins for the programs it starts: their model, output and the rest."""
    fake = folder / "bin"
    fake.mkdir()
    for name in ("deepspeed", "autoalign-cli"):
        (fake / name).write_text('#!/bin/bash\nprintf "%s\\0" "$MODEL" "$OUT" "$PWD" "$@"\n')
        (fake / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f'set -a; PATH="{fake}:$PATH"; TEMPLATE=chatml; source "$0"', str(file)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.decode().split("\0")
    assert words[2] == str(file.parent)
    return words


def test_scripts_read_the_files_that_are_there(run: Path, tmp_path: Path) -> None:
    file, _ = recipe_of(run, "openrlhf", tmp_path / "orl")
    words = run_script(file, tmp_path)
    assert words[words.index("--data.dataset") + 1] == "train.jsonl"
    (tmp_path / "bin").rename(tmp_path / "used")
    file, _ = recipe_of(run, "autoalign", tmp_path / "aa")
    words = run_script(file, tmp_path)
    assert words[words.index("--data_path") + 1] == "sso.json"
    assert words[3] == "sso"


def test_what_the_template_was_told_is_said(tmp_path: Path) -> None:
    kwargs = {"enable_thinking": False, "mode": "x\n# y"}
    rows = [asking(0, ("user", "a"), template_kwargs=json.dumps(kwargs))]
    template = {"template_kwargs": kwargs, "date": "2026-03-01"}
    run = make_run(tmp_path / "run", rows, template=template)
    for to in ("trl", "llama-factory", "axolotl", "openrlhf"):
        _, text = recipe_of(run, to, tmp_path / to)
        assert "the rows were sampled on 2026-03-01" in text
        if to in ("axolotl", "openrlhf"):
            assert '"enable_thinking": false' in text
    assert yaml_of(run, "llama-factory", tmp_path / "lf")["enable_thinking"] is False
    columns = yaml_of(run, "trl", tmp_path / "trl2")["datasets"][0]["columns"]
    assert columns == ["prompt", "chosen", "rejected", "chat_template_kwargs"]


def test_a_local_model_is_named_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "first").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run", [asking(0, ("user", "a"))], model="models/first")
    found = yaml_of(run, "trl", tmp_path / "out")
    assert found["model_name_or_path"] == str(tmp_path / "models" / "first")
    assert found["datasets"][0]["data_files"] == str(tmp_path / "out" / "train.jsonl")


@pytest.mark.parametrize(
    ("model", "expected"),
    [("Qwen/Qwen2-7B", "qwen"), ("meta-llama/Llama-3.1-8B", "llama3"), ("org/other", None)],
)
def test_the_published_script_names_the_template_by_the_model(
    tmp_path: Path, model: str, expected: str | None
) -> None:
    run = make_run(tmp_path / "run", [asking(0, ("user", "a"))], model=model)
    assert yaml_of(run, "sso", tmp_path / "out").get("template") == expected
