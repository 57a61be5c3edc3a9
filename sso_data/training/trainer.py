"""`SSOTrainer`: transformers.Trainer with the SSO loss, term by term.

Overridden hooks besides RowTrainer's, and why: `training_step` (several backwards a micro-batch),
`compute_loss` (the joint loss, for whoever asks for it), `prediction_step` (no labels; our
metrics), `floating_point_ops`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import TrainingArguments

from sso_data.config.training import LossConfig
from sso_data.models.head import IGNORED, CompletionScorer
from sso_data.training.backward import BackwardMode, MicroBatch, StepResult, run_eval, run_step
from sso_data.training.batch import Batch, response_tokens
from sso_data.training.encode import EncodedRow
from sso_data.training.loss import (
    PREFERENCE_TERMS,
    SEEN,
    PreferenceTerm,
    metrics,
    scores,
    terms_of,
)
from sso_data.training.reference import model_scorer
from sso_data.training.row_trainer import RowTrainer


class SSOTrainer(RowTrainer):
    """Trains a causal language model on encoded rows whose references are filled in.

    `per_device_train_batch_size` counts rows. The loss of an optimizer step is the mean over its
    rows, whatever the micro-batches, accumulation and processes.
    """

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
        super().__init__(
            model,
            args,
            terms=terms_of(loss).names,
            rows=rows,
            eval_rows=eval_rows,
            pad_id=pad_id,
            **options,
        )
        self._compared: PreferenceTerm = "base" if "base" in self.terms else "good"
        unit = "nats" if loss.compares == "totals" else "nats/token"
        self.preference_of = f"D of y+ over y-, {SEEN[self._compared]} view ({unit})"
        self.backward_mode = backward
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            self.backward_mode = "joint"  # its backward may run only once a step
        elif backward == "two_pairs" and self.accelerator.num_processes > 1:
            self.backward_mode = "one_pair"  # DDP and FSDP cannot keep the base graph
        self._scorer = CompletionScorer(model)

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
        self._refuse_nonfinite(outcome.parts.loss, inputs)
        self._note(self._pending, self._metrics(outcome, inputs))
        return outcome.parts.loss.sum() * scale

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's mean loss with one graph over all terms."""
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
        self._note(self._pending_eval, self._metrics(outcome, inputs))
        return outcome.parts.loss.mean(), None, None

    def preferences(self, model: Any, rows: Sequence[EncodedRow]) -> NDArray[np.float64]:
        """s(y+) - s(y-) of rows [n], in what the loss compares: D is its change."""
        name, autocast = self._compared, torch.bfloat16 if self.args.bf16 else None
        pad_id = self.data_collator.pad_id
        found = np.empty(len(rows))
        for group, nats in model_scorer(model, (name,), pad_id=pad_id, autocast=autocast)(rows):
            tokens = [[len(rows[p].sequence(name, side)[1]) for side in (0, 1)] for p in group]
            totals = torch.from_numpy(nats[:, PREFERENCE_TERMS.index(name)])
            s = scores(totals, torch.tensor(tokens), self.loss)
            found[group] = (s[:, 0] - s[:, 1]).numpy()
        return found

    def floating_point_ops(self, inputs: Batch) -> int:
        """Forward and backward of every token of every term: 6 a parameter."""
        tokens = sum(inputs[name]["input_ids"].numel() for name in self.terms)
        return int(6 * tokens * self._num_parameters)

    # parts of a step

    def _step(
        self,
        model: nn.Module,
        inputs: Batch,
        scale: Tensor | float,
        backward: Callable[[Tensor], None] | None = None,
    ) -> MicroBatch:
        device = self.args.device
        return MicroBatch(
            totals=lambda names: self._totals(model, inputs, names),
            ref=inputs["ref_nats"].to(device) if self.loss.needs_reference else None,
            tokens=spread_counts(inputs, self.terms).to(device),
            config=self.loss,
            backward=backward or self._backward,
            no_sync=lambda: self._no_sync(model),
            scale=scale,
        )

    def _totals(self, model: nn.Module, inputs: Batch, names: tuple[PreferenceTerm, ...]) -> Tensor:
        """Total nats [B, C', S] of the given terms, in one forward pass."""
        joined = join([inputs[name] for name in names])
        columns = (joined[name].to(self.args.device) for name in _COLUMNS)
        nats = self._scorer.totals(model, *columns)
        return nats.view(len(names), 2, -1).permute(2, 0, 1)

    def _no_sync(self, model: nn.Module) -> AbstractContextManager[object]:
        """Gradients stay on this process, unless the user wants them synchronised each time."""
        if self.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False):
            return nullcontext()
        context: AbstractContextManager[object] = self.accelerator.no_sync(model)
        return context

    def _metrics(self, outcome: StepResult, inputs: Batch) -> dict[str, Tensor]:
        """Return metrics per row, [B] each."""
        ref = inputs["ref_nats"].to(self.args.device) if self.loss.needs_reference else None
        tokens = spread_counts(inputs, self.terms).to(self.args.device)
        return metrics(outcome.policy, ref, tokens, outcome.parts, self.loss)


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


def spread_counts(batch: Batch, terms: Sequence[PreferenceTerm]) -> Tensor:
    """Return the number of tokens of each response, [B, C, S]; 1 where a term is left out."""
    counts = torch.ones_like(batch["ref_nats"], dtype=torch.long)
    for name in terms:
        counts[:, PREFERENCE_TERMS.index(name)] = response_tokens(batch[name])
    return counts
