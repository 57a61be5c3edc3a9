"""Training the policy: rows, references checked on this machine, D at step 0, the SSO trainer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sso_data.config.training import EarlyStoppingConfig, TrainConfig
from sso_data.models.training_model import PolicyFiles, compute_dtype, load_model
from sso_data.training.callbacks import EarlyStopping
from sso_data.training.checkpoints import PolicyTrainer
from sso_data.training.dataset import Data, describe, load_data, without_references
from sso_data.training.encode import EncodedRow
from sso_data.training.errors import TrainError
from sso_data.training.job import Prepared, TrainContext
from sso_data.training.loss import terms_of
from sso_data.training.preference_terms import PREFERENCE_TERMS
from sso_data.training.processes import shared_scorer
from sso_data.training.reference import Scorer, loss_difference, model_scorer, resolve_references

_STEP_0_ROWS = 16


class PolicyJob:
    """Train the policy by `config.loss` on the rows of `source`."""

    def __init__(self, source: str, policy: PolicyFiles, config: TrainConfig) -> None:
        """Reads and checks the rows; InputError for whatever is wrong with them."""
        self._policy = policy
        self._config = config
        self._rows = load_data(source, policy, config)
        self._source = source

    @property
    def identity(self) -> Mapping[str, Any]:
        """Which data, rendered how."""
        return {
            "data": self._rows.fingerprint,
            "chat_template": self._rows.template_fingerprint,
        }

    @property
    def data(self) -> Mapping[str, Any]:
        """The data, for train.json and the card."""
        rows = self._rows
        return {
            "source": self._source,
            "fingerprint": rows.fingerprint,
            "training": len(rows.train),
            "held_out": len(rows.held_out),
            "encoding": rows.report.to_json(),
            "made_by": [
                {"model": model, "fingerprint": fingerprint, "rows": count}
                for (model, fingerprint), count in rows.made_by.items()
            ],
        }

    @property
    def lines(self) -> Sequence[str]:
        """The data, for a person."""
        return describe(self._rows)

    @property
    def warnings(self) -> Sequence[str]:
        """What looks odd about the data."""
        found = length_warning(self._rows, self._config.stop)
        if self._rows.foreign_model:
            others = ", ".join(sorted({model for model, _ in self._rows.made_by}))
            found.append(
                f"rows were sampled by other weights ({others}) than --model's: they are "
                "off-policy, and their references are scored here"
            )
        return found

    def prepare(self, context: TrainContext) -> Prepared:
        """Load the model, fill in the references and make the trainer."""
        config, args = self._config, context.args
        context.progress.phase(f"loading {self._policy.name}")
        model = load_model(self._policy, config)
        rows, held_out, findings = self._with_references(model, context)
        trainer = PolicyTrainer(
            model,
            args,
            loss=config.loss,
            rows=rows,
            eval_rows=held_out,
            pad_id=self._pad_id,
        )
        start = _mean_chosen(rows) if config.loss.needs_reference else None
        watch = EarlyStopping(config.stop, start, context.progress)
        return Prepared(trainer=trainer, findings=findings, watch=watch)

    @property
    def _pad_id(self) -> int:
        return int(self._policy.tokenizer.pad_token_id or 0)

    def _with_references(
        self, model: Any, context: TrainContext
    ) -> tuple[list[EncodedRow], list[EncodedRow], dict[str, Any]]:
        """Training and held-out rows with references, and what the check found."""
        config, rows = self._config, self._rows
        every = [*rows.train, *rows.held_out]
        if rows.foreign_model:
            every = without_references(every)
        dtype = compute_dtype(config)
        if config.loss.needs_reference:
            context.progress.phase("checking the references")
            self._move(model, context)
        scorer = model_scorer(
            model,
            terms_of(config.loss).contrasts,
            pad_id=self._pad_id,
            autocast=dtype if dtype is torch.bfloat16 else None,
        )
        every, report = resolve_references(
            every,
            shared_scorer(scorer),
            config.loss,
            config.reference,
            cache=context.out / "references.npz",
            model_key=f"{self._policy.fingerprint}/{dtype}/{context.args.device.type}",
            writes_cache=context.args.process_index == 0,
        )
        context.progress.note(str(report))
        findings: dict[str, Any] = {"references": {"text": str(report), **report.to_json()}}
        if config.loss.needs_reference:
            found = d_at_step_0(every, scorer, config)
            findings["references"]["d_at_step_0"] = found
            context.progress.note(
                f"D at step 0: 95 % of {min(_STEP_0_ROWS, len(every))} rows within {found:.2g} "
                f"in what the loss sees (tolerance {config.reference.tolerance})"
            )
            if found > config.reference.tolerance:
                context.progress.warn("D at step 0 is over the tolerance; see docs/training.md")
        return every[: len(rows.train)], every[len(rows.train) :], findings

    @staticmethod
    def _move(model: Any, context: TrainContext) -> None:
        """Put the model where it is scored, whole: before FSDP or DeepSpeed cut it."""
        try:
            model.to(context.args.device)
        except torch.OutOfMemoryError as error:
            raise TrainError(
                f"the whole model does not fit on {context.args.device} to check the references; "
                "use a base loss without reference (simpo, orpo), or LoRA"
            ) from error


def d_at_step_0(rows: Sequence[EncodedRow], scorer: Scorer, config: TrainConfig) -> float:
    """The 95th percentile of |D| before the first step over rows spread over the data, in what the
    loss sees (nats/token, or beta times nats)."""
    picked = np.linspace(0, len(rows) - 1, min(_STEP_0_ROWS, len(rows))).round().astype(np.intp)
    sample = [rows[index] for index in picked]
    contrasts = terms_of(config.loss).contrasts
    here = np.full((len(sample), *sample[0].ref_CS.shape), np.nan)
    for positions, found in scorer(sample):
        here[positions] = found
    tokens = np.ones_like(here)
    for index, row in enumerate(sample):
        for name in contrasts:
            place = PREFERENCE_TERMS.index(name)
            tokens[index, place] = [len(row.sequence(name, side)[1]) for side in (0, 1)]
    ref = np.stack([row.ref_CS for row in sample])
    return float(np.nanquantile(loss_difference(here, ref, tokens, config.loss), 0.95))


def _mean_chosen(rows: Sequence[EncodedRow]) -> float | None:
    """Mean log-prob of y+ under the plain view, nats/token, as the references have it."""
    if "plain" not in rows[0].prompts:
        return None
    found = [row.ref_CS[0, 0] / len(row.completions["good"]) for row in rows]
    mean = float(np.mean(found))
    return mean if np.isfinite(mean) else None


def length_warning(data: Data, config: EarlyStoppingConfig) -> list[str]:
    """A line where chosen and rejected responses differ much in length."""
    ratio = data.length_ratio
    if 1 / config.warn_length_ratio <= ratio <= config.warn_length_ratio:
        return []
    return [
        f"chosen responses are {ratio:.2f} times as long as rejected ones "
        f"(stop.warn_length_ratio {config.warn_length_ratio}): the policy learns length from that"
    ]
