"""`train`: everything checked before the model is loaded, then steps until the rows are done.

The same command continues after an interruption, from the last whole checkpoint, to the same
weights as an uninterrupted training's.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from sso_data.config.migration import defaults_of, with_defaults
from sso_data.config.training import OptimConfig, TrainConfig
from sso_data.core.errors import ConfigError, InputError, RunError, TrainError
from sso_data.core.paths import is_local, is_meant_as_path, real_path
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.trees import leaves
from sso_data.filtering.refilter import doubt_about
from sso_data.models.checks import check_model, check_space, check_trainable
from sso_data.models.training_model import (
    PolicyFiles,
    find_policy,
    like_adapted,
    save_model,
    saved_dtype,
)
from sso_data.prompts.preferences import read_preferences
from sso_data.runs.checksums import sha256_of
from sso_data.runs.files import make_dir, publish_files, remove_tree
from sso_data.runs.pairs import check_source
from sso_data.runs.workdir import Manifest, locked, refuse_other_content, stored_defaults
from sso_data.templating.chat_template import ChatTemplate, today
from sso_data.training.callbacks import FewSteps, Metrics
from sso_data.training.card import draw, write_card
from sso_data.training.jobs import Job, Prepared, TrainContext, policy_job, reward_job
from sso_data.training.processes import (
    decided_by_first,
    is_first,
    tensorboard_in,
    training_arguments,
    wait,
)
from sso_data.training.reward import padding_id
from sso_data.training.row_trainer import WRITE_ERRORS, unwritten
from sso_data.training.saved import compare, fixed_rows, summary, unchanged, warnings
from sso_data.training.state import (
    METRICS,
    TRAINING,
    TrainingDir,
    open_training,
    read_training,
    saved_files,
    step_of,
)

_FREE_SECTIONS = ("stop.", "log.")
_FREE_KEYS = (
    *("optim.micro_batch_rows", "optim.gradient_checkpointing"),
    *("checkpoints.every", "checkpoints.keep", "checkpoints.keep_finished"),
)
"""Keys that may change between an interrupted training and its continuation."""

_OFTEN = 10
"""Passes over the rows that are warned about."""
_LIBRARIES = ("torch", "transformers", "accelerate", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """Result of a training: `manifest` is the content of train.json, `seconds` this call's.

    `new_steps` is 0 when it had finished before.
    """

    out: Path
    manifest: Mapping[str, Any]
    new_steps: int
    seconds: float

    @property
    def stopped(self) -> str | None:
        """The reason for which it was stopped early, or None."""
        found: str | None = self.manifest["stopped"]
        return found

    def to_json(self) -> dict[str, Any]:
        """The summary that `--json` prints."""
        keys = ("data", "references", "steps", "max_steps", "stopped", "first", "last")
        return {
            "out": str(self.out),
            "seconds": round(self.seconds, 2),
            "new_steps": self.new_steps,
            **{key: self.manifest[key] for key in keys},
            "comparison": self.manifest.get("comparison"),
        }


def train(
    source: str,
    out: Path,
    config: TrainConfig,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> TrainSummary:
    """Train on the preference rows of `source`; the model and all about it go to `out`.

    A training in `out` that was interrupted is continued. Under torchrun or `accelerate launch`
    every process calls this; the first one writes and reports.
    Raises ConfigError for settings that do not fit this machine or each other, ModelError for the
    model, InputError for the data, RunError for what is in `out` or cannot be written, TrainError
    when training must stop, or when it has changed no weight of the saved model.
    """
    started = time.monotonic()
    if not overwrite:
        with suppress(ValidationError):  # they are another training's, which is refused below
            config = with_defaults(config, stored_defaults(out, TRAINING))
    args = training_arguments(config, out)
    if args.n_gpu > 1:
        raise ConfigError(
            f"{args.n_gpu} GPUs and one process: start with `accelerate launch -m sso_data train "
            "...`, or choose one by CUDA_VISIBLE_DEVICES"
        )
    first = is_first()
    context = TrainContext(out=out, args=args, progress=(first and progress) or NullProgress())
    if first:
        refuse_other_content(out, TRAINING)
    doubt = _look_at_data(out, source, config)
    context.progress.phase("checking the model and its chat template")
    policy = find_policy(config, context.progress)
    for line in _model_doubts(out, policy, config):
        context.progress.warn(line)
    _refuse_in(out, "--model", policy.name, policy.directory)
    context.progress.phase("reading the data")
    if doubt:
        context.progress.warn(doubt)
    job = (reward_job if config.kind == "reward" else policy_job)(source, policy, config)
    if config.data.eval_share and not job.data["held_out"]:
        raise InputError(
            f"{source}: data.eval_share {config.data.eval_share} holds out none of "
            f"{job.data['training']} rows; raise it"
        )
    for line in job.notes:
        context.progress.note(line)
    for line in (*job.warnings, *_often(config.optim, job.data["training"])):
        context.progress.warn(line)
    if first:
        make_dir(out)
    guard: AbstractContextManager[None] = locked(out, "model") if first else nullcontext()
    with guard:
        folder, checkpoint = _opened(out, config, policy, job, overwrite=overwrite)
        if folder.is_finished:
            context.progress.note(f"{out}: already finished; nothing to do")
            seconds = time.monotonic() - started
            done = TrainSummary(out=out, manifest=folder.manifest, new_steps=0, seconds=seconds)
        else:
            done = _steps(folder, checkpoint, job, policy, config, context, started)
    if reason := unchanged(done.manifest.get("comparison")):
        raise TrainError(f"{out}: {reason}")
    return done


def _often(optim: OptimConfig, rows: int) -> Iterator[str]:
    """Say where few rows are taken many times."""
    times = optim.max_steps * optim.batch_size / rows if optim.max_steps else optim.epochs
    if times >= _OFTEN:
        key = "optim.max_steps" if optim.max_steps else "optim.epochs"
        yield f"each of {rows} rows is trained on {times:.0f} times ({key})"


def _model_doubts(out: Path, policy: PolicyFiles, config: TrainConfig) -> list[str]:
    """What is odd about the policy and the space for it; raises what training cannot do without."""
    check_trainable(policy.directory)
    template = ChatTemplate(policy.tokenizer, config.views, today=today())
    found = check_model(policy.directory, template, policy.facts)
    if config.kind == "reward":
        padding_id(policy.tokenizer)
    small = config.lora.enabled and not config.lora.merge
    saved_bytes = 0 if small else saved_dtype(policy, config).itemsize
    keep = 0 if config.lora.enabled else config.checkpoints.keep + 1
    space = check_space(policy.directory, out, saved_bytes=saved_bytes, checkpoints=keep)
    return [*found, space] if space else found


def _look_at_data(out: Path, source: str, config: TrainConfig) -> str | None:
    """Check the data as far as that is cheap, before the model is read; return a doubt about it.

    Raises ConfigError for data inside `out`, which a training replaces, RunError for pairs that
    were changed, InputError for none and for a first row that is no pair.
    """
    mixed = config.reward.mix if config.kind == "reward" else ()
    sets = [("DATA", source, config.data.split)]
    sets += [("reward.mix", part.data, part.split) for part in mixed]
    for what, name, _ in sets:
        _refuse_in(out, what, name, Path(name))
        check_source(name)
    doubt = doubt_about(source)
    skip = (lambda _: None) if config.data.skip_bad_rows else None
    for _, name, split in sets:
        if is_local(name) or is_meant_as_path(name):
            next(read_preferences(name, split=split, skip=skip), None)
    return doubt


def _refuse_in(out: Path, what: str, name: str, path: Path) -> None:
    """Raise ConfigError if the model or the data at `path` is inside `out`."""
    if not name.strip() or not path.exists():
        return
    targets = (real_path(path), real_path(path.parent) / path.name)  # through links, and itself
    if any(target.is_relative_to(real_path(out)) for target in targets):
        raise ConfigError(
            f"{what} {name}: is inside --out {out}, which the training overwrites; "
            "use another --out"
        )


def _opened(
    out: Path, config: TrainConfig, policy: PolicyFiles, job: Job, *, overwrite: bool
) -> tuple[TrainingDir, Path | None]:
    """The training's directory, and the checkpoint to go on from, as the first process has it."""
    found: tuple[Manifest, Path | None] | None = None
    if is_first():
        details = {
            "model": {"name": policy.name, "fingerprint": policy.fingerprint},
            "data": dict(job.data),
            "config": config.model_dump(mode="json"),
            "defaults": defaults_of(config),
            "versions": {name: version(name) for name in _LIBRARIES},
        }
        is_new = overwrite or read_training(out) is None
        folder = open_training(
            out,
            identity=_identity(config, policy, job),
            details=details if is_new else {},  # a continued one keeps those of its start
            overwrite=overwrite,
            config=details["config"],
        )
        checkpoint = None if folder.is_finished else folder.last_checkpoint()
        if not folder.is_finished:
            folder.cut_metrics(step_of(checkpoint) if checkpoint else 0)
        found = folder.manifest, checkpoint
    manifest, last = decided_by_first(found) or ({}, None)
    return TrainingDir(out, TRAINING, manifest), last


def _identity(config: TrainConfig, policy: PolicyFiles, job: Job) -> dict[str, Any]:
    """Return what decides the resulting weights, flat: a continued training must agree in it."""
    dumped = config.model_dump(mode="json", exclude={"model", "revision", "trust_remote_code"})
    flat = {
        key: value
        for key, value in leaves(dumped, depth=2)
        if key not in _FREE_KEYS and not key.startswith(_FREE_SECTIONS)
    }
    return {
        "model": policy.fingerprint,
        "tokenizer": policy.tokenizer_fingerprint,
        **job.identity,
        **flat,
    }


def _steps(
    folder: TrainingDir,
    checkpoint: Path | None,
    job: Job,
    policy: PolicyFiles,
    config: TrainConfig,
    context: TrainContext,
    started: float,
) -> TrainSummary:
    """Train to the end, write the model, and say how it went."""
    with _memory_named(), tensorboard_in(context.out / "logs"):
        prepared = job.prepare(context)
    trainer = prepared.trainer
    trainer.keep = config.checkpoints.keep
    trainer.warmup_from_zero = config.optim.warmup_from_zero
    trainer.remove_callback(PrinterCallback)
    metrics = Metrics(context.out / METRICS if is_first() else None, context.progress)
    trainer.add_callback(metrics)
    if prepared.stopping:
        trainer.add_callback(prepared.stopping)
    is_whole = not (config.lora.enabled or trainer.is_sharded)
    is_bf16 = saved_dtype(policy, config) is torch.bfloat16 if is_whole else None
    trainer.add_callback(FewSteps(context.progress, saved_in_bfloat16=is_bf16))
    if is_first():
        folder.set(**prepared.findings)
    context.progress.phase("training")
    try:
        with _memory_named():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        metrics.close()
    memory = None
    if is_first() or trainer.is_sharded:  # then each process has a part of every weight
        context.progress.phase("comparing the weights in memory with the saved ones")
        with _memory_named():
            model = trainer.model_wrapped
            if not trainer.is_sharded:
                model = trainer.accelerator.unwrap_model(trainer.model)
            memory = trainer.preferences(model, fixed_rows(trainer.train_dataset.rows))
    context.progress.phase("writing the model")
    _write_model(trainer, prepared, policy, config, context.out)
    if is_first():
        context.progress.phase("comparing the saved model with the start")
        found = compare(trainer, policy, prepared.load, context.out, memory)
        found |= {"text": summary(found), "warnings": warnings(found, merged=config.lora.merge)}
        _finish(folder, trainer, prepared, config, context, found)
    wait()
    done = trainer.state.global_step - (step_of(checkpoint) if checkpoint else 0)
    seconds = time.monotonic() - started
    return TrainSummary(out=context.out, manifest=folder.manifest, new_steps=done, seconds=seconds)


@contextmanager
def _memory_named() -> Iterator[None]:
    """Turn running out of the device's memory into a TrainError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainError(
            "out of memory; lower optim.micro_batch_rows or sequence.max_length, or train with "
            "--lora; the same command continues from the last checkpoint"
        ) from error


def _write_model(
    trainer: Trainer, prepared: Prepared, policy: PolicyFiles, config: TrainConfig, out: Path
) -> None:
    """Gather the weights of all processes, write them into `.model`, and move them into `out`."""
    unwrapped = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not is_first():
        return
    dtype = saved_dtype(policy, config)
    if config.lora.enabled and config.lora.merge:
        if trainer.is_sharded:  # this process has a part of each weight
            unwrapped = like_adapted(prepared.load(policy.directory), unwrapped)
        unwrapped.load_state_dict(state)
        if dtype is torch.float32:  # frozen weights may be in bfloat16
            unwrapped.to(dtype)
        unwrapped = unwrapped.merge_and_unload()
        state = unwrapped.state_dict()
    new = out / ".model"
    remove_tree(new)
    try:
        save_model(unwrapped, state, policy, new, dtype, tokenizer=prepared.tokenizer)
    except WRITE_ERRORS as error:
        if isinstance(error, RunError):
            raise
        remove_tree(new)
        raise RunError(unwritten(out, error)) from error
    publish_files(new, out)


def _finish(
    folder: TrainingDir,
    trainer: Trainer,
    prepared: Prepared,
    config: TrainConfig,
    context: TrainContext,
    comparison: Mapping[str, Any],
) -> None:
    """Write the card and the plot, and last of all `finished` into train.json."""
    history = [line for line in trainer.state.log_history if {"loss", "eval_loss"} & line.keys()]
    logs = [line for line in history if "loss" in line]
    saved = [*saved_files(context.out), context.out / METRICS]
    stopped = prepared.stopping.reason if prepared.stopping else None
    folder.manifest |= {
        "steps": trainer.state.global_step,
        "max_steps": trainer.state.max_steps,
        "stopped": stopped,
        "best_checkpoint": trainer.state.best_global_step if config.checkpoints.keep_best else None,
        "first": logs[0] if logs else {},
        "last": logs[-1] if logs else {},
        "comparison": comparison,
        "files": {path.name: one for path, one in sha256_of(saved).items()},
    }
    context.progress.note(comparison["text"])
    if "error" in comparison:
        context.progress.warn(f"the saved model was not compared: {comparison['error']}")
    for line in comparison["warnings"]:
        context.progress.warn(line)
    if stopped:
        context.progress.warn(f"stopped early: {stopped}")
    write_card(folder.manifest, history, context.out / "README.md")
    if config.log.plot and history and not draw(history, context.out / "loss.png"):
        context.progress.note("loss.png was not drawn: pip install 'sso-data[train]'")
    folder.set(finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    if not config.checkpoints.keep_finished:
        remove_tree(context.out / "checkpoints")
