"""A reward model in memory: sequences of ids in, one number for each out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineError, ModelError
from sso_data.models.hf_model import load_weights, pick_device, pick_dtype, put_on

_HEADS = ("score", "classifier")


class RewardModel:
    """A sequence classifier of one label; its reward is read at the last token of a sequence.

    Sequences are padded on the right with the model's own padding token, by which it finds that
    last token, or with `pad_id` where it names none. The head works in fp32: in bf16, rewards
    between 4 and 8 would come in steps of 1/32, and close answers would seem equal.
    """

    def __init__(
        self, directory: Path, config: EngineConfig, *, pad_id: int, batch_tokens: int
    ) -> None:
        """Raises ModelError where the directory holds no reward model."""
        self._device = pick_device(config.device)
        dtype = pick_dtype(config.dtype, self._device)
        self._batch_tokens = batch_tokens
        self._model: Any = _load(directory, config, dtype, self._device)
        _head_in_fp32(directory, self._model)
        text_config = self._model.config.get_text_config()
        own = text_config.pad_token_id
        self._pad_id: int = pad_id if own is None else own
        self._model.config.pad_token_id = self._pad_id
        text_config.pad_token_id = self._pad_id

    def rewards(self, sequences: Sequence[list[int]]) -> Iterator[tuple[int, float]]:
        """(position, reward) of every sequence, in an order of its own: the longest first.

        A batch that does not fit into memory is halved. Raises EngineError where one sequence does
        not fit, or a reward is not finite.
        """
        order = sorted(range(len(sequences)), key=lambda at: len(sequences[at]), reverse=True)
        start = 0
        while start < len(order):
            width = len(sequences[order[start]])
            part = order[start : start + max(1, self._batch_tokens // width)]
            found = self._tried([sequences[at] for at in part])
            if found is None:
                self._batch_tokens = width * (len(part) // 2)
                continue
            yield from zip(part, found, strict=True)
            start += len(part)

    def close(self) -> None:
        """Free the model."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _tried(self, batch: list[list[int]]) -> list[float] | None:
        """The batch's rewards; None where it must be smaller."""
        try:
            rewards = self._forward(batch)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if len(batch) > 1:
                return None
            raise EngineError(
                f"the reward model has no memory for {len(batch[0])} tokens on {self._device}"
            ) from error
        if not all(map(_is_finite, rewards)):
            raise EngineError(
                "the reward model gives rewards that are not finite; try engine.dtype=float32"
            )
        return rewards

    @torch.inference_mode()
    def _forward(self, batch: list[list[int]]) -> list[float]:
        width = max(map(len, batch))
        ids = [row + [self._pad_id] * (width - len(row)) for row in batch]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in batch]
        logits: Tensor = self._model(
            input_ids=torch.tensor(ids, device=self._device),
            attention_mask=torch.tensor(mask, device=self._device),
        ).logits
        found: list[float] = logits.float().view(-1).tolist()
        return found


def _load(directory: Path, config: EngineConfig, dtype: torch.dtype, device: torch.device) -> Any:
    kind = transformers.AutoModelForSequenceClassification
    model, missing = load_weights(kind, directory, config, dtype)
    if missing:
        raise ModelError(
            f"{directory}: not a reward model: its files have no {missing[0]}; make one with "
            "`sso-data train --objective reward`"
        )
    if model.config.num_labels != 1:
        raise ModelError(
            f"{directory}: not a reward model: it has {model.config.num_labels} labels, and a "
            "reward is one number"
        )
    return put_on(device, model, directory)


def _head_in_fp32(directory: Path, model: Any) -> None:
    """Let the head, and what enters it, be fp32."""
    head = next((getattr(model, name) for name in _HEADS if hasattr(model, name)), None)
    if head is None:
        raise ModelError(f"{directory}: has none of the heads {', '.join(_HEADS)}")
    head.float()
    head.register_forward_pre_hook(lambda _module, args: tuple(arg.float() for arg in args))


def _is_finite(number: float) -> bool:
    return number == number and abs(number) != float("inf")
