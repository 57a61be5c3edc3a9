"""`RowTrainer`: transformers.Trainer whose step is a mean over rows, however they are cut.

Overridden hooks, and why: `get_batch_samples` (counts a step's rows on all processes), the train
sampler (sorted by length), `create_scheduler` (no first step at rate 0), `evaluation_loop` and
`log` (means of our metrics over rows), `_save_checkpoint` (a mark once every process has written
its part), the three `_load_*` (one line for a checkpoint that cannot be read). A subclass brings
`training_step`, `compute_loss`, `prediction_step` and `preferences`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from sso_data.core.errors import ConfigError, RunError, TrainError, described, one_line
from sso_data.core.paths import real_path
from sso_data.models.head import disable_dropout
from sso_data.runs.files import remove_tree, sync_tree
from sso_data.training.batch import Batch, Collator, LengthSortedSampler, PairRows
from sso_data.training.callbacks import FiniteGradients
from sso_data.training.encode import EncodedRow
from sso_data.training.loss import PreferenceTerm
from sso_data.training.state import checkpoints, mark_whole

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What saving a model or an optimizer raises when the disk does not take it."""
Sums = dict[str, tuple[Tensor, int]]
"""Per metric the sum over rows, and their number."""


class RowTrainer(Trainer):  # type: ignore[misc]
    """Trains on `PairRows`; `per_device_train_batch_size` counts rows."""

    keep = 1
    """How many of the newest checkpoints are kept, besides the best one. Trainer's own rotation
    removes old ones before the new one is whole."""
    lr_scheduler: Any
    warmup_from_zero = False
    """Keep transformers' schedules, whose first warm-up step has rate 0."""
    preference_of = ""
    """What `preferences` are, with their unit."""
    starts_from_policy = True
    """The starting model has preferences, too, with which they are compared."""
    loss_is_scaled_for_ga = False  # the logged loss would be multiplied by the accumulation

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        terms: tuple[PreferenceTerm, ...],
        rows: Sequence[EncodedRow],
        eval_rows: Sequence[EncodedRow] | None,
        pad_id: int,
        **options: Any,
    ) -> None:
        """`options` go to transformers.Trainer (callbacks, optimizers, processing_class ...).

        Raises ConfigError for several GPUs in one process.
        """
        self.terms = terms
        args.remove_unused_columns = False  # rows are records, not columns
        args.label_names = []
        disable_dropout(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(terms=terms, pad_id=pad_id),
            train_dataset=PairRows(rows, terms),
            eval_dataset=PairRows(eval_rows, terms) if eval_rows else None,
            **options,
        )
        if args.n_gpu > 1:
            raise ConfigError(
                "several GPUs in one process: start with `accelerate launch`, one process a GPU, "
                "or set CUDA_VISIBLE_DEVICES to one of them"
            )
        self.model_accepts_loss_kwargs = False  # the model never sees our loss
        self.add_callback(FiniteGradients())
        self._num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self._pending: Sums = {}
        self._pending_eval: Sums = {}

    def preferences(self, model: Any, rows: Sequence[EncodedRow]) -> NDArray[np.float64]:
        """How much `model`, whole and on the device, prefers y+ to y- [n], without gradient."""
        raise NotImplementedError

    @property
    def is_sharded(self) -> bool:
        """True where no process has all the weights."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    # data

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        assert isinstance(rows, PairRows)
        args = self.args
        micro_batches = args.gradient_accumulation_steps * self.accelerator.num_processes
        seed = args.seed if args.data_seed is None else args.data_seed
        return LengthSortedSampler(rows.lengths, self._train_batch_size * micro_batches, seed)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """A step's micro-batches, and how many rows they have on all processes together."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = torch.tensor(sum(len(batch["row"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(rows).sum()

    # metrics

    def evaluation_loop(self, *args: Any, **options: Any) -> EvalLoopOutput:
        """Adds the means of our metrics over the evaluation rows."""
        self._pending_eval = {}
        output = super().evaluation_loop(*args, **options)
        prefix = options.get("metric_key_prefix", "eval")
        for name, value in self._means(self._pending_eval).items():
            output.metrics.setdefault(f"{prefix}_{name}", value)
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of our metrics over the rows since the last log."""
        if "loss" in logs:
            logs = logs | self._means(self._pending)
            self._pending = {}
        super().log(logs, start_time)

    def _note(self, pending: Sums, found: Mapping[str, Tensor]) -> None:
        """Add the rows' metrics [B] to the sums that wait for the next log."""
        for name, values in found.items():
            total, count = pending.get(name, (torch.zeros_like(values.sum()), 0))
            pending[name] = (total + values.sum(), count + len(values))

    def _means(self, pending: Sums) -> dict[str, float]:
        """The metrics' means over the rows of all processes."""
        if not pending:
            return {}
        sums = torch.stack([total.double().cpu() for total, _ in pending.values()])
        counts = torch.tensor([float(count) for _, count in pending.values()])
        both = torch.stack([sums.float(), counts]).to(self.args.device)
        both = self.accelerator.reduce(both, reduction="sum").cpu()
        return dict(zip(pending, (both[0] / both[1]).tolist(), strict=True))

    # the learning rate

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Step k of n warm-up steps has k/(n + 1) of the rate, where transformers has (k - 1)/n."""
        if self.lr_scheduler is not None or self.warmup_from_zero:
            return super().create_scheduler(num_training_steps, optimizer)
        then = super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps)
        share = then.lr_lambdas[0]
        self.lr_scheduler = LambdaLR(
            then.optimizer, lambda step: (step + 1) / (warmup + 1) if step < warmup else share(step)
        )
        return self.lr_scheduler

    # parts of a step

    def _scale(self, inputs: Batch, num_items: Tensor | int | None) -> Tensor | float:
        """Return the factor for a sum over this micro-batch's rows.

        Processes average their gradients, so each counts its rows times their number.
        """
        if num_items is None:
            return 1 / (len(inputs["row"]) * int(self.args.gradient_accumulation_steps))
        return int(self.accelerator.num_processes) / num_items

    def _backward(self, loss: Tensor) -> None:
        deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))

    def _refuse_nonfinite(self, loss: Tensor, inputs: Batch) -> None:
        """Raise TrainError, before the weights change, when a row's loss [B] is not a number."""
        bad = ~loss.detach().isfinite()
        if bool(bad.any()):
            rows = self.train_dataset.rows
            ids = [rows[position].id for position in inputs["row"][bad.cpu()].tolist()]
            raise TrainError(
                f"step {self.state.global_step + 1}: the loss is not finite for rows "
                f"{', '.join(ids[:8])}; lower the learning rate, or look at these rows"
            )

    # checkpoints that are whole or not there

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
            mark_whole(folder, self.state.global_step)
            best = self.state.best_model_checkpoint
            for old in checkpoints(folder.parent.parent)[: -self.keep]:
                if best is None or real_path(old) != real_path(Path(best)):
                    remove_tree(old)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with _readable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_rng_state(checkpoint)


@contextmanager
def _readable(checkpoint: str | None) -> Iterator[None]:
    """RunError for a checkpoint that cannot be read, or holds pickles of anything but tensors."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise RunError(
            f"{checkpoint}: cannot be read: {described(error, 200)}; remove that directory to "
            "continue from an earlier checkpoint, or to start over"
        ) from error


def unwritten(path: Path, error: BaseException) -> str:
    """One line for a model that could not be written."""
    return (
        f"{path}: cannot write: {one_line(error, 200)}; free some space (a checkpoint holds "
        "weights and optimizer) and run the same command again to continue"
    )
