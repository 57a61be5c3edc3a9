"""The exact gradient of a step, contrast by contrast: three pairs at the memory of one.

With W attached, the loss base*l_base + steered*W*G has the gradient of three separate backwards:
(1) a base forward without gradient gives W; (2) good, then bad: backward of steered*W*l with W
fixed, keeping the value G = l_good + l_bad; (3) base: backward of base*l_base + steered*W*G with G
fixed. W multiplies the base term, too, where the objective says so.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sso_data.config.loss import LossConfig
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
class Step:
    """How one micro-batch is computed; everything outside is handed in.

    `totals` gives a contrast's total nats [B, S], under gradient where it is on; `all_totals` those
    of the given contrasts [B, C', S] from one forward pass. `ref` [B, C, S], `tokens` [B, C, S].
    `backward` adds to the gradients; each call but the last happens within `no_sync()`.
    `scale` turns a sum over rows into this micro-batch's share of the step's mean.
    """

    totals: Callable[[PreferenceTerm], Tensor]
    all_totals: Callable[[tuple[PreferenceTerm, ...]], Tensor]
    ref: Tensor | None
    tokens: Tensor
    config: LossConfig
    backward: Callable[[Tensor], None]
    no_sync: Callable[[], AbstractContextManager[object]]
    scale: Tensor | float

    def ref_of(self, name: PreferenceTerm) -> Tensor | None:
        """References of one contrast [B, S]."""
        return None if self.ref is None else self.ref[:, PREFERENCE_TERMS.index(name)]

    def tokens_of(self, name: PreferenceTerm) -> Tensor:
        """Token counts of one contrast [B, S]."""
        return self.tokens[:, PREFERENCE_TERMS.index(name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A step's loss per row and its parts, and the policy's total nats [B, C, S], all detached."""

    parts: Parts
    policy: Tensor


def run_step(step: Step, mode: BackwardMode) -> Outcome:
    """Add the micro-batch's gradients; the same numbers in every mode but for rounding."""
    contrasts = terms_of(step.config).contrasts
    if mode == "joint":
        policy = step.all_totals(contrasts)
        parts = sso_loss(spread(policy, contrasts), step.ref, step.tokens, step.config)
        step.backward(parts.loss.sum() * step.scale)
        return _outcome(step, dict(zip(contrasts, policy.detach().unbind(1), strict=True)))
    return _outcome(step, _PairByPair(step, keep_base=mode == "two_pairs").run())


def run_eval(step: Step) -> Outcome:
    """The loss without gradients, contrast by contrast."""
    with torch.no_grad():
        contrasts = terms_of(step.config).contrasts
        return _outcome(step, {name: step.totals(name) for name in contrasts})


def spread(totals: Tensor, contrasts: tuple[PreferenceTerm, ...]) -> Tensor:
    """Totals [B, C', S] of some contrasts in the places of all, [B, C, S]; NaN elsewhere."""
    nothing = torch.full_like(totals[:, 0], torch.nan).detach()
    return torch.stack(
        [totals[:, contrasts.index(c)] if c in contrasts else nothing for c in PREFERENCE_TERMS], 1
    )


def _outcome(step: Step, policy: dict[PreferenceTerm, Tensor]) -> Outcome:
    """The values of detached totals."""
    totals = spread(torch.stack(list(policy.values()), 1), tuple(policy))
    with torch.no_grad():
        parts = sso_loss(totals, step.ref, step.tokens, step.config)
    return Outcome(parts=parts, policy=totals)


class _PairByPair:
    """One micro-batch in work: what is known so far of W and of the preference losses."""

    def __init__(self, step: Step, *, keep_base: bool) -> None:
        self._step = step
        self._terms = terms_of(step.config)
        self._keep_base = keep_base
        self._policy: dict[PreferenceTerm, Tensor] = {}
        self._preference: dict[PreferenceTerm, Tensor] = {}
        self._weight: Tensor | None = None

    def run(self) -> dict[PreferenceTerm, Tensor]:
        """Every contrast's backward; their detached totals [B, S]."""
        attached = self._terms.steered_by_w and not self._step.config.detach_weight
        base = self._weigh() if attached else None
        # with W attached, base comes last, where G is known; with W fixed, first, and gives W
        order = sorted(self._terms.contrasts, key=lambda name: attached and name == "base")
        for name in order:
            with self._step.no_sync() if name != order[-1] else nullcontext():
                self._pair(name, base if name == "base" else None, attached)
        return self._policy

    def _weigh(self) -> Tensor | None:
        """Compute W ahead; gives the base totals with their graph if that is to be kept."""
        with torch.set_grad_enabled(self._keep_base):
            totals = self._step.totals("base")
        tokens = self._step.tokens_of("base")
        self._weight = on_policy_weight(totals.detach(), tokens, self._step.config)
        return totals if self._keep_base else None

    def _pair(self, name: PreferenceTerm, totals: Tensor | None, attached: bool) -> None:
        """Forward (unless `totals` are given) and backward of one contrast's share of the loss."""
        step, terms = self._step, self._terms
        totals = step.totals(name) if totals is None else totals
        tokens = step.tokens_of(name)
        preference = preference_loss(totals, step.ref_of(name), tokens, step.config)
        if name == "base":
            share = self._base_share(totals, preference, attached)
        else:
            share = terms.steered * preference * factor(self._weight, terms.steered_by_w)
        if terms.nll[name]:
            share = share + terms.nll[name] * nll(totals, tokens)
        self._policy[name] = totals.detach()
        self._preference[name] = preference.detach()
        step.backward(share.sum() * step.scale)

    def _base_share(self, totals: Tensor, preference: Tensor, attached: bool) -> Tensor:
        terms = self._terms
        weight = None
        if terms.base_by_w or terms.steered_by_w:
            weight = on_policy_weight(totals, self._step.tokens_of("base"), self._step.config)
            self._weight = weight.detach()
        share = terms.base * preference * factor(weight, terms.base_by_w)
        if attached:
            assert weight is not None
            steered = self._preference["good"] + self._preference["bad"]
            share = share + terms.steered * weight * steered
        return share
