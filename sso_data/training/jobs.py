"""What is trained, a policy or a reward model: rows read and checked, then a trainer for them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from sso_data.config.training import TrainConfig
from sso_data.core.errors import TrainError
from sso_data.core.fingerprints import sampled
from sso_data.core.progress import Progress
from sso_data.models.loading import load_causal_lm
from sso_data.models.training_model import (
    PolicyFiles,
    compute_dtype,
    load_model,
    with_adapter,
)
from sso_data.prompts.preferences import pairs_layout, read_preferences
from sso_data.runs.run import RUN, read_run
from sso_data.training.callbacks import EarlyStopping
from sso_data.training.data import (
    Data,
    PairReader,
    RewardData,
    describe,
    fingerprint_of,
    fitting,
    load_data,
    mix_summary,
    naming,
    reward_data,
)
from sso_data.training.encode import EncodedRow, EncodeReport
from sso_data.training.loss import terms_of
from sso_data.training.reference import (
    STEP_0_ROWS,
    d_at_step_0,
    model_scorer,
    resolve_references,
    shared_scorer,
)
from sso_data.training.reward import RewardTrainer, load_reward_model
from sso_data.training.row_trainer import RowTrainer
from sso_data.training.saved import Load
from sso_data.training.trainer import SSOTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainContext:
    """The surroundings of a training: its directory, Trainer's arguments, its progress."""

    out: Path
    args: TrainingArguments
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A trainer with its model loaded; `findings` go to train.json.

    `load` loads a whole model in float32, for the comparison at the end. `stopping` may end the
    training early; `tokenizer` is saved in place of the policy's own files.
    """

    trainer: RowTrainer
    findings: Mapping[str, Any]
    load: Load
    stopping: EarlyStopping | None = None
    tokenizer: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something to train, its rows read and checked.

    `identity`: what decides the result beyond the configuration. `data`: the rows, for train.json
    and the card. `notes`, `warnings`: the rows, and what looks odd about them, in lines for a
    person. `prepare`: loads the model and makes the trainer.
    """

    identity: Mapping[str, Any]
    data: Mapping[str, Any]
    notes: Sequence[str]
    warnings: Sequence[str]
    prepare: Callable[[TrainContext], Prepared]


def policy_job(source: str, policy: PolicyFiles, config: TrainConfig) -> Job:
    """Train the policy by `config.loss` on the rows of `source`.

    Raises InputError for whatever is wrong with the rows.
    """
    data = load_data(source, policy, config)
    warnings = []
    ratio, most = data.length_ratio, config.stop.warn_length_ratio
    if not 1 / most <= ratio <= most:
        longer, shorter = ("chosen", "rejected") if ratio > 1 else ("rejected", "chosen")
        warnings.append(
            f"{longer} responses are {max(ratio, 1 / ratio):.2f} times as long as {shorter} ones "
            f"(warned from stop.warn_length_ratio={most:g} on): the policy may learn length"
        )
    if data.off_policy:
        others = ", ".join(sorted({model for model, _ in data.made_by}))
        warnings.append(
            f"rows were sampled by other models ({others}): they are off-policy for --model, and "
            "their references are scored again"
        )

    load = partial(load_causal_lm, dtype=torch.float32, trust_remote_code=config.trust_remote_code)

    def prepare(context: TrainContext) -> Prepared:
        context.progress.phase(f"loading {policy.name}")
        model = load_model(policy, config)
        pad_id = int(policy.tokenizer.pad_token_id or 0)
        run = read_run(Path(source)) if Path(source, RUN.manifest).is_file() else None
        sampled_in = ((run or {}).get("engine") or {}).get("dtype")
        rows, found = _with_references(data, model, pad_id, policy, config, context, sampled_in)
        count = len(data.train)
        trainer = SSOTrainer(
            model,
            context.args,
            loss=config.loss,
            rows=rows[:count],
            eval_rows=rows[count:],
            pad_id=pad_id,
        )
        start = None  # mean log-prob of y+ under the plain view, as the references have it
        if config.loss.needs_reference and "plain" in rows[0].prompts:
            chosen = [row.ref_CS[0, 0] / len(row.completions["good"]) for row in rows[:count]]
            start = float(np.mean(chosen)) if np.isfinite(chosen).all() else None
        stopping = EarlyStopping(config.stop, start, context.progress)
        return Prepared(
            trainer=trainer,
            findings={"references": found},
            load=load,
            stopping=stopping,
        )

    return Job(
        identity={"data": data.fingerprint, "chat_template": data.template_fingerprint},
        data={
            "source": source,
            "fingerprint": data.fingerprint,
            "training": len(data.train),
            "held_out": len(data.held_out),
            "encoding": data.report.to_json(),
            "made_by": [
                {"model": model, "fingerprint": fingerprint, "rows": rows}
                for (model, fingerprint), rows in data.made_by.items()
            ],
        },
        notes=[line for line in (pairs_layout(source, config.data.split), *describe(data)) if line],
        warnings=warnings,
        prepare=prepare,
    )


def _with_references(
    data: Data,
    model: Any,
    pad_id: int,
    policy: PolicyFiles,
    config: TrainConfig,
    context: TrainContext,
    sampled_in: str | None,
) -> tuple[list[EncodedRow], dict[str, Any]]:
    """Training rows, then held-out ones, with references; and what the check found.

    `sampled_in`: the number format of the engine that made the rows; None for data from elsewhere.
    """
    rows, loss, progress = [*data.train, *data.held_out], config.loss, context.progress
    if data.off_policy:  # another model's log-probs do not count
        rows = [replace(row, ref_CS=np.full_like(row.ref_CS, np.nan)) for row in rows]
    if loss.needs_reference:
        progress.phase("checking the references")
        try:  # whole, before FSDP or DeepSpeed shard it
            model.to(context.args.device)
        except torch.OutOfMemoryError as error:
            raise TrainError(
                f"checking the references needs the whole model on {context.args.device}, which "
                "does not fit; use a loss.type without reference (simpo, orpo), or LoRA"
            ) from error
    dtype = compute_dtype(config)
    scorer = model_scorer(
        model,
        terms_of(loss).names,
        pad_id=pad_id,
        autocast=dtype if dtype is torch.bfloat16 else None,
    )
    rows, report = resolve_references(
        rows,
        shared_scorer(scorer),
        loss,
        config.reference,
        cache=context.out / "references.npz",
        model_key=f"{sampled(policy.fingerprint)}/{dtype}/{context.args.device.type}",
        writes_cache=context.args.process_index == 0,
        formats=(str(dtype).removeprefix("torch."), sampled_in),
    )
    progress.note(str(report))
    findings: dict[str, Any] = {"text": str(report), **report.to_json()}
    if loss.needs_reference:
        found, tolerance = d_at_step_0(rows, scorer, loss), config.reference.tolerance
        findings["d_at_step_0"] = found
        progress.note(
            f"policy/reference difference (D) before training: 95 % of "
            f"{min(STEP_0_ROWS, len(rows))} rows within {found:.2g} (tolerance {tolerance})"
        )
        if found > tolerance:
            progress.warn(
                "policy/reference difference (D) exceeds the tolerance: the references do not "
                "match this model; see docs/training.md"
            )
    return rows, findings


def _reward_rows(
    source: str, policy: PolicyFiles, config: TrainConfig
) -> tuple[RewardData, EncodeReport]:
    """The rows of a reward model, and the count of rows that could not be read as pairs."""
    reader = PairReader(
        tokenizer=policy.tokenizer,
        sequences=fitting(config.sequence, policy),
        views=config.views,
        eos_ids=frozenset(policy.facts.eos_ids),
        vocab_size=policy.facts.vocab_size,
        skip_bad_rows=config.data.skip_bad_rows,
    )
    malformed = EncodeReport()
    skip = malformed.add_malformed if config.data.skip_bad_rows else None
    with naming(source):
        data = reward_data(
            read_preferences(source, split=config.data.split, limit=config.data.limit, skip=skip),
            [
                read_preferences(part.data, split=part.split, skip=skip)
                for part in config.reward.mix
            ],
            reader,
            config.reward,
            eval_share=config.data.eval_share,
            seed=config.seed,
        )
    return data, malformed


def reward_job(source: str, policy: PolicyFiles, config: TrainConfig) -> Job:
    """Train a reward model by `config.reward` on the rows of `source` and what is mixed in.

    Raises InputError for whatever is wrong with the rows, TrainError where none is left.
    """
    data, malformed = _reward_rows(source, policy, config)
    fingerprint = fingerprint_of([*data.rows, *data.eval_rows])
    mix = mix_summary(data, config.reward)
    taken = ", ".join(f"{name} {count}" for name, count in mix.items())
    reports = [report.to_json() for report in (*data.reports, malformed)]

    trusted = config.trust_remote_code
    load = partial(
        load_reward_model, tokenizer=policy.tokenizer, seed=config.seed, trust_remote_code=trusted
    )

    def prepare(context: TrainContext) -> Prepared:
        context.progress.phase(f"loading {policy.name}")
        model = load(policy.directory)
        model.config.use_cache = False
        pad_id = model.config.get_text_config().pad_token_id
        if config.lora.enabled:
            model = with_adapter(model, policy, config, task="SEQ_CLS")
        trainer = RewardTrainer(
            model,
            context.args,
            config=config.reward,
            rows=data.rows,
            eval_rows=data.eval_rows or None,
            pad_id=pad_id,
        )
        findings = {"references": {"text": "a reward model needs none"}}
        return Prepared(trainer=trainer, findings=findings, load=load, tokenizer=policy.tokenizer)

    return Job(
        identity={"data": fingerprint},
        data={
            "source": source,
            "fingerprint": fingerprint,
            "training": len(data.rows),
            "held_out": len(data.eval_rows),
            "encoding": {name: sum(report[name] for report in reports) for name in reports[0]},
            "made_by": [],
            "mix": dict(mix),
        },
        notes=[
            *filter(None, [pairs_layout(source, config.data.split)]),
            f"training on {len(data.rows)} rows ({taken}), {len(data.eval_rows)} held out",
            *(one.malformed_line for one in (malformed, *data.reports) if one.malformed),
        ],
        warnings=[],
        prepare=prepare,
    )
