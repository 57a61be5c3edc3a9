"""Parity with TRL's RewardTrainer on the same weights: tokens, loss, gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sso_data.config.reward import RewardConfig
from sso_data.core.records import JsonRow
from sso_data.training.data import PairReader, reward_data
from sso_data.training.reward import bradley_terry, load_reward_model
from sso_data.world import policy_dir

trl = pytest.importorskip("trl")

CLOSE = 1e-5


def trl_reward(
    folder: Path, model: Any, tokenizer: Any, rows: list[JsonRow], **options: Any
) -> Any:
    from datasets import Dataset

    names = ("prompt", "chosen", "rejected")
    return trl.RewardTrainer(
        model=model,
        args=trl.RewardConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            report_to="none",
            per_device_train_batch_size=8,
            max_length=None,
            gradient_checkpointing=False,
            **options,
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{name: row[name] for name in names} for row in rows]),
    )


@pytest.mark.parametrize("centre", [None, 0.01])
def test_the_loss_and_its_gradient(
    tmp_path: Path,
    reader: PairReader,
    tokenizer: Any,
    journal: list[JsonRow],
    centre: float | None,
) -> None:
    """Their batch through their `compute_loss`; the same rows through ours."""
    model = load_reward_model(policy_dir(), tokenizer, seed=4)
    theirs_of = trl_reward(
        tmp_path, model, tokenizer, journal[:8], center_rewards_coefficient=centre
    )
    inputs = next(iter(theirs_of.get_train_dataloader()))
    theirs = theirs_of.compute_loss(model, dict(inputs))
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    ours = bradley_terry(logits.view(2, -1).T, centre or 0.0).mean()
    torch.testing.assert_close(ours, theirs, rtol=CLOSE, atol=CLOSE)
    wanted = torch.autograd.grad(theirs, list(model.parameters()))
    found = torch.autograd.grad(ours, list(model.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=CLOSE, atol=CLOSE)


def test_the_sequences_are_the_same(
    tmp_path: Path, reader: PairReader, tokenizer: Any, journal: list[JsonRow]
) -> None:
    """Up to EOS: what a template writes after it (nothing here) is no part of ours."""
    model = load_reward_model(policy_dir(), tokenizer)
    theirs = trl_reward(tmp_path, model, tokenizer, journal[:8]).train_dataset
    ours = reward_data(journal[:8], [], reader, RewardConfig()).rows
    for row, other in zip(ours, theirs, strict=True):
        prompt = row.prompts["plain"].tolist()
        assert prompt + row.completions["good"].tolist() == other["chosen_ids"]
        assert prompt + row.completions["bad"].tolist() == other["rejected_ids"]
