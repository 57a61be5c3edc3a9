"""Parity with TRL's losses on the same tokens and the same weights."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sso_data.config.training import LossConfig, RewardConfig
from sso_data.core.records import JsonRow
from sso_data.models.head import IGNORED, CompletionScorer
from sso_data.training.data import PairReader, reward_data
from sso_data.training.loss import log_odds, means, preference_loss
from sso_data.training.reward import bradley_terry, load_reward_model
from sso_data.world import policy_dir

trl = pytest.importorskip("trl")

CLOSE = 1e-5


@pytest.fixture
def moved(policy: Any) -> Any:
    """A policy somewhat away from its reference."""
    torch.manual_seed(1)
    found = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    return found


def sides(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Our totals (nats) and token counts [B, S] of a TRL batch: chosen rows first."""
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
    nats = CompletionScorer(model).totals(
        model, inputs["input_ids"], inputs["attention_mask"], labels
    )
    return nats.view(2, -1).T, inputs["completion_mask"].sum(-1).view(2, -1).T


def trl_dpo(
    tmp_path: Path, model: Any, reference: Any, tokenizer: Any, rows: list[JsonRow], **options: Any
) -> Any:
    from datasets import Dataset

    names = ("prompt", "chosen", "rejected")
    return trl.DPOTrainer(
        model=model,
        ref_model=reference,
        args=trl.DPOConfig(
            output_dir=str(tmp_path),
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


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        ("sigmoid", {"type": "dpo", "beta": 0.1}),
        ("hinge", {"type": "hinge", "beta": 0.05}),
        ("robust", {"type": "robust", "beta": 0.1, "label_smoothing": 0.1}),
        ("ipo", {"type": "ipo", "beta": 0.2}),
    ],
)
def test_dpo_trainer(
    tmp_path: Path,
    moved: Any,
    policy: Any,
    tokenizer: Any,
    journal: list[JsonRow],
    kind: str,
    ours: dict[str, Any],
) -> None:
    trainer = trl_dpo(
        tmp_path,
        moved,
        policy,
        tokenizer,
        journal[:8],
        loss_type=[kind],
        beta=ours["beta"],
        label_smoothing=ours.get("label_smoothing", 0.0),
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    assert len(inputs["input_ids"]) == 16
    theirs = trainer.compute_loss(moved, inputs)
    nats, tokens = sides(moved, inputs)
    with torch.no_grad():
        ref, _ = sides(policy, inputs)
    config = LossConfig(objective="pairs", **ours)
    found = preference_loss(nats, ref, tokens, config).mean()
    torch.testing.assert_close(found, theirs, rtol=CLOSE, atol=CLOSE)
    wanted = torch.autograd.grad(theirs, list(moved.parameters()))
    gradient = torch.autograd.grad(found, list(moved.parameters()))
    for one, other in zip(gradient, wanted, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()) + 1e-6
        )


def test_trl_sees_the_same_tokens_as_our_reader_of_external_rows(
    tmp_path: Path, policy: Any, tokenizer: Any, journal: list[JsonRow], encoder: Any
) -> None:
    trainer = trl_dpo(tmp_path, policy, None, tokenizer, journal[:8])
    encoder.terms = ("base",)
    names = ("prompt", "chosen", "rejected")
    ours = encoder.encode([{name: row[name] for name in names} for row in journal[:8]])
    for row, theirs in zip(ours, trainer.train_dataset, strict=True):
        assert row.prompts["plain"].tolist() == theirs["prompt_ids"]
        assert row.completions["good"].tolist() == theirs["chosen_ids"]
        assert row.completions["bad"].tolist() == theirs["rejected_ids"]


def averages(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Mean log-probs [B, S] as TRL's CPO and ORPO trainers compute them from full logits."""
    from trl.experimental.orpo import ORPOTrainer

    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    found: Tensor = ORPOTrainer.get_batch_logps(logits, batch["labels"], average_log_prob=True)
    return found.view(2, -1).T


@pytest.fixture
def batch(encoded: Any) -> dict[str, Tensor]:
    from sso_data.training.batch import Collator

    collate = Collator(terms=("base",), pad_id=0)
    found: dict[str, Tensor] = collate(list(enumerate(encoded[:8])))["base"]
    return found


def ours_of(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    columns = (batch[name] for name in ("input_ids", "attention_mask", "labels"))
    nats = CompletionScorer(model).totals(model, *columns)
    return nats.view(2, -1).T, (batch["labels"] != IGNORED).sum(-1).view(2, -1).T


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 0.5), (0.2, 1.0)])
def test_simpo(moved: Any, batch: dict[str, Tensor], beta: float, gamma: float) -> None:
    from trl.experimental.cpo import CPOTrainer

    theirs = averages(moved, batch)
    trainer = SimpleNamespace(
        alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
        loss_type="simpo",
        simpo_gamma=gamma,
        beta=beta,
        label_smoothing=0.0,
    )
    expected, _, _ = CPOTrainer.cpo_loss(trainer, theirs[:, 0], theirs[:, 1])
    config = LossConfig(objective="pairs", type="simpo", beta=beta, simpo_gamma=gamma)
    nats, tokens = ours_of(moved, batch)
    found = preference_loss(nats, None, tokens, config)
    torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE)


def test_the_odds_ratio_of_orpo(moved: Any, batch: dict[str, Tensor]) -> None:
    """Of ORPO only this part: TRL's likelihood term covers the prompt, too."""
    from trl.experimental.orpo import ORPOTrainer

    theirs = averages(moved, batch)
    trainer = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    expected, *_ = ORPOTrainer.odds_ratio_loss(trainer, theirs[:, 0], theirs[:, 1])
    nats, tokens = ours_of(moved, batch)
    config = LossConfig(objective="pairs", type="orpo", beta=0.3)
    s = means(nats, tokens)
    torch.testing.assert_close(s, theirs, rtol=CLOSE, atol=CLOSE)
    part = preference_loss(nats, None, tokens, config) + s[:, 0]
    torch.testing.assert_close(part, -expected, rtol=CLOSE, atol=CLOSE)
    odds = log_odds(s)
    assert odds.isfinite().all()


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


@pytest.mark.parametrize("center_coefficient", [None, 0.01])
def test_the_reward_loss_and_its_gradient(
    tmp_path: Path,
    reader: PairReader,
    tokenizer: Any,
    journal: list[JsonRow],
    center_coefficient: float | None,
) -> None:
    """Their batch through their `compute_loss`; the same rows through ours."""
    model = load_reward_model(policy_dir(), tokenizer, seed=4)
    theirs_of = trl_reward(
        tmp_path, model, tokenizer, journal[:8], center_rewards_coefficient=center_coefficient
    )
    inputs = next(iter(theirs_of.get_train_dataloader()))
    theirs = theirs_of.compute_loss(model, dict(inputs))
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    ours = bradley_terry(logits.view(2, -1).T, center_coefficient or 0.0).mean()
    torch.testing.assert_close(ours, theirs, rtol=CLOSE, atol=CLOSE)
    wanted = torch.autograd.grad(theirs, list(model.parameters()))
    found = torch.autograd.grad(ours, list(model.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=CLOSE, atol=CLOSE)


def test_the_reward_sequences_are_the_same(
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
