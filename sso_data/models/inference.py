"""Models in memory for inference: sampling, scoring and rewards, without gradients."""

import inspect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineError, ModelError
from sso_data.models.facts import ModelFacts
from sso_data.models.head import IGNORED, CompletionScorer
from sso_data.models.loading import (
    load_adapter,
    load_causal_lm,
    load_weights,
    pick_attention,
    pick_device,
    pick_dtype,
    put_on,
)
from sso_data.models.memory import free_memory, is_out_of_memory, pass_tokens, release_device_memory

REWARD_HEADS = ("score", "classifier")
"""What transformers' sequence classifiers call their head."""


class LoadedModel:
    """The forward passes that sampling and scoring need."""

    def __init__(self, model_path: Path, config: EngineConfig, facts: ModelFacts) -> None:
        """Raises ModelError or EngineError where the model cannot be loaded here."""
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config, self.device)
        self.eos_ids = frozenset(facts.eos_ids)
        model = load_causal_lm(
            model_path,
            self.dtype,
            trust_remote_code=config.trust_remote_code,
            **pick_attention(config),
        )
        if config.adapter is not None:
            model = load_adapter(model, config.adapter)
        self._model = put_on(self.device, model, model_path)
        self._scorer = CompletionScorer(self._model)
        self.config = self._model.config
        self._keeps_logits = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._kv_bytes = facts.kv_numbers * self.dtype.itemsize

    def tensor(self, values: list[Any]) -> Tensor:
        """Integers on the model's device."""
        return torch.tensor(values, dtype=torch.long, device=self.device)

    def numbers(self, values: list[float]) -> Tensor:
        """Real numbers on the model's device, fp64 where it has it."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.tensor(values, dtype=wide, device=self.device)

    def cache_room(self) -> int:
        """Return how many tokens the key-value cache may hold in the memory that is free now."""
        if self.device.type == "cuda":
            free = int(torch.cuda.mem_get_info(self.device)[0] * 0.6)
        else:
            free = free_memory() // 2
        return free // self._kv_bytes

    def last_logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Logits [B, V] after the last column of `ids` [B, W]; `cache` takes in the new columns."""
        options = {"logits_to_keep": 1} if self._keeps_logits else {}
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **options,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def completion_logprobs(
        self, prompts: list[list[int]], completions: list[list[int]]
    ) -> list[list[float]]:
        """Log-probs (nats) of each completion's ids directly after its prompt, in one forward pass.

        Rows are padded on the right, where causal attention never looks from inside a row; only the
        positions that predict completion ids reach the vocabulary.
        """
        width = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        targets = torch.full_like(ids, IGNORED)
        spans = []
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            end = len(prompt) + len(completion)
            spans.append(slice(len(prompt) - 1, end - 1))
            ids[row, :end] = torch.tensor(prompt + completion)
            targets[row, spans[-1]] = torch.tensor(completion)
        moved = ids.to(self.device), targets.to(self.device)
        nats = self._scorer.token_nats(self._model, *moved).cpu()
        return [nats[row, span].tolist() for row, span in enumerate(spans)]


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
        self._batch_tokens = pass_tokens(self._device.type, batch_tokens)
        model, missing = load_weights(
            transformers.AutoModelForSequenceClassification,
            directory,
            pick_dtype(config, self._device),
            trust_remote_code=config.trust_remote_code,
            **pick_attention(config),
        )
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
        head = next((getattr(model, name) for name in REWARD_HEADS if hasattr(model, name)), None)
        if head is None:
            raise ModelError(f"{directory}: has none of the heads {', '.join(REWARD_HEADS)}")
        self._model: Any = put_on(self._device, model, directory)
        head.float()
        head.register_forward_pre_hook(lambda _module, args: tuple(arg.float() for arg in args))
        text_config = model.config.get_text_config()
        self._pad_id: int = pad_id if text_config.pad_token_id is None else text_config.pad_token_id
        model.config.pad_token_id = text_config.pad_token_id = self._pad_id

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
        release_device_memory()

    def _tried(self, batch: list[list[int]]) -> list[float] | None:
        """The batch's rewards; None where it must be smaller."""
        try:
            rewards = self._forward(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            release_device_memory()
            if len(batch) > 1:
                return None
            raise EngineError(
                f"out of memory on {self._device} for {len(batch[0])} tokens in the reward model"
            ) from error
        if not all(map(math.isfinite, rewards)):
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
