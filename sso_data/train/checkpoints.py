"""Checkpoints that are whole or not there: a mark at the end, old ones removed after it."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import Trainer

from sso_data.errors import RunError
from sso_data.store.files import remove_tree, write_atomic
from sso_data.train.state import COMPLETE, checkpoints
from sso_data.train.trainer import SSOTrainer

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
            _sync(folder)
        except WRITE_ERRORS as error:
            remove_tree(folder)
            raise RunError(unwritten(folder, error)) from error
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark = json.dumps({"step": self.state.global_step}) + "\n"
            write_atomic(folder / COMPLETE, mark.encode())
            self._remove_old(folder.parent)

    def _remove_old(self, folder: Path) -> None:
        best = self.state.best_model_checkpoint
        for old in checkpoints(folder.parent)[: -self.keep]:
            if best is None or old.resolve() != Path(best).resolve():
                remove_tree(old)


class PolicyTrainer(SafeCheckpoints, SSOTrainer):
    """The SSO trainer with checkpoints that survive being killed."""


def unwritten(path: Path, error: BaseException) -> str:
    """One line for a model that could not be written."""
    reason = " ".join(str(error).split())[:200]
    return (
        f"{path}: cannot write: {reason}; free some space (a checkpoint holds weights and "
        "optimizer) and run the same command again to continue"
    )


def _sync(folder: Path) -> None:
    """Make a checkpoint's files survive a power failure."""
    for file in folder.iterdir():
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
