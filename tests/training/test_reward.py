"""The reward model: the loss by hand, exact steps, and what it learns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sso_data.config.training import RewardConfig
from sso_data.core.errors import ModelError, TrainError
from sso_data.core.records import JsonRow
from sso_data.training.data import PairReader, reward_data
from sso_data.training.encode import EncodedRow
from sso_data.training.reward import (
    RewardTrainer,
    bradley_terry,
    load_reward_model,
    padding_id,
    reward_metrics,
)
from sso_data.world import policy_dir
from tests.training.models import arguments, classifier, random_rows


def trainer_of(folder: Path, rows: list[EncodedRow], **options: Any) -> RewardTrainer:
    config = RewardConfig(center_rewards_coefficient=options.pop("center_coefficient", 0.0))
    eval_rows = options.pop("eval_rows", None)
    return RewardTrainer(
        classifier(),
        arguments(folder, **options),
        config=config,
        rows=rows,
        eval_rows=eval_rows,
        pad_id=0,
    )


def weights(trainer: RewardTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_the_loss_by_hand() -> None:
    rewards = torch.tensor([[0.0, 0.0], [1.0, -1.0], [3.0, 1.0]], dtype=torch.float64)
    by_hand = [math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(-2))]
    assert bradley_terry(rewards).tolist() == pytest.approx(by_hand)
    centered = [by_hand[0], by_hand[1], by_hand[2] + 0.01 * 16]
    assert bradley_terry(rewards, 0.01).tolist() == pytest.approx(centered)


def test_the_gradient_raises_the_preferred_and_centering_fixes_the_constant() -> None:
    rewards = torch.tensor([[5.0, 4.0]], dtype=torch.float64, requires_grad=True)
    (plain,) = torch.autograd.grad(bradley_terry(rewards).sum(), rewards)
    p = 1 / (1 + math.e)
    assert plain[0].tolist() == pytest.approx([-p, p])
    (centered,) = torch.autograd.grad(bradley_terry(rewards, 0.5).sum(), rewards)
    assert centered[0].tolist() == pytest.approx([-p + 9, p + 9])
    assert torch.autograd.gradcheck(lambda r: bradley_terry(r, 0.3), rewards)
    assert bradley_terry(torch.tensor([[-500.0, 500.0]])).tolist() == [1000.0]


def test_metrics_of_each_row() -> None:
    rewards = torch.tensor([[2.0, 1.0], [0.0, 0.0], [-1.0, 1.0]])
    found = reward_metrics(rewards, torch.tensor([[3, 4], [5, 6], [7, 8]]))
    assert found["accuracy"].tolist() == [1.0, 0.5, 0.0]
    assert found["margin"].tolist() == [1.0, 0.0, -2.0]
    assert found["reward_chosen"].tolist() == [2.0, 0.0, -1.0]
    assert found["tokens_rejected"].tolist() == [4.0, 6.0, 8.0]


def test_a_reward_is_read_at_the_last_token_whatever_the_padding(tmp_path: Path) -> None:
    """A row's rewards alone equal its rewards beside longer rows; by hand from the hidden state."""
    rows = random_rows(5)
    trainer = trainer_of(tmp_path, rows)
    items = [trainer.train_dataset[index] for index in range(5)]
    together = trainer.rewards(trainer.model, trainer.data_collator(items))
    for index, item in enumerate(items):
        alone = trainer.rewards(trainer.model, trainer.data_collator([item]))
        torch.testing.assert_close(alone[0], together[index])
        ids = torch.tensor([[*item[1].prompts["plain"], *item[1].completions["good"]]])
        last = trainer.model.transformer(ids.long()).last_hidden_state[0, -1]
        torch.testing.assert_close(together[index, 0], trainer.model.score(last)[0])


def test_a_step_is_the_mean_over_its_rows_however_it_is_cut(tmp_path: Path) -> None:
    """7 rows in steps of 4 (the last one of 3): sizes and accumulation change nothing."""
    found = []
    for size, accumulation in ((4, 1), (2, 2), (1, 4)):
        trainer = trainer_of(
            tmp_path,
            random_rows(7),
            center_coefficient=0.05,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=2,
        )
        trainer.train()
        found.append((weights(trainer), trainer.state.log_history[:-1]))
    alone, history = found[0]
    for other, log in found[1:]:
        for name, weight in alone.items():
            torch.testing.assert_close(other[name], weight, rtol=1e-11, atol=1e-12)
        for one, two in zip(history, log, strict=True):
            names = [name for name in one if name not in {"grad_norm", "epoch"}]
            assert [two[name] for name in names] == pytest.approx([one[name] for name in names])
    assert {"loss", "accuracy", "margin", "reward_chosen", "reward_rejected"} <= set(history[0])


def test_a_loss_that_is_no_number_names_its_rows(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, random_rows(3))
    with torch.no_grad():
        trainer.model.score.weight.fill_(torch.inf)
    with pytest.raises(TrainError, match=r"step 1: .* rows row-"):
        trainer.train()


def test_trained_on_pairs_of_the_tiny_policy_it_ranks_held_out_ones(
    tmp_path: Path, reader: PairReader, tokenizer: Any, journal: list[JsonRow]
) -> None:
    """From `generate`'s rows to accuracy on prompts never seen; saved, it gives the same rewards
    through transformers' own classes and padding."""
    config = RewardConfig(center_rewards_coefficient=0.01)
    data = reward_data(journal, [], reader, config, eval_share=0.3)
    options = arguments(
        tmp_path,
        learning_rate=1e-3,
        optim="adamw_torch",
        max_steps=16,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=8,
    )
    model = load_reward_model(policy_dir(), tokenizer, seed=3)
    trainer = RewardTrainer(
        model,
        options,
        config=config,
        rows=data.rows,
        eval_rows=data.eval_rows,
        pad_id=model.config.pad_token_id,
        processing_class=tokenizer,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert len(data.eval_rows) >= 20
    assert after["eval_accuracy"] > 0.8 > before["eval_accuracy"]
    assert after["eval_margin"] > 1
    assert after["eval_margin"] == pytest.approx(
        after["eval_reward_chosen"] - after["eval_reward_rejected"], abs=1e-4
    )
    trainer.save_model(str(tmp_path / "saved"))
    assert list((tmp_path / "saved").glob("*.safetensors"))
    check_saved(tmp_path / "saved", trainer, data.eval_rows)


def check_saved(folder: Path, trainer: RewardTrainer, rows: Any) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sequences = [
        [*row.prompts["plain"].tolist(), *row.completions["good"].tolist()] for row in rows
    ]
    batch = tokenizer.pad({"input_ids": sequences}, return_tensors="pt", padding_side="right")
    assert model.config.num_labels == 1
    with torch.no_grad():
        found = model(**batch).logits[:, 0]
        ours = trainer.rewards(trainer.model.eval(), trainer.data_collator(list(enumerate(rows))))[
            :, 0
        ]
    torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-4)


def test_lora_trains_the_adapter_and_the_head(
    tmp_path: Path, reader: PairReader, tokenizer: Any, journal: list[JsonRow]
) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        load_reward_model(policy_dir(), tokenizer),
        peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"]),
    )
    data = reward_data(journal[:16], [], reader, RewardConfig())
    options = arguments(tmp_path, learning_rate=1e-2, optim="adamw_torch", max_steps=3)
    trainer = RewardTrainer(
        model,
        options,
        config=RewardConfig(),
        rows=data.rows,
        pad_id=tokenizer.pad_token_id,
    )
    trainer.train()
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any("score" in name for name in trained)
    assert all("lora_" in name or "score" in name for name in trained)
    assert trainer.state.log_history[2]["loss"] < trainer.state.log_history[0]["loss"]


def test_a_new_head_comes_from_the_seed(tokenizer: Any) -> None:
    one, same, other = (load_reward_model(policy_dir(), tokenizer, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.score.weight, same.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    assert one.config.pad_token_id == tokenizer.pad_token_id == padding_id(tokenizer)


def test_padding_is_not_eos_where_it_can_be_helped() -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy_dir())
    tokenizer.pad_token = tokenizer.eos_token
    assert padding_id(tokenizer) != tokenizer.eos_token_id
    model = load_reward_model(policy_dir(), tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_what_is_no_model_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_reward_model(tmp_path, tokenizer)
