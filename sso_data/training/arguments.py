"""What transformers.Trainer is told: our configuration as its TrainingArguments."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from sso_data.config.training import TrainConfig
from sso_data.core.errors import ConfigError
from sso_data.models.training_model import compute_dtype

_TENSORBOARD = "TENSORBOARD_LOGGING_DIR"


def training_arguments(config: TrainConfig, out: Path) -> TrainingArguments:
    """The arguments of a training in `out`, for the processes there are.

    Raises ConfigError when a step's rows cannot be dealt to the processes evenly.
    """
    micro, accumulation = micro_batches(config)
    _check_reporters(config)
    optim, every = config.optim, config.checkpoints.every
    use_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    checkpointing = optim.gradient_checkpointing
    try:
        return TrainingArguments(
            output_dir=str(out / "checkpoints"),
            use_cpu=use_cpu,
            bf16=compute_dtype(config) is torch.bfloat16,
            per_device_train_batch_size=micro,
            per_device_eval_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            gradient_checkpointing=not use_cpu if checkpointing is None else checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            num_train_epochs=optim.epochs,
            max_steps=optim.max_steps or -1,
            optim="adamw_torch",
            learning_rate=optim.lr,
            adam_beta1=optim.beta1,
            adam_beta2=optim.beta2,
            weight_decay=optim.weight_decay,
            lr_scheduler_type=_schedule(config),
            warmup_steps=optim.warmup_steps,
            max_grad_norm=optim.max_grad_norm,
            logging_steps=config.log.every,
            save_strategy="steps",
            save_steps=every,
            eval_strategy="steps" if config.data.eval_share else "no",
            eval_steps=every,
            load_best_model_at_end=config.checkpoints.keep_best,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            report_to=list(config.log.report_to) or "none",
            disable_tqdm=True,
            seed=config.seed,
            ddp_find_unused_parameters=False,
            dataloader_pin_memory=not use_cpu,
        )
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"these settings cannot be used: {' '.join(str(error).split())}"
        ) from error


@contextmanager
def tensorboard_in(folder: Path) -> Iterator[None]:
    """TensorBoard's files go to `folder`, unless the user's environment names another place."""
    if _TENSORBOARD in os.environ:
        yield
        return
    os.environ[_TENSORBOARD] = str(folder)
    try:
        yield
    finally:
        del os.environ[_TENSORBOARD]


def micro_batches(config: TrainConfig) -> tuple[int, int]:
    """(rows of a process in one forward pass, how many of those make its share of a step)."""
    optim = config.optim
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    share, rest = divmod(optim.batch_size, processes)
    if rest:
        raise ConfigError(
            f"optim.batch_size {optim.batch_size} is not a multiple of the {processes} processes"
        )
    most = min(optim.micro_batch_rows, share)
    micro = next(size for size in range(most, 0, -1) if share % size == 0)
    return micro, share // micro


def _check_reporters(config: TrainConfig) -> None:
    """ConfigError for a reporter that is not installed, before the model is loaded."""
    for name in config.log.report_to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"log.report_to: {name} is not installed: pip install {name}")


def _schedule(config: TrainConfig) -> Any:
    constant = "constant_with_warmup" if config.optim.warmup_steps else "constant"
    return constant if config.optim.schedule == "constant" else config.optim.schedule
