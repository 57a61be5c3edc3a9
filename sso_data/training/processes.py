"""The processes of a training as one, and transformers.Trainer's arguments for them."""

import gc
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

from sso_data.config.training import TrainConfig
from sso_data.core.errors import ConfigError
from sso_data.models.training_model import compute_dtype

_T = TypeVar("_T")
_TENSORBOARD = "TENSORBOARD_LOGGING_DIR"


def is_first() -> bool:
    """True in the one process that writes and reports."""
    return bool(PartialState().is_main_process)


def decided_by_first(value: _T) -> _T:
    """Broadcast `value` from the first process to every process."""
    if PartialState().num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]


def wait() -> None:
    """Barrier over all processes."""
    PartialState().wait_for_everyone()


@contextmanager
def leaving_the_group() -> Iterator[None]:
    """Leave the process group, where the work inside made one, when it is over.

    A gloo thread that drops a tensor while the interpreter ends aborts the process (SIGABRT), after
    all its work was done. The threads end with the last reference to the group, and the trainer's
    model, which holds one, lies in reference cycles.
    """
    is_of_others = dist.is_available() and dist.is_initialized()
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized() and not is_of_others:
            dist.destroy_process_group()
            gc.collect()


def training_arguments(config: TrainConfig, out: Path) -> TrainingArguments:
    """transformers.Trainer's arguments for a training in `out`, on the processes there are.

    Raises ConfigError when a step's rows cannot be dealt to the processes evenly, a reporter is not
    installed, or transformers refuses a value.
    """
    optim, every = config.optim, config.checkpoints.every
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    share, rest = divmod(optim.batch_size, processes)
    if rest:
        raise ConfigError(
            f"optim.batch_size {optim.batch_size} is not a multiple of the {processes} processes"
        )
    most = min(optim.micro_batch_rows, share)
    micro = next(size for size in range(most, 0, -1) if share % size == 0)
    for name in config.log.report_to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"log.report_to: {name} is not installed: pip install {name}")
    schedule: Any = optim.schedule
    if schedule == "constant" and optim.warmup_steps:
        schedule = "constant_with_warmup"
    use_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    checkpointing = optim.gradient_checkpointing
    try:
        return TrainingArguments(
            output_dir=str(out / "checkpoints"),
            use_cpu=use_cpu,
            bf16=compute_dtype(config) is torch.bfloat16,
            per_device_train_batch_size=micro,
            per_device_eval_batch_size=micro,
            gradient_accumulation_steps=share // micro,
            gradient_checkpointing=not use_cpu if checkpointing is None else checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            num_train_epochs=optim.epochs,
            max_steps=optim.max_steps or -1,
            optim="adamw_torch",
            learning_rate=optim.lr,
            adam_beta1=optim.beta1,
            adam_beta2=optim.beta2,
            weight_decay=optim.weight_decay,
            lr_scheduler_type=schedule,
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
            f"transformers refuses these settings: {' '.join(str(error).split())}"
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
