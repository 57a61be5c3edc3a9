"""One process of the two-process test: trains a small classifier; run by torchrun."""

import sys
from pathlib import Path

import torch

from sso_data.config.reward import RewardConfig
from sso_data.training.processes import leaving_the_group
from sso_data.training.reward import RewardTrainer
from tests.train.models import random_rows
from tests.train_reward.conftest import arguments, classifier


def main(out: Path, size: int) -> None:
    torch.set_num_threads(1)
    trainer = RewardTrainer(
        classifier(),
        arguments(
            out.parent,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=2,
            num_train_epochs=2,
            per_device_eval_batch_size=1,
        ),
        config=RewardConfig(center_rewards_coefficient=0.02),
        rows=random_rows(16),
        eval_rows=random_rows(6, seed=9),
        pad_id=0,
    )
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        torch.save((model.state_dict(), metrics, history), out)


if __name__ == "__main__":
    with leaving_the_group():
        main(Path(sys.argv[1]), int(sys.argv[2]))
