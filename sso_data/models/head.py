"""A causal language model that answers with the log-probs of given ids, never with all logits.

While a forward pass runs, the LM head is asked for log-probs in place of logits. Everything still
goes through the model's own modules, so the wrappers of DDP, FSDP and DeepSpeed see it.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sso_data.models.logprobs import logits_logprobs, target_logprobs

IGNORED = -100
"""The label of a position that is no completion token."""

_FALLBACK_ROWS = 512


class CompletionScorer:
    """Log-probs of the labelled tokens of sequences; made from the unwrapped model."""

    def __init__(self, model: nn.Module) -> None:
        self._head = model.get_output_embeddings()  # type: ignore[operator]
        accepted = inspect.signature(model.forward).parameters
        self._keeps_logits = "logits_to_keep" in accepted
        self._is_plain: bool | None = None

    def totals(
        self, model: Callable[..., Any], input_ids: Tensor, mask: Tensor, labels: Tensor
    ) -> Tensor:
        """Nats [N] over the labelled tokens of N right-padded sequences [N, T].

        `model` is the model or its wrapper; labels are at their own positions, IGNORED elsewhere.
        """
        targets = torch.full_like(labels, IGNORED)
        targets[:, :-1] = labels[:, 1:]
        return self.token_nats(model, input_ids, targets, attention_mask=mask).sum(-1)

    def token_nats(
        self, model: Callable[..., Any], input_ids: Tensor, targets: Tensor, **inputs: Any
    ) -> Tensor:
        """Log-probs [N, T] in nats of `targets` [N, T], one forward pass; 0 where IGNORED.

        `targets[n, t]` is the id that follows `input_ids[n, t]`. Only positions with a target
        reach the vocabulary. `inputs` go to the model.
        """
        inputs |= {"input_ids": input_ids, "use_cache": False}
        if self.is_plain(model, input_ids):
            with self._asked(targets):
                nats: Tensor = model(**inputs).logits
            return nats
        if not self._keeps_logits:
            return _from_logits(model(**inputs).logits, targets)
        first = int((targets != IGNORED).any(0).int().argmax())
        kept = torch.arange(first, targets.shape[1], device=targets.device)
        nats = _from_logits(model(**inputs, logits_to_keep=kept).logits, targets[:, first:])
        return functional.pad(nats, (first, 0))

    def is_plain(self, model: Callable[..., Any], input_ids: Tensor) -> bool:
        """Return True if logits are exactly a linear LM head's output, tried on a short input.

        Heads with soft caps or scales, or with an adapter on them, are not.
        """
        if self._is_plain is None:
            linear = getattr(type(self._head), "forward", None) is nn.Linear.forward
            self._is_plain = linear and self._ends_with_head(model, input_ids[:1, :4])
        return self._is_plain

    def _ends_with_head(self, model: Callable[..., Any], input_ids: Tensor) -> bool:
        made: list[Tensor] = []
        hook = self._head.register_forward_hook(lambda _m, _i, output: made.append(output))
        try:
            with torch.no_grad():
                logits = model(input_ids=input_ids, use_cache=False).logits
        finally:
            hook.remove()
        return len(made) == 1 and made[0].shape == logits.shape and bool((made[0] == logits).all())

    @contextmanager
    def _asked(self, targets: Tensor) -> Iterator[None]:
        """While open, the head maps hidden states [N, T, H] to log-probs [N, T], 0 if IGNORED."""
        head, before = self._head, self._head.__dict__.get("forward")
        head.forward = lambda hidden: _scattered(head, hidden, targets)
        try:
            yield
        finally:
            del head.forward
            if before is not None:
                head.forward = before


def _scattered(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    wanted = targets != IGNORED
    weight: Tensor = head.weight
    bias: Tensor | None = head.bias
    picked = hidden[wanted]
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        picked, weight = picked.to(dtype), weight.to(dtype)
        bias = bias.to(dtype) if bias is not None else None
    with torch.autocast(kind, enabled=False):
        nats = target_logprobs(picked, weight, targets[wanted], bias)
    return nats.new_zeros(targets.shape).masked_scatter(wanted, nats)


def _from_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """For heads that are more than a matrix: the model's own logits, a few rows in fp32 at once."""
    wanted = targets != IGNORED
    parts = zip(
        torch.split(logits[wanted], _FALLBACK_ROWS),
        torch.split(targets[wanted], _FALLBACK_ROWS),
        strict=True,
    )
    nats = torch.cat([checkpoint(logits_logprobs, *part, use_reentrant=False) for part in parts])
    return nats.new_zeros(targets.shape).masked_scatter(wanted, nats)


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to 0: the preference terms and the reference must agree."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
