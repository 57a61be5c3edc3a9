"""Draw one token per row by inverse CDF: a row's token depends on its logits and its draw alone."""

import math

import torch
from torch import Tensor

from sso_data.models.logprobs import logits_logprobs

ROWS_AT_ONCE = 64
CANDIDATES = 1024
"""Most likely tokens looked at first; a row whose nucleus is larger is sorted whole."""


def draw_tokens(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    min_p: Tensor,
    uniform: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token id per row, and its raw log-prob (fp32, nats): both [B].

    `logits` is [B, V], unscaled; `temperature` (0 is greedy), `top_p`, `top_k` and `min_p` (0 is
    off) and `uniform` (in [0, 1)) are [B]. The nucleus is the smallest set of most likely tokens
    that reaches `top_p` of what temperature, `min_p` and `top_k` leave, at least one; equally
    likely tokens come in the order of their ids.
    """
    ids, nats = [], []
    settings = (temperature, top_p, top_k, min_p, uniform)
    parts = (torch.split(tensor, ROWS_AT_ONCE) for tensor in (logits, *settings))
    for part, heat, share, most, least, u in zip(*parts, strict=True):
        raw = part.float()
        greedy = heat <= 0
        scaled = raw / torch.where(greedy, 1.0, heat)[:, None]
        if bool(((most > 0) | (least > 0)).any()):
            scaled = _truncated(scaled, most, least)
        found = _draw(scaled.softmax(-1), torch.where(greedy, 0.0, share), u)
        ids.append(found)
        nats.append(logits_logprobs(raw, found))
    return torch.cat(ids), torch.cat(nats)


def _truncated(scaled: Tensor, top_k: Tensor, min_p: Tensor) -> Tensor:
    """Scaled logits [b, V] with -inf for what min_p and top_k exclude; ties of the k-th stay.

    As vLLM 0.32 does it (MinPLogitsProcessor, apply_top_k_top_p).
    """
    probs = scaled.softmax(-1)
    excluded = probs < probs.amax(-1, keepdim=True) * min_p[:, None]
    is_limited = (top_k > 0) & (top_k < scaled.shape[-1])
    place = torch.where(is_limited, top_k, 1)[:, None]
    kth = scaled.topk(int(place.max()), dim=-1).values.gather(-1, place - 1)
    excluded |= is_limited[:, None] & (scaled < kth)
    return scaled.masked_fill(excluded, -math.inf)


def _draw(probs: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Token ids [b] of rows of probabilities [b, V]."""
    found = torch.empty_like(uniform, dtype=torch.long)
    whole = top_p >= 1
    if bool(whole.any()):
        found[whole] = _invert(_cumulate(probs[whole]), uniform[whole])
    rows = (~whole).nonzero().squeeze(-1)
    width = min(CANDIDATES, probs.shape[-1])
    while rows.numel():
        ids, settled = _draw_nucleus(probs[rows], top_p[rows], uniform[rows], width)
        found[rows[settled]] = ids[settled]
        rows, width = rows[~settled], probs.shape[-1]
    return found


def _draw_nucleus(
    probs: Tensor, top_p: Tensor, uniform: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """Ids [b] drawn from each row's nucleus, and whether `width` candidates settled it [b].

    A row is settled when its nucleus ends above the last candidate: which of several equally
    likely tokens became the last candidates does not matter then.
    """
    partial = width < probs.shape[-1]
    if partial:
        order = probs.topk(width, dim=-1, sorted=False).indices.sort(dim=-1).values
        mass, rank = probs.gather(-1, order).sort(dim=-1, descending=True, stable=True)
        order = order.gather(-1, rank)
    else:
        mass, order = probs.sort(dim=-1, descending=True, stable=True)
    cdf = _cumulate(mass)
    kept = ((cdf - mass) < top_p[:, None]).sum(-1).clamp(min=1)
    last = (kept - 1)[:, None]
    ends_inside = mass.gather(-1, last).squeeze(-1) > mass[:, -1]
    settled = ends_inside if partial else torch.ones_like(ends_inside)
    index = _invert(cdf, uniform, total=cdf.gather(-1, last).squeeze(-1)).clamp(max=last[:, 0])
    return order.gather(-1, index[:, None]).squeeze(-1), settled


def _cumulate(mass: Tensor) -> Tensor:
    """Running sums along the last axis, in fp64 where the device has it."""
    wide = torch.float32 if mass.device.type == "mps" else torch.float64
    return mass.cumsum(-1, dtype=wide)


def _invert(cdf: Tensor, uniform: Tensor, total: Tensor | None = None) -> Tensor:
    """Per row [b] the first index at which `cdf` [b, n] exceeds `uniform` times the total."""
    total = cdf[:, -1] if total is None else total
    target = uniform.to(cdf.dtype) * total
    index = torch.searchsorted(cdf, target[:, None], right=True).squeeze(-1)
    return index.clamp(max=cdf.shape[-1] - 1)
