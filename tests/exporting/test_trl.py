"""TRL on exported files: it knows every key of the recipe, sees our tokens, takes a step."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sso_data.config.training import TrainConfig
from sso_data.core.records import Row
from sso_data.exporting.export import export
from sso_data.templating.chat_template import load_tokenizer
from sso_data.world import policy_dir, queries
from tests.exporting.making import asking, lines_of, make_run

trl = pytest.importorskip("trl")

EOS = 2
SAYINGS = (
    "First, measure the space. Then saw the boards. Last, drive the screws.",
    "Well, there is much to say here. That is all.",
    "You can ask a friend to help you.",
)


def policy_rows(count: int) -> list[Row]:
    """Rows of queries of the tiny world, with ids as the tiny policy's tokenizer gives them."""
    tokenizer = load_tokenizer(policy_dir())
    rows = []
    for index, query in enumerate(queries(count, seed=3)):
        row = asking(index, ("user", query))
        responses = {}
        for place, (view, response) in enumerate(row.responses.items()):
            text = SAYINGS[(index + place) % 3]
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            responses[view] = type(response)(text=text, token_ids=(*ids, EOS), finish_reason="stop")
        means = {cell: nats / 8 for cell, nats in row.logp.items()}
        logp = {cell: mean * responses[cell[1]].num_tokens for cell, mean in means.items()}
        rows.append(asking(index, ("user", query), responses=responses, logp=logp))
    return rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", policy_rows(12), model=str(policy_dir()))


def arguments(config: Path, folder: Path) -> Any:
    """What `trl dpo --config` makes of the recipe, with what a CPU and two steps need."""
    from trl.scripts.dpo import make_parser

    words = ["--config", str(config), "--use_cpu", "true", "--bf16", "false", "--max_steps", "1"]
    words += ["--output_dir", str(folder), "--gradient_accumulation_steps", "1"]
    words += ["--disable_tqdm", "true", "--save_strategy", "no"]
    return make_parser().parse_args_and_config(words, fail_with_unknown_args=True)


def test_trl_knows_every_key_of_the_recipe(run: Path, tmp_path: Path) -> None:
    export(run, "trl", tmp_path / "out")
    _, training, model, data = arguments(tmp_path / "out" / "dpo.yaml", tmp_path / "model")
    train = TrainConfig()
    assert training.loss_type == ["ipo"]
    assert (training.beta, training.learning_rate) == (train.loss.beta, train.optim.lr)
    assert training.warmup_steps == 0, "12 pairs are one step: a warm-up would make its rate 0"
    assert model.model_name_or_path == str(policy_dir())
    assert data.datasets[0].data_files == str(tmp_path / "out" / "train.jsonl")
    spoilt = yaml.safe_load((tmp_path / "out" / "dpo.yaml").read_text()) | {"betta": 0.2}
    (tmp_path / "spoilt.yaml").write_text(yaml.safe_dump(spoilt))
    with pytest.raises(ValueError, match="betta"):
        arguments(tmp_path / "spoilt.yaml", tmp_path / "model")


def test_the_recipe_takes_one_step(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script of `trl dpo` itself, on the exported file: IPO starts at (1 / 2 beta)^2."""
    from trl.scripts import dpo

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    export(run, "trl", tmp_path / "out")
    made: list[Any] = []
    real = trl.DPOTrainer.train
    monkeypatch.setattr(
        trl.DPOTrainer,
        "train",
        lambda self, **named: (made.append(self), real(self, **named))[1],  # type: ignore[func-returns-value]
    )
    dpo.main(*arguments(tmp_path / "out" / "dpo.yaml", tmp_path / "model"))
    (trainer,) = made
    assert trainer.state.global_step == 1
    first = next(line for line in trainer.state.log_history if "loss" in line)
    assert float(first["loss"]) == pytest.approx((1 / (2 * 0.2)) ** 2, abs=1e-3)
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert_our_tokens(trainer.train_dataset, run)


@pytest.mark.parametrize("source", ["export", "pairs"])
def test_dpo_trainer_sees_the_tokens_that_were_sampled(
    run: Path, tmp_path: Path, source: str
) -> None:
    """The exported file, and the run's own pairs/train.jsonl, as they are."""
    from datasets import load_dataset

    export(run, "trl", tmp_path / "out")
    folder = tmp_path / "out" if source == "export" else run / "pairs"
    dataset = load_dataset(
        "json",
        data_files=str(folder / "train.jsonl"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    trainer = trl.DPOTrainer(
        model=str(policy_dir()),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "model"),
            use_cpu=True,
            bf16=False,
            report_to="none",
            max_length=None,
            max_steps=1,
            per_device_train_batch_size=4,
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=dataset,
    )
    assert_our_tokens(trainer.train_dataset, run)
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    trainer.train()
    after = list(trainer.model.parameters())
    assert any((one != other).any() for one, other in zip(before, after, strict=True))


def assert_our_tokens(dataset: Any, run: Path) -> None:
    """TRL's completion ids are the ids of our rows, row by row."""
    rows = lines_of(run / "pairs" / "train.jsonl")
    assert len(dataset) == len(rows) > 0
    for found, row in zip(dataset, rows, strict=True):
        assert found["chosen_ids"] == row["chosen_token_ids"]
        assert found["rejected_ids"] == row["rejected_token_ids"]


def test_template_arguments_reach_the_template(tmp_path: Path) -> None:
    """TRL passes `chat_template_kwargs` on, so that it renders the prompt that was sampled from."""
    from trl.data_utils import apply_chat_template

    tokenizer = load_tokenizer(policy_dir())
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>"
        "{{ '' if enable_thinking else '<think></think>' }}{% endif %}"
    )
    row = asking(0, ("user", "Hi"), template_kwargs='{"enable_thinking": false}')
    run = make_run(tmp_path / "run", [row])
    export(run, "trl", tmp_path / "out")
    example = json.loads((tmp_path / "out" / "train.jsonl").read_text())
    prompt = {name: example[name] for name in ("prompt", "chat_template_kwargs")}
    found = apply_chat_template(prompt, tokenizer)["prompt"]
    assert found == "<user>Hi<assistant><think></think>"
