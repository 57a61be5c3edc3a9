"""Checkpoints that are whole or not there: a mark at the end, old ones removed after it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer

from sso_data.core.errors import RunError, described
from sso_data.runs.files import remove_tree, sync_tree, write_atomic
from sso_data.training.state import COMPLETE, checkpoints
from sso_data.training.trainer import SSOTrainer

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What saving a model or an optimizer raises when the disk does not take it."""


class SafeCheckpoints(Trainer):  # type: ignore[misc]
    """A Trainer whose checkpoints carry a mark once every process has written its part.

    `keep` newest ones stay, and the best one; Trainer's own rotation runs too early for that.
    """

    keep = 1

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            sync_tree(folder)
        except WRITE_ERRORS as error:
            remove_tree(folder)
            raise RunError(unwritten(folder, error)) from error
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark = json.dumps({"step": self.state.global_step}) + "\n"
            write_atomic(folder / COMPLETE, mark.encode())
            self._remove_old(folder.parent)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with _readable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_rng_state(checkpoint)

    def _remove_old(self, folder: Path) -> None:
        best = self.state.best_model_checkpoint
        for old in checkpoints(folder.parent)[: -self.keep]:
            if best is None or old.resolve() != Path(best).resolve():
                remove_tree(old)


class PolicyTrainer(SafeCheckpoints, SSOTrainer):
    """The SSO trainer with checkpoints that survive being killed."""


@contextmanager
def _readable(checkpoint: str | None) -> Iterator[None]:
    """RunError for a checkpoint that cannot be read, or holds pickles of anything but tensors."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise RunError(
            f"{checkpoint}: cannot be read: {described(error, 200)}; remove that directory to go "
            "on from an earlier checkpoint or from the start"
        ) from error


def unwritten(path: Path, error: BaseException) -> str:
    """One line for a model that could not be written."""
    reason = " ".join(str(error).split())[:200]
    return (
        f"{path}: cannot write: {reason}; free some space (a checkpoint holds weights and "
        "optimizer) and run the same command again to continue"
    )
