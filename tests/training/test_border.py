"""The border: rows that `generate` wrote are read, reach the loss and teach the tiny policy."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sso_data.config.training import LossConfig, ReferenceConfig
from sso_data.core.records import JsonRow
from sso_data.training.encode import EncodedRow, Encoder
from sso_data.training.loss import terms_of
from sso_data.training.reference import model_scorer, resolve_references
from tests.training.test_trainer import batch_of, make_trainer


@pytest.mark.parametrize("base", ["ipo", "dpo"])
def test_at_step_0_every_margin_is_0(
    tmp_path: Path, policy: Any, encoded: list[EncodedRow], base: Any
) -> None:
    """D = 0 in all six cells, so the first loss is known: (1 + 2 g mean W) * l(0)."""
    loss = LossConfig(type=base)
    scorer = model_scorer(policy, terms_of(loss).names, pad_id=0)
    rows, report = resolve_references(encoded, scorer, loss, ReferenceConfig(mode="strict"))
    assert report.source == "recorded"
    trainer = make_trainer(
        tmp_path,
        rows,
        model=policy,
        loss=loss,
        max_steps=1,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=4,
    )
    trainer.train()
    first = trainer.state.log_history[0]
    for name in ("base", "good", "bad"):
        assert abs(first[f"margin_{name}"]) < 2e-4
    at_zero = 1 / (4 * 0.2**2) if base == "ipo" else math.log(2)
    assert first["loss_base"] == pytest.approx(at_zero, rel=1e-4)
    assert first["loss"] == pytest.approx(at_zero * (1 + 0.2 * first["weight"]), rel=1e-4)
    recorded = [row.ref_CS[0, 0] / len(row.completions["good"]) for row in rows]
    assert min(recorded) < first["logp_chosen"] < max(recorded)


def test_a_few_steps_prefer_chosen_to_rejected(
    tmp_path: Path, policy: Any, encoder: Encoder, pairs: list[JsonRow]
) -> None:
    """On the kept pairs, as exported: chosen over rejected under the plain and the good view."""
    trainer = make_trainer(
        tmp_path,
        encoder.encode(pairs),
        model=policy,
        max_steps=4,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=5e-4,
        optim="adamw_torch",
    )
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ("base", "good"):
        assert history[-1][f"margin_{name}"] > 0.03
        assert history[-1][f"accuracy_{name}"] > 0.8
    assert history[-1]["loss"] < history[0]["loss"] - 0.1


def test_bf16_compute_stays_close(tmp_path: Path, policy: Any, encoded: list[EncodedRow]) -> None:
    """Autocast reaches the LM head; log-probs come back in fp32, near the fp32 ones."""
    trainer = make_trainer(tmp_path, encoded, model=policy, max_steps=1, bf16=True)
    trainer.train()
    first = trainer.state.log_history[0]
    assert abs(first["margin_base"]) < 0.2  # processors round bf16 in different places
    assert first["loss_base"] == pytest.approx(6.25, rel=0.15)


def test_lora_on_the_attention_trains_only_its_own_weights(
    tmp_path: Path, policy: Any, encoded: list[EncodedRow]
) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    model = peft.get_peft_model(policy, config)
    trainer = make_trainer(
        tmp_path,
        encoded,
        model=model,
        max_steps=3,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        optim="adamw_torch",
    )
    batch = batch_of(trainer, 4)
    trainer.train()
    first, last = trainer.state.log_history[0], trainer.state.log_history[2]
    assert abs(first["margin_base"]) < 2e-4
    assert last["loss"] < first["loss"]
    moved = [name for name, p in model.named_parameters() if p.grad is not None]
    assert moved == [] or all("lora_" in name for name in moved)
    with torch.no_grad(), model.disable_adapter():
        margin = float(trainer.compute_loss(model, batch))
    assert margin == pytest.approx(6.25 * (1 + 0.2 * first["weight"]), rel=0.02)
