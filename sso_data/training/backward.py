"""The exact gradient of a step, term by term: three pairs at the memory of one.

With W attached, the loss base*l_base + steered*W*G has the gradient of three separate backwards:
(1) a base forward without gradient gives W; (2) good, then bad: backward of steered*W*l with W
fixed, keeping the value G = l_good + l_bad; (3) base: backward of base*l_base + steered*W*G with G
fixed: by the product rule d(W*G) = W*dG + G*dW. W multiplies the base term, too, where the
objective says so.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sso_data.config.training import LossConfig
from sso_data.training.loss import (
    PREFERENCE_TERMS,
    Parts,
    PreferenceTerm,
    factor,
    nll,
    on_policy_weight,
    preference_loss,
    sso_loss,
    terms_of,
)

BackwardMode = Literal["one_pair", "two_pairs", "joint"]
"""`one_pair`: as above, at most one pair's graph alive, one extra forward pass where W is attached;
`two_pairs`: the base graph is kept instead, no extra forward; `joint`: one forward over all
sequences and one backward, for engines whose backward may run only once a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """The computation of one micro-batch; callers supply model and references.

    `totals` gives the total nats [B, C', S] of the given terms C' from one forward pass, under
    gradient where it is on. `ref` [B, C, S], `tokens` [B, C, S].
    `backward` adds to the gradients; each call but the last happens within `no_sync()`.
    `scale` turns a sum over rows into this micro-batch's share of the step's mean.
    """

    totals: Callable[[tuple[PreferenceTerm, ...]], Tensor]
    ref: Tensor | None
    tokens: Tensor
    config: LossConfig
    backward: Callable[[Tensor], None]
    no_sync: Callable[[], AbstractContextManager[object]]
    scale: Tensor | float

    def ref_of(self, name: PreferenceTerm) -> Tensor | None:
        """References of one term [B, S]."""
        return None if self.ref is None else self.ref[:, PREFERENCE_TERMS.index(name)]

    def tokens_of(self, name: PreferenceTerm) -> Tensor:
        """Token counts of one term [B, S]."""
        return self.tokens[:, PREFERENCE_TERMS.index(name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A step's loss per row and its parts, and the policy's total nats [B, C, S], all detached."""

    parts: Parts
    policy: Tensor


def run_step(step: MicroBatch, mode: BackwardMode) -> StepResult:
    """Add the micro-batch's gradients; the same numbers in every mode but for rounding."""
    terms = terms_of(step.config).names
    if mode == "joint":
        policy = step.totals(terms)
        parts = sso_loss(spread(policy, terms), step.ref, step.tokens, step.config)
        step.backward(parts.loss.sum() * step.scale)
        return _outcome(step, dict(zip(terms, policy.detach().unbind(1), strict=True)))
    return _outcome(step, _pair_by_pair(step, keep_base=mode == "two_pairs"))


def run_eval(step: MicroBatch) -> StepResult:
    """The loss without gradients, term by term."""
    with torch.no_grad():
        terms = terms_of(step.config).names
        return _outcome(step, {name: step.totals((name,))[:, 0] for name in terms})


def spread(totals: Tensor, terms: tuple[PreferenceTerm, ...]) -> Tensor:
    """Totals [B, C', S] of some terms in the places of all, [B, C, S]; NaN elsewhere."""
    nothing = torch.full_like(totals[:, 0], torch.nan).detach()
    return torch.stack(
        [totals[:, terms.index(c)] if c in terms else nothing for c in PREFERENCE_TERMS], 1
    )


def _outcome(step: MicroBatch, policy: dict[PreferenceTerm, Tensor]) -> StepResult:
    """The values of detached totals."""
    totals = spread(torch.stack(list(policy.values()), 1), tuple(policy))
    with torch.no_grad():
        parts = sso_loss(totals, step.ref, step.tokens, step.config)
    return StepResult(parts=parts, policy=totals)


def _pair_by_pair(step: MicroBatch, *, keep_base: bool) -> dict[PreferenceTerm, Tensor]:
    """Run every term's backward; returns their detached totals [B, S].

    With W attached, W is computed first and base comes last, where G is known; with W fixed or
    unused, base comes first, and gives W. `keep_base` keeps the graph of the first base forward.
    """
    terms, config = terms_of(step.config), step.config
    attached = terms.steered_by_w and not config.detach_weight
    base, weight = None, None
    if attached:
        with torch.set_grad_enabled(keep_base):
            base = step.totals(("base",))[:, 0]
        weight = on_policy_weight(base.detach(), step.tokens_of("base"), config)
    policy: dict[PreferenceTerm, Tensor] = {}
    preference: dict[PreferenceTerm, Tensor] = {}
    order = sorted(terms.names, key=lambda name: attached and name == "base")
    for name in order:
        with step.no_sync() if name != order[-1] else nullcontext():
            kept = base if name == "base" and keep_base else None
            totals = step.totals((name,))[:, 0] if kept is None else kept
            tokens = step.tokens_of(name)
            loss = preference_loss(totals, step.ref_of(name), tokens, config)
            if name != "base":
                share = terms.steered * loss * factor(weight, terms.steered_by_w)
            else:
                w = None
                if terms.base_by_w or terms.steered_by_w:
                    w = on_policy_weight(totals, tokens, config)
                    weight = w.detach()
                share = terms.base * loss * factor(w, terms.base_by_w)
                if attached:
                    steered = preference["good"] + preference["bad"]
                    share = share + terms.steered * factor(w, used=True) * steered
            if terms.nll[name]:
                share = share + terms.nll[name] * nll(totals, tokens)
            policy[name], preference[name] = totals.detach(), loss.detach()
            step.backward(share.sum() * step.scale)
    return policy
