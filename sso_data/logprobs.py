"""Log-probs of given token ids from hidden states, a chunk of positions at a time."""

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_ELEMENTS = 2**26
"""Logits that exist at once by default: 256 MiB in fp32."""


def target_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_rows: int | None = None,
) -> Tensor:
    """The log-prob of each target id, fp32 in nats, shape [N].

    `hidden` is [N, H] (one row per predicted position), `weight` the LM head [V, H], `bias` [V],
    `targets` [N] token ids. Logits are made in the dtype of the weights, as the model makes them,
    and normalised in fp32; at most `chunk_rows` rows of [V] exist at once (by default as many as
    CHUNK_ELEMENTS holds). A row's value does not depend on the rows beside it but for rounding.
    """
    rows = chunk_rows or max(1, CHUNK_ELEMENTS // weight.shape[0])
    found = [
        logits_logprobs(functional.linear(part, weight, bias), ids)
        for part, ids in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    ]
    return torch.cat(found) if found else hidden.new_zeros(0, dtype=torch.float32)


def logits_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """The log-prob of `targets` [N] under `logits` [N, V]: fp32 in nats, shape [N], at most 0."""
    logits = logits.float()
    picked = logits.gather(-1, targets[:, None]).squeeze(-1)
    return picked - logits.logsumexp(-1)
