"""Log-probs of given token ids from hidden states, a chunk of positions at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sso_data.models.memory import CHUNK_ELEMENTS


def target_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_rows: int | None = None,
) -> Tensor:
    """The log-prob of each target id in nats, shape [N]; fp32, or fp64 where the weights are.

    `hidden` is [N, H] (one row per predicted position), `weight` the LM head [V, H], `bias` [V],
    `targets` [N] token ids. Logits are made in the dtype of the weights, as the model makes them,
    and normalised in fp32; at most `chunk_rows` rows of [V] exist at once (by default as many as
    CHUNK_ELEMENTS holds), in the backward pass, too, which makes them again. A row's value does not
    depend on other rows, except for rounding.
    """
    rows = chunk_rows or max(1, CHUNK_ELEMENTS // weight.shape[0])
    inputs = [hidden, weight] if bias is None else [hidden, weight, bias]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        apply: Any = _TargetLogprobs.apply
        nats: Tensor = apply(hidden, weight, targets, bias, rows)
        return nats
    return _in_chunks(hidden, weight, targets, bias, rows)[0]


def logits_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """The log-prob of `targets` [N] under `logits` [N, V]: fp32 in nats, shape [N], at most 0."""
    return _picked_and_norm(logits, targets)[0]


def _picked_and_norm(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The log-prob of `targets` and the logarithm of the normaliser, [N] each."""
    logits = _wide(logits)
    norm = logits.logsumexp(-1)
    return logits.gather(-1, targets[:, None]).squeeze(-1) - norm, norm


def _wide(tensor: Tensor) -> Tensor:
    """At least fp32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _in_chunks(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, rows: int
) -> tuple[Tensor, Tensor]:
    """Log-probs and logarithms of normalisers, [N] each."""
    found = [
        _picked_and_norm(functional.linear(part, weight, bias), ids)
        for part, ids in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    ]
    if not found:
        empty = _wide(hidden.new_zeros(0))
        return empty, empty
    nats, norms = zip(*found, strict=True)
    return torch.cat(nats), torch.cat(norms)


class _TargetLogprobs(Function):
    """`target_logprobs` with a gradient: keeps [N] normalisers, makes the logits again backward.

    For row n with upstream gradient u_n and p_n the softmax of its logits z_n:
    d/dz_n = u_n * (onehot(target_n) - p_n).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        rows: int,
    ) -> Tensor:
        nats, norms = _in_chunks(hidden, weight, targets, bias, rows)
        ctx.save_for_backward(hidden, weight, targets, bias, norms)
        ctx.rows = rows
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, bias, norms = ctx.saved_tensors
        needs_hidden, needs_weight, _, needs_bias, _ = ctx.needs_input_grad
        of_hidden = torch.empty_like(hidden) if needs_hidden else None
        of_weight = norms.new_zeros(weight.shape) if needs_weight else None
        of_bias = norms.new_zeros(bias.shape) if needs_bias else None
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            logits = functional.linear(hidden[part], weight, bias)
            of_logits = _logits_gradient(logits, norms[part], targets[part], upstream[part])
            if of_bias is not None:
                of_bias += of_logits.sum(0)
            of_logits = of_logits.to(weight.dtype)
            if of_hidden is not None:
                torch.mm(of_logits, weight, out=of_hidden[part])
            if of_weight is not None and of_weight.dtype == weight.dtype:
                of_weight.addmm_(of_logits.T, hidden[part])
            elif of_weight is not None:  # half precision would lose what later chunks add
                of_weight += torch.mm(of_logits.T, hidden[part])
        if of_weight is not None:
            of_weight = of_weight.to(weight.dtype)
        if of_bias is not None:
            of_bias = of_bias.to(bias.dtype)
        return of_hidden, of_weight, None, of_bias, None


def _logits_gradient(logits: Tensor, norms: Tensor, targets: Tensor, upstream: Tensor) -> Tensor:
    """u * (onehot - softmax), [N, V], in place where `logits` are wide already."""
    gradient = _wide(logits).sub_(norms[:, None]).exp_().mul_(-upstream[:, None])
    return gradient.scatter_add_(1, targets[:, None], upstream[:, None])
