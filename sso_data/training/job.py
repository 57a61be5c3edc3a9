"""What a training needs of that which is trained: checked data, then a trainer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import Trainer, TrainingArguments

from sso_data.core.progress import Progress
from sso_data.training.callbacks import EarlyStopping


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainContext:
    """Where a training happens: its directory, Trainer's arguments, its progress."""

    out: Path
    args: TrainingArguments
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A trainer with its model loaded; `findings` go to train.json.

    `watch` may stop the training; `tokenizer` is saved in place of the policy's own files.
    """

    trainer: Trainer
    findings: Mapping[str, Any]
    watch: EarlyStopping | None = None
    tokenizer: Any = None


class TrainingJob(Protocol):
    """Something to train, its data read and checked."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the result beyond the configuration."""
        ...

    @property
    def data(self) -> Mapping[str, Any]:
        """The data, for train.json and the card."""
        ...

    @property
    def lines(self) -> Sequence[str]:
        """The data, for a person."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What looks odd about the data."""
        ...

    def prepare(self, context: TrainContext) -> Prepared:
        """Load the model and make the trainer."""
        ...
