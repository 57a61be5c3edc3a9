"""One process of test_ddp: trains a small model and writes its weights; run by torchrun."""

import sys
from pathlib import Path

import torch

from sso_data.training.processes import leaving_the_group
from tests.train.models import gpt2, random_rows
from tests.train.test_trainer import make_trainer


def main(out: Path, backward: str, size: int) -> None:
    torch.set_num_threads(1)
    trainer = make_trainer(
        out.parent,
        random_rows(16),
        model=gpt2(),
        backward=backward,  # type: ignore[arg-type]
        per_device_train_batch_size=size,
        gradient_accumulation_steps=2,
        num_train_epochs=2,
        eval_rows=random_rows(6, seed=9),
        per_device_eval_batch_size=1,
    )
    syncs: list[bool] = []
    hook = getattr(trainer, "_backward")  # noqa: B009
    trainer._backward = lambda loss: (syncs.append(_syncs(trainer)), hook(loss))  # type: ignore[method-assign]
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        torch.save((model.state_dict(), history, metrics, syncs), out)


def _syncs(trainer: object) -> bool:
    """Whether this backward reduces gradients over the processes."""
    return bool(getattr(trainer.model_wrapped, "require_backward_grad_sync", True))  # type: ignore[attr-defined]


def gloo_threads() -> list[str]:
    """The threads of this process that a process group started."""
    names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


if __name__ == "__main__":
    with leaving_the_group():
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    assert not gloo_threads(), "they abort the process when it ends in a bad moment"
