"""One process of test_ddp: trains a small model and writes its weights; run by torchrun."""

import sys
from pathlib import Path
from typing import Any

import torch

from sso_data.config.training import RewardConfig
from sso_data.training.processes import leaving_the_group
from sso_data.training.reward import RewardTrainer
from tests.training.models import arguments, classifier, gpt2, random_rows
from tests.training.test_trainer import make_trainer
from tests.waiting import until


def main(out: Path, kind: str, size: int) -> None:
    """`kind`: `reward`, or how a policy's trainer goes backward."""
    torch.set_num_threads(1)
    steps: dict[str, Any] = {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "per_device_eval_batch_size": 1,
    }
    rows, eval_rows = random_rows(16), random_rows(6, seed=9)
    trainer: Any
    if kind == "reward":
        trainer = RewardTrainer(
            classifier(),
            arguments(out.parent, **steps),
            config=RewardConfig(center_rewards_coefficient=0.02),
            rows=rows,
            eval_rows=eval_rows,
            pad_id=0,
        )
    else:
        trainer = make_trainer(
            out.parent,
            rows,
            model=gpt2(),
            backward=kind,  # type: ignore[arg-type]
            eval_rows=eval_rows,
            **steps,
        )
    syncs: list[bool] = []
    hook = trainer._backward

    def backward(loss: torch.Tensor) -> None:
        syncs.append(_syncs(trainer))
        hook(loss)

    trainer._backward = backward
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        torch.save((model.state_dict(), history, metrics, syncs), out)


def _syncs(trainer: Any) -> bool:
    """Whether this backward reduces gradients over the processes."""
    return bool(getattr(trainer.model_wrapped, "require_backward_grad_sync", True))


def gloo_threads() -> list[str]:
    """The threads of this process that a process group started."""
    names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


if __name__ == "__main__":
    with leaving_the_group():
        for kind in sys.argv[2:]:
            main(Path(sys.argv[1]) / f"{kind}.pt", kind, 2)
    # threads that go on would abort the process when it ends in a bad moment
    until(lambda: not gloo_threads(), seconds=60)
