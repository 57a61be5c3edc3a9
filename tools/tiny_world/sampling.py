"""Batched sampling and scoring with plain transformers, for measuring the tiny policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.tiny_world.batches import Example, collate, prompt_ids
from tools.tiny_world.dialogues import Message


@dataclass(frozen=True, slots=True)
class Drawn:
    """One sampled response: its text, its ids (with `<|end|>` when it ended) and its prompt's."""

    text: str
    ids: list[int]
    prompt: list[int]
    ended: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """A loaded checkpoint, computing in fp32."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def load(cls, folder: Path) -> Policy:
        """Read a checkpoint folder."""
        model = LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        return cls(model.eval(), AutoTokenizer.from_pretrained(str(folder)))


def _next_ids(
    logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator
) -> torch.Tensor:
    """One id a row from `logits` [B, V], of the smallest set whose mass reaches `top_p`."""
    mass, order = torch.softmax(logits / temperature, -1).sort(-1, descending=True)
    mass = mass * (mass.cumsum(-1) - mass < top_p)
    pick = torch.multinomial(mass, 1, generator=generator)
    return order.gather(1, pick)[:, 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """How tokens are drawn: by default as the product draws responses."""

    temperature: float = 0.7
    top_p: float = 0.8


PRODUCT = Heat()


@torch.inference_mode()
def _continue(
    policy: Policy, prompts: list[list[int]], most: int, heat: Heat, generator: torch.Generator
) -> list[list[int]]:
    """The ids drawn after each prompt of one batch, at most `most`; rows that end leave."""
    pad, end = int(policy.tokenizer.pad_token_id), int(policy.tokenizer.eos_token_id)
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    rows, cache = torch.arange(len(prompts)), None
    drawn: list[list[int]] = [[] for _ in prompts]
    for _ in range(most):
        places = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = policy.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        new = _next_ids(out.logits[:, -1], heat.temperature, heat.top_p, generator)
        for row, token in zip(rows.tolist(), new.tolist(), strict=True):
            drawn[row].append(token)
        keep = (new != end).nonzero()[:, 0]
        if not len(keep):
            break
        if len(keep) < len(rows):
            cache.batch_select_indices(keep)
        rows, mask, ids = rows[keep], mask[keep], new[keep, None]
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
    return drawn


def sample(
    policy: Policy,
    prompts: list[list[Message]],
    *,
    seed: int,
    heat: Heat = PRODUCT,
    most: int = 256,
    batch: int = 256,
) -> list[Drawn]:
    """One response a prompt, at most `most` tokens each.

    Prompts go in batches sorted by length; the results keep the order of `prompts`.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = [prompt_ids(policy.tokenizer, messages) for messages in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    results: dict[int, list[int]] = {}
    for cut in range(0, len(order), batch):
        rows = order[cut : cut + batch]
        drawn = _continue(policy, [ids[i] for i in rows], most, heat, generator)
        results.update(zip(rows, drawn, strict=True))
    end = int(policy.tokenizer.eos_token_id)
    return [
        Drawn(
            str(policy.tokenizer.decode(results[i], skip_special_tokens=True)),
            results[i],
            ids[i],
            results[i][-1] == end,
        )
        for i in range(len(ids))
    ]


@torch.inference_mode()
def mean_logps(
    policy: Policy, pairs: list[tuple[list[int], list[int]]], *, batch: int = 16
) -> list[float]:
    """Mean log-probability (nats a token) of each response's ids after its prompt's ids."""
    examples = [Example([*prompt, *response], len(prompt)) for prompt, response in pairs]
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    means = [0.0] * len(examples)
    for cut in range(0, len(order), batch):
        rows = order[cut : cut + batch]
        ids, targets = collate([examples[i] for i in rows], int(policy.tokenizer.pad_token_id))
        logps = policy.model(input_ids=ids).logits.log_softmax(-1)
        taken = logps.gather(2, targets.clamp(min=0)[..., None])[..., 0]
        wanted = targets != -100
        for place, i in enumerate(rows):
            means[i] = float(taken[place][wanted[place]].mean())
    return means
