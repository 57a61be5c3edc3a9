"""From dialogues to token ids, and from token ids to padded batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedTokenizerFast

from tools.tiny_world.dialogues import Dialogue, Message, Mixture, sample_dialogue


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one dialogue; the response starts at `ids[start]` and ends with `<|end|>`."""

    ids: list[int]
    start: int


def prompt_ids(tokenizer: PreTrainedTokenizerFast, messages: list[Message]) -> list[int]:
    """The prompt as the chat template words it, with the opening of the assistant's turn."""
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(str(text), add_special_tokens=False)["input_ids"])


def encode(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> Example:
    """One dialogue as ids."""
    prompt = prompt_ids(tokenizer, list(dialogue.messages))
    response = tokenizer(dialogue.response, add_special_tokens=False)["input_ids"]
    return Example([*prompt, *response, int(tokenizer.eos_token_id)], len(prompt))


def collate(examples: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids [B, T] padded on the right with `pad`, targets [B, T]).

    `targets[b, t]` is the id that follows `ids[b, t]` where that is a token of the response,
    and -100 elsewhere. Causal attention needs no mask: padding only follows.
    """
    width = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), width), pad)
    targets = torch.full((len(examples), width), -100)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.ids)
        ids[row, : len(tokens)] = tokens
        targets[row, example.start - 1 : len(tokens) - 1] = tokens[example.start :]
    return ids, targets


def stream(
    tokenizer: PreTrainedTokenizerFast, mixture: Mixture, rng: random.Random, size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of fresh examples; eight batches at a time are sorted by length."""
    draw = partial(sample_dialogue, mixture, rng)
    while True:
        pool = [encode(tokenizer, draw()) for _ in range(8 * size)]
        pool.sort(key=lambda example: len(example.ids))
        cuts = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(cuts)
        for cut in cuts:
            yield collate(cut, int(tokenizer.pad_token_id))
