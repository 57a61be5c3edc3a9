"""A reward model on preference pairs: Bradley-Terry, a head of one number, `RewardTrainer`.

Shape letters: B rows, S sides (preferred, other). The reward of a response is read at the last
token of prompt + response, as every `AutoModelForSequenceClassification` of a decoder does; a
response is scored as it was sampled, its end-of-sequence token included and nothing after it.
"""

# ruff: noqa: N803 - shape letters

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, TrainingArguments, set_seed

from sso_data.config.training import RewardConfig
from sso_data.core.errors import ModelError
from sso_data.models.inference import REWARD_HEADS
from sso_data.models.loading import load_weights
from sso_data.training.batch import Batch, response_tokens
from sso_data.training.encode import EncodedRow
from sso_data.training.row_trainer import RowTrainer


def bradley_terry(rewards_BS: Tensor, center_coefficient: float = 0.0) -> Tensor:
    """-log sigmoid(r+ - r-) + center_coefficient * (r+ + r-)^2, one loss a row [B].

    The first term is the negative log-likelihood of the Bradley-Terry model (arXiv 2305.18290 eqs.
    1 and 2, arXiv 2203.02155 eq. 1 for two responses a prompt); the second, which fixes the
    rewards' free constant near 0, is Eisenstein et al.'s (arXiv 2312.09244).
    """
    preferred, other = rewards_BS.unbind(-1)
    loss = -functional.logsigmoid(preferred - other)
    return loss + center_coefficient * (preferred + other) ** 2 if center_coefficient else loss


def reward_metrics(rewards_BS: Tensor, tokens_BS: Tensor) -> dict[str, Tensor]:
    """Return metrics per row, [B] each: `accuracy` is 1 where r+ > r-, 1/2 where equal.

    `tokens_*` count the response's tokens: they show a reward that only follows length.
    """
    rewards = rewards_BS.detach().float()
    margin = rewards[:, 0] - rewards[:, 1]
    return {
        "accuracy": (torch.sign(margin) + 1) / 2,
        "margin": margin,
        "reward_chosen": rewards[:, 0],
        "reward_rejected": rewards[:, 1],
        "tokens_chosen": tokens_BS[:, 0].float(),
        "tokens_rejected": tokens_BS[:, 1].float(),
    }


class RewardTrainer(RowTrainer):
    """Trains a sequence classifier of one label on encoded rows.

    Overridden besides RowTrainer's: `training_step` (a step's mean over its rows), `compute_loss`
    and `prediction_step` (no labels; our metrics).
    """

    preference_of = "reward of y+ less that of y-"
    starts_from_policy = False  # its head is new

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        config: RewardConfig,
        rows: Sequence[EncodedRow],
        eval_rows: Sequence[EncodedRow] | None = None,
        pad_id: int,
        **options: Any,
    ) -> None:
        """`pad_id` is the model's own, by which it finds the last token of a sequence."""
        self.config = config
        super().__init__(
            model,
            args,
            terms=("base",),
            rows=rows,
            eval_rows=eval_rows,
            pad_id=pad_id,
            **options,
        )

    def training_step(
        self,
        model: nn.Module,
        inputs: Batch,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Forward and backward of a micro-batch; gives its share of the step's mean loss."""
        model.train()
        rewards = self.rewards(model, inputs)
        losses = bradley_terry(rewards, self.config.center_rewards_coefficient)
        self._refuse_nonfinite(losses, inputs)
        loss = losses.sum() * self._scale(inputs, num_items_in_batch)
        self._backward(loss)
        self._note(self._pending, reward_metrics(rewards, response_tokens(inputs["base"])))
        return loss.detach()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's mean loss."""
        rewards = self.rewards(model, inputs)
        loss = bradley_terry(rewards, self.config.center_rewards_coefficient).mean()
        return (loss, {"rewards": rewards}) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The mean loss; there are no labels."""
        with torch.no_grad():
            rewards = self.rewards(model, inputs)
        self._note(self._pending_eval, reward_metrics(rewards, response_tokens(inputs["base"])))
        return bradley_terry(rewards, self.config.center_rewards_coefficient).mean(), None, None

    def preferences(self, model: Any, rows: Sequence[EncodedRow]) -> NDArray[np.float64]:
        """r(y+) - r(y-) of rows [n]."""
        size, found = self.args.per_device_eval_batch_size, []
        compute = torch.autocast(model.device.type, torch.bfloat16, enabled=self.args.bf16)
        for first in range(0, len(rows), size):
            batch = self.data_collator(list(enumerate(rows[first : first + size])))
            with torch.no_grad(), compute:
                rewards = self.rewards(model, batch)
            found.append((rewards[:, 0] - rewards[:, 1]).double().cpu().numpy())
        return np.concatenate(found)

    def rewards(self, model: Any, inputs: Batch) -> Tensor:
        """Rewards [B, S] of a batch, fp32 at least, from one forward pass."""
        sequences = {
            name: inputs["base"][name].to(self.args.device)
            for name in ("input_ids", "attention_mask")
        }
        logits: Tensor = model(**sequences, use_cache=False).logits
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits.view(2, -1).T

    def floating_point_ops(self, inputs: Batch) -> int:
        """Forward and backward of every token: 6 a parameter."""
        return int(6 * inputs["base"]["input_ids"].numel() * self._num_parameters)


def load_reward_model(
    model_dir: Path,
    tokenizer: Any,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Any:
    """The model of a directory under a head of one number, drawn from `seed` where it is new.

    Model and tokenizer are given the same padding token (`padding_id`). Only safetensors are
    loaded. Raises ModelError for a model that has no such head, a head of another size, or lacks
    other weights.
    """
    set_seed(seed)
    kind = AutoModelForSequenceClassification
    model, missing = load_weights(
        kind, model_dir, dtype, trust_remote_code=trust_remote_code, num_labels=1
    )
    if lost := [name for name in missing if name.split(".")[0] not in REWARD_HEADS]:
        raise ModelError(f"{model_dir}: its files lack weights of the model: {lost[:3]}")
    pad_id = padding_id(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    model.config.pad_token_id = pad_id
    model.config.get_text_config().pad_token_id = pad_id
    return model


def padding_id(tokenizer: Any) -> int:
    """The padding token's id: one that ends no response, as far as the tokenizer has one.

    A reward is read at the last token that is not padding. Where EOS is the padding token, too,
    that would be the token before EOS; then another special token takes its place. Raises
    ModelError for a tokenizer without any.
    """
    end = tokenizer.eos_token_id
    named = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id)
    special = [token for token in (*named, *tokenizer.all_special_ids) if token is not None]
    for token in (*(token for token in special if token != end), end):
        if token is not None:
            return int(token)
    raise ModelError("the tokenizer has no special token to pad with; set its pad_token")
