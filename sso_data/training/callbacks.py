"""What watches a training: metrics to their file and the listener, and reasons to stop early."""

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sso_data.config.training import EarlyStoppingConfig
from sso_data.runs.files import Appender
from sso_data.runs.journal import open_lines, to_line
from sso_data.training.errors import TrainError
from sso_data.training.listener import StepLog, TrainListener

_WINDOW = 4
"""Logged steps over which the chosen log-prob is averaged before it is judged."""


class Metrics(TrainerCallback):  # type: ignore[misc]
    """Appends a line per log to metrics.jsonl (`file`; None: no file) and tells the listener."""

    def __init__(self, file: Path | None, listener: TrainListener) -> None:
        self._lines: Appender | None = open_lines(file) if file else None
        self._listener = listener
        self.history: list[dict[str, float]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Training begins or goes on."""
        self._listener.steps(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A line of metrics; Trainer's closing summary is none."""
        if not logs or not {"loss", "eval_loss"} & logs.keys():
            return
        values = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        line = {"step": state.global_step, **values}
        self.history.append(line)
        if self._lines:
            finite = {k: v if math.isfinite(v) else None for k, v in line.items()}
            self._lines.append(to_line(finite))
        self._listener.step(StepLog(step=state.global_step, total=state.max_steps, values=values))

    def close(self) -> None:
        """Sync and close the file."""
        if self._lines:
            self._lines.close()


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Warns, and stops the training, when the chosen responses lose their likelihood.

    `start`: mean log-prob of y+ under the plain view over the data before the first step,
    nats/token; None takes the first logged mean.
    """

    def __init__(
        self, config: EarlyStoppingConfig, start: float | None, listener: TrainListener
    ) -> None:
        self._config = config
        self._start = start
        self._listener = listener
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._warned = False
        self.reason: str | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A training that goes on judges the steps before as well, as if it had never stopped."""
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
            self._listener.warn(
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
