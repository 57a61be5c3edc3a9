"""`RowTrainer`: transformers.Trainer whose step is a mean over rows, however they are cut.

Overridden hooks, and why: `get_batch_samples` (counts a step's rows on all processes), the train
sampler (sorted by length), `evaluation_loop` and `log` (means of our metrics over rows). A subclass
brings `training_step`, `compute_loss` and `prediction_step`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from sso_data.core.errors import ConfigError
from sso_data.models.head import disable_dropout
from sso_data.training.batch import Batch, LengthSortedSampler, PairRows
from sso_data.training.callbacks import FiniteGradients
from sso_data.training.errors import TrainError

Sums = dict[str, tuple[Tensor, int]]
"""Per metric the sum over rows, and their number."""


class RowTrainer(Trainer):  # type: ignore[misc]
    """Trains on `PairRows`; `per_device_train_batch_size` counts rows."""

    loss_is_scaled_for_ga = False  # the logged loss would be multiplied by the accumulation

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        collator: Callable[[Any], Batch],
        rows: PairRows,
        eval_rows: PairRows | None,
        **options: Any,
    ) -> None:
        """`options` go to transformers.Trainer (callbacks, optimizers, processing_class ...)."""
        args.remove_unused_columns = False  # rows are records, not columns
        args.label_names = []
        disable_dropout(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=rows,
            eval_dataset=eval_rows,
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

    # parts of a step

    def _scale(self, inputs: Batch, num_items: Tensor | int | None) -> Tensor | float:
        """What a sum over this micro-batch's rows is multiplied by.

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
