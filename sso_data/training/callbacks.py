"""Callbacks of a training: metrics to their file and the display, and reasons to stop early."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sso_data.config.training import EarlyStoppingConfig
from sso_data.core.errors import TrainError
from sso_data.core.progress import Progress
from sso_data.runs.files import Appender
from sso_data.runs.jsonl import open_lines, to_line

_FEW = 0.25
"""Share of the weights that can move in bfloat16, under which a training counts as short."""
_FEW_STEPS = 10
"""Steps under which a training is told in full: as many as the rates that a line can list."""
_WINDOW = 4
"""Logged steps over which the chosen log-prob is averaged before it is judged."""


class Metrics(TrainerCallback):  # type: ignore[misc]
    """Appends a line per log to metrics.jsonl (`file`; None: no file) and reports it."""

    def __init__(self, file: Path | None, progress: Progress) -> None:
        self._lines: Appender | None = open_lines(file) if file else None
        self._progress = progress

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report the steps that are done."""
        if state.global_step:
            self._progress.note(f"continuing after step {state.global_step}")
        self._progress.count(state.global_step, state.max_steps, "steps")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write and report a line of metrics; Trainer's closing summary is left out."""
        if not logs or not {"loss", "eval_loss"} & logs.keys():
            return
        values = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        line = {"step": state.global_step, **values}
        if self._lines:
            finite = {k: v if math.isfinite(v) else None for k, v in line.items()}
            self._lines.append(to_line(finite))
        if "eval_loss" in values:
            self._progress.note(f"step {state.global_step}: {_in_short(values)}")
        else:
            self._progress.count(state.global_step, state.max_steps, "steps", _in_short(values))

    def close(self) -> None:
        """Sync and close the file."""
        if self._lines:
            self._lines.close()


def _in_short(values: Mapping[str, float]) -> str:
    """Loss, W, margins with accuracies, plain-view log-probs, lengths; those that are logged."""
    parts = [f"{name} {values[name]:.4g}" for name in ("loss", "eval_loss") if name in values]
    if "weight" in values:
        parts.append(f"W {values['weight']:.3f}")
    for name in ("base", "good", "bad"):
        if f"margin_{name}" in values:
            accuracy = values[f"accuracy_{name}"]
            parts.append(f"D {name} {values[f'margin_{name}']:+.3f} ({accuracy:.0%})")
    if "logp_chosen" in values:
        pair = f"{values['logp_chosen']:.3f}/{values['logp_rejected']:.3f}"
        parts.append(f"log-prob {pair}")
    if "tokens_chosen" in values:
        parts.append(f"tokens {values['tokens_chosen']:.0f}/{values['tokens_rejected']:.0f}")
    return ", ".join(parts)


class FewSteps(TrainerCallback):  # type: ignore[misc]
    """Says before the first step what fewer than ten steps are, and when hardly a weight can move.

    AdamW moves a weight by about the rate a step at most, so in all by about the sum of the rates:
    compared with steps of bfloat16 unless `saved_in_bfloat16` is None (an adapter, sharded
    weights).
    """

    def __init__(self, progress: Progress, *, saved_in_bfloat16: bool | None) -> None:
        self._progress, self._saved_in_bfloat16 = progress, saved_in_bfloat16

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the steps, and bound the share of the weights from the schedule."""
        if state.global_step:  # said when it began
            return
        share_of, steps = kwargs["lr_scheduler"].lr_lambdas[0], state.max_steps
        rates = [args.learning_rate * share_of(step) for step in range(steps)]
        counted = f"{steps} step{'s' * (steps != 1)}"
        if steps < _FEW_STEPS:
            micro = args.per_device_train_batch_size * args.gradient_accumulation_steps
            self._progress.note(
                f"{counted}: the weights change {'once' if steps == 1 else f'{steps} times'} in "
                f"all, by at most {micro * args.world_size} rows each time, at rates of "
                + ", ".join(f"{rate:.2g}" for rate in rates)
            )
        if self._saved_in_bfloat16 is None:
            return
        found = movable_share(kwargs["model"].parameters(), sum(rates))
        if found < _FEW:
            say = self._progress.warn if self._saved_in_bfloat16 else self._progress.note
            say(
                f"{counted}, whose rates add up to {sum(rates):.2g}: at most about "
                f"{found:.1%} of the weights can move by a step of bfloat16; raise optim.lr, train "
                "more steps, or keep small changes by optim.save_dtype=float32"
            )


def movable_share(parameters: Iterable[torch.Tensor], most: float) -> float:
    """The share of the weights that another one of bfloat16 is nearest to after `most`."""
    moved, whole = 0, 0
    for parameter in parameters:
        weight = parameter.detach()
        here = weight.to(torch.bfloat16)
        ends = ((weight + sign * most).to(torch.bfloat16) != here for sign in (1, -1))
        moved += int(torch.logical_or(*ends).sum())
        whole += weight.numel()
    return moved / whole


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Warns, and stops the training, when the chosen responses lose their likelihood.

    `start`: mean log-prob of y+ under the plain view over the data before the first step,
    nats/token; None takes the first logged mean.
    """

    def __init__(
        self, config: EarlyStoppingConfig, start: float | None, progress: Progress
    ) -> None:
        self._config = config
        self._start = start
        self._progress = progress
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._warned = False
        self.reason: str | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take in the steps before an interruption, so that the mean is that of one training."""
        earlier = [float(log["logp_chosen"]) for log in state.log_history if "logp_chosen" in log]
        self._recent.extend(earlier)
        if self._start is None and earlier:
            self._start = earlier[0]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Compare the last logged steps with the start."""
        if not logs or "logp_chosen" not in logs:
            return
        self._recent.append(float(logs["logp_chosen"]))
        if self._start is None:
            self._start = self._recent[0]
        fall = self._start - sum(self._recent) / len(self._recent)
        config = self._config
        if config.chosen_drop is not None and fall > config.chosen_drop:
            self.reason = (
                f"step {state.global_step}: the chosen responses' mean log-prob under the plain "
                f"view fell by {fall:.2f} nats/token (stop.chosen_drop {config.chosen_drop}); "
                "lower optim.lr, raise loss.beta, or add loss.nll"
            )
            control.should_training_stop = True
        elif fall > config.warn_chosen_drop and not self._warned:
            self._warned = True
            self._progress.warn(
                f"step {state.global_step}: the chosen responses' mean log-prob under the plain "
                f"view fell by {fall:.2f} nats/token since the start"
            )


class FiniteGradients(TrainerCallback):  # type: ignore[misc]
    """Stops before an optimizer step whose gradient is not finite: it would spoil every weight."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises TrainError; the last checkpoint is from before."""
        norms = [
            parameter.grad.detach().norm()
            for parameter in kwargs["model"].parameters()
            if parameter.grad is not None
        ]
        if norms and not bool(torch.stack([norm.float() for norm in norms]).isfinite().all()):
            raise TrainError(
                f"step {state.global_step + 1}: the gradient is not finite; lower optim.lr, or "
                "train in float32"
            )
