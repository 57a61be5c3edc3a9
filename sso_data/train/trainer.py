"""`SSOTrainer`: transformers.Trainer with the SSO loss, contrast by contrast.

Overridden hooks, and why: `training_step` (several backwards a micro-batch), `compute_loss` (the
joint loss, for whoever asks for it), `prediction_step` and `evaluation_loop` (no labels; our
metrics), `get_batch_samples` (a step's mean over its rows, however they are cut), `log` (our
metrics beside the loss), the train sampler (sorted by length), `floating_point_ops`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from sso_data.errors import ConfigError
from sso_data.train.backward import BackwardMode, Outcome, Step, run_eval, run_step
from sso_data.train.batch import Batch, Collator, LengthSortedSampler, PairRows
from sso_data.train.config import LossConfig
from sso_data.train.contrasts import CONTRASTS, Contrast
from sso_data.train.encode import EncodedRow
from sso_data.train.errors import TrainError
from sso_data.train.head import IGNORED, CompletionScorer, disable_dropout
from sso_data.train.loss import metrics, terms_of


class SSOTrainer(Trainer):  # type: ignore[misc]
    """Trains a causal language model on encoded rows whose references are filled in.

    `per_device_train_batch_size` counts rows. The loss of an optimizer step is the mean over its
    rows, whatever the micro-batches, accumulation and processes.
    """

    loss_is_scaled_for_ga = False  # the logged loss would be multiplied by the accumulation

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        loss: LossConfig,
        rows: Sequence[EncodedRow],
        eval_rows: Sequence[EncodedRow] | None = None,
        pad_id: int = 0,
        backward: BackwardMode = "one_pair",
        **options: Any,
    ) -> None:
        """`options` go to transformers.Trainer (callbacks, optimizers, processing_class ...)."""
        self.loss = loss
        self.contrasts = terms_of(loss).contrasts
        args.remove_unused_columns = False  # rows are records, not columns
        args.label_names = []
        disable_dropout(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(contrasts=self.contrasts, pad_id=pad_id),
            train_dataset=PairRows(rows, self.contrasts),
            eval_dataset=PairRows(eval_rows, self.contrasts) if eval_rows else None,
            **options,
        )
        if args.n_gpu > 1:
            raise ConfigError(
                "several GPUs in one process: start with `accelerate launch`, one process a GPU, "
                "or set CUDA_VISIBLE_DEVICES to one of them"
            )
        self.model_accepts_loss_kwargs = False  # the model never sees our loss
        self.backward_mode = self._possible(backward)
        self._scorer = CompletionScorer(model)
        self._num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self._pending: dict[str, tuple[Tensor, int]] = {}
        self._pending_eval: dict[str, tuple[Tensor, int]] = {}

    def _possible(self, wanted: BackwardMode) -> BackwardMode:
        """DeepSpeed's backward may run once a step; DDP and FSDP cannot keep the base graph."""
        kind = self.accelerator.distributed_type
        if kind == DistributedType.DEEPSPEED:
            return "joint"
        if wanted == "two_pairs" and self.accelerator.num_processes > 1:
            return "one_pair"
        return wanted

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

    # steps

    def training_step(
        self,
        model: nn.Module,
        inputs: Batch,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Forward and backward of a micro-batch; gives its share of the step's mean loss."""
        model.train()
        scale = self._scale(inputs, num_items_in_batch)
        outcome = run_step(self._step(model, inputs, scale), self.backward_mode)
        self._refuse_nonfinite(outcome, inputs)
        self._note(self._pending, outcome, inputs)
        return outcome.parts.loss.sum() * scale

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's mean loss with one graph over all contrasts."""
        found: list[Tensor] = []
        step = self._step(model, inputs, 1 / len(inputs["row"]), backward=found.append)
        outcome = run_step(step, "joint")
        return (found[0], {"parts": outcome.parts}) if return_outputs else found[0]

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The mean loss; there are neither logits nor labels."""
        outcome = run_eval(self._step(model, inputs, 1.0))
        self._note(self._pending_eval, outcome, inputs)
        return outcome.parts.loss.mean(), None, None

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

    def floating_point_ops(self, inputs: Batch) -> int:
        """Forward and backward of every token of every contrast: 6 a parameter."""
        tokens = sum(inputs[name]["input_ids"].numel() for name in self.contrasts)
        return int(6 * tokens * self._num_parameters)

    # parts of a step

    def _scale(self, inputs: Batch, num_items: Tensor | int | None) -> Tensor | float:
        """What a sum over this micro-batch's rows is multiplied by.

        Processes average their gradients, so each counts its rows times their number.
        """
        if num_items is None:
            return 1 / (len(inputs["row"]) * int(self.args.gradient_accumulation_steps))
        return int(self.accelerator.num_processes) / num_items

    def _step(
        self,
        model: nn.Module,
        inputs: Batch,
        scale: Tensor | float,
        backward: Callable[[Tensor], None] | None = None,
    ) -> Step:
        device = self.args.device
        return Step(
            totals=lambda name: self._totals(model, inputs, (name,))[:, 0],
            all_totals=lambda names: self._totals(model, inputs, names),
            ref=inputs["ref_nats"].to(device) if self.loss.needs_reference else None,
            tokens=spread_counts(inputs, self.contrasts).to(device),
            config=self.loss,
            backward=backward or self._backward,
            no_sync=lambda: self._no_sync(model),
            scale=scale,
        )

    def _totals(self, model: nn.Module, inputs: Batch, names: tuple[Contrast, ...]) -> Tensor:
        """Total nats [B, C', S] of the given contrasts, in one forward pass."""
        joined = join([inputs[name] for name in names])
        columns = (joined[name].to(self.args.device) for name in _COLUMNS)
        nats = self._scorer.totals(model, *columns)
        return nats.view(len(names), 2, -1).permute(2, 0, 1)

    def _backward(self, loss: Tensor) -> None:
        deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))

    def _no_sync(self, model: nn.Module) -> AbstractContextManager[object]:
        """Gradients stay on this process, unless the user wants them synchronised each time."""
        if self.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False):
            return nullcontext()
        context: AbstractContextManager[object] = self.accelerator.no_sync(model)
        return context

    def _refuse_nonfinite(self, outcome: Outcome, inputs: Batch) -> None:
        """Raise TrainError, before the weights change, when a row's loss is not a number."""
        bad = ~outcome.parts.loss.isfinite()
        if bool(bad.any()):
            rows = self.train_dataset.rows
            ids = [rows[position].id for position in inputs["row"][bad.cpu()].tolist()]
            raise TrainError(
                f"step {self.state.global_step + 1}: the loss is not finite for rows "
                f"{', '.join(ids[:8])}; lower the learning rate, or look at these rows"
            )

    def _note(
        self, pending: dict[str, tuple[Tensor, int]], outcome: Outcome, inputs: Batch
    ) -> None:
        """Add the rows' metrics to the sums that wait for the next log."""
        ref = inputs["ref_nats"].to(self.args.device) if self.loss.needs_reference else None
        tokens = spread_counts(inputs, self.contrasts).to(self.args.device)
        found = metrics(outcome.policy, ref, tokens, outcome.parts, self.loss)
        for name, values in found.items():
            total, count = pending.get(name, (torch.zeros_like(values.sum()), 0))
            pending[name] = (total + values.sum(), count + len(values))

    def _means(self, pending: dict[str, tuple[Tensor, int]]) -> dict[str, float]:
        """The metrics' means over the rows of all processes."""
        if not pending:
            return {}
        sums = torch.stack([total.double().cpu() for total, _ in pending.values()])
        counts = torch.tensor([float(count) for _, count in pending.values()])
        both = torch.stack([sums.float(), counts]).to(self.args.device)
        both = self.accelerator.reduce(both, reduction="sum").cpu()
        return dict(zip(pending, (both[0] / both[1]).tolist(), strict=True))


_COLUMNS = ("input_ids", "attention_mask", "labels")
_FILLERS = (0, 0, IGNORED)


def join(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several blocks of sequences [N, T] as one, right-padded to the widest."""
    width = max(part["labels"].shape[1] for part in parts)
    return {
        name: torch.cat(
            [nn.functional.pad(p[name], (0, width - p[name].shape[1]), value=fill) for p in parts]
        )
        for name, fill in zip(_COLUMNS, _FILLERS, strict=True)
    }


def spread_counts(batch: Batch, contrasts: Sequence[Contrast]) -> Tensor:
    """How many tokens each response has, [B, C, S]; 1 where a contrast is left out."""
    counts = torch.ones_like(batch["ref_nats"], dtype=torch.long)
    for name in contrasts:
        found = (batch[name]["labels"] != IGNORED).sum(-1).view(2, -1).T
        counts[:, CONTRASTS.index(name)] = found
    return counts
