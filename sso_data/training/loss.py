"""The SSO loss (arXiv 2410.17131) and its relatives: log-probs in, one loss per row out.

Shape letters: B rows, C preference terms (base, good, bad), S sides (preferred, other). `policy`
and `ref` are total log-probs in nats, `tokens` how many ids each total is over. An objective that
leaves a term out never reads its numbers.
"""

# ruff: noqa: N803 - shape letters

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from sso_data.config.training import LossConfig
from sso_data.core.records import View

PreferenceTerm = Literal["base", "good", "bad"]

PREFERENCE_TERMS: tuple[PreferenceTerm, ...] = ("base", "good", "bad")
SEEN: Mapping[PreferenceTerm, View] = {"base": "plain", "good": "good", "bad": "bad"}
DRAWN: Mapping[PreferenceTerm, tuple[View, View]] = {
    "base": ("good", "bad"),
    "good": ("good", "bad"),
    "bad": ("plain", "good"),
}
"""The views that the preferred and the other response were drawn under: y+ over y-, and under the
bad view y0 over y+."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """An objective as factors: base*[W]*l_base + steered*[W]*(l_good + l_bad) + sum of nll*(-m).

    `base_by_w`, `steered_by_w`: W is a factor of that product. `nll` weights the negative mean
    log-prob of each term's preferred response.
    """

    base: float
    steered: float
    base_by_w: bool
    steered_by_w: bool
    nll: Mapping[PreferenceTerm, float]

    @property
    def names(self) -> tuple[PreferenceTerm, ...]:
        """The preference terms that have to be computed."""
        factors: Mapping[PreferenceTerm, float] = {
            "base": self.base,
            "good": self.steered,
            "bad": self.steered,
        }
        return tuple(name for name in PREFERENCE_TERMS if factors[name] or self.nll[name])


def terms_of(config: LossConfig) -> Terms:
    """The factors of an objective and its ablations.

    sso: l_base + W*g*(l_good + l_bad); weight_scope all: W*(l_base + g*(...)); without W:
    l_base + g*(...); without g: W*l_base in every scope; without both: l_base. `as-published`
    drops the steered terms without W. sso-generator: l_good + l_bad.
    """
    none: Mapping[PreferenceTerm, float] = {"base": 0.0, "good": 0.0, "bad": 0.0}
    if config.objective == "sso-generator":
        nll = {**none, "good": config.generator_nll, "bad": config.generator_nll}
        return Terms(base=0.0, steered=1.0, base_by_w=False, steered_by_w=False, nll=nll)
    if config.objective == "pairs":
        nll = {**none, "base": config.nll}
        return Terms(base=1.0, steered=0.0, base_by_w=False, steered_by_w=False, nll=nll)
    steered = config.use_g and not (config.recipe == "as-published" and not config.use_w)
    g = config.g if steered else 0.0
    return Terms(
        base=1.0,
        steered=g,
        base_by_w=config.use_w and (config.weight_scope == "all" or not config.use_g),
        steered_by_w=config.use_w and g > 0,
        nll={"base": config.nll, "good": config.nll * g, "bad": config.nll * g},
    )


def scores(totals: Tensor, tokens: Tensor, config: LossConfig) -> Tensor:
    """s of each sequence, any shape: the total in nats, or the mean in nats/token."""
    return totals if config.compares == "totals" else means(totals, tokens)


def means(totals: Tensor, tokens: Tensor) -> Tensor:
    """Nats per token, any shape; 0 for a sequence without tokens."""
    return totals / tokens.clamp(min=1)


def margin(policy: Tensor, ref: Tensor | None, tokens: Tensor, config: LossConfig) -> Tensor:
    """D = [s(a) - s_ref(a)] - [s(b) - s_ref(b)], shape [...] of sides [..., S].

    Without s_ref where the loss needs no reference; raises ValueError where it needs one.
    """
    s = scores(policy, tokens, config)
    if config.needs_reference:
        if ref is None:
            raise ValueError(f"base loss {config.type} needs reference log-probs")
        s = s - scores(ref.to(s.dtype), tokens, config)
    return s[..., 0] - s[..., 1]


def preference_loss(
    policy: Tensor, ref: Tensor | None, tokens: Tensor, config: LossConfig
) -> Tensor:
    """The base loss l of preference terms: sides [..., S] in, losses [...] out.

    ipo     (D - 1/(2 beta))^2, arXiv 2310.12036 eq. 17, D of per-token means
    dpo     -(1-e) log sigmoid(beta D) - e log sigmoid(-beta D), arXiv 2305.18290 eq. 7 with e = 0
    hinge   max(0, 1 - beta D), arXiv 2309.06657
    robust  [-(1-e) log sigmoid(beta D) + e log sigmoid(-beta D)] / (1 - 2e), arXiv 2403.00409
    simpo   -log sigmoid(beta (s_a - s_b) - gamma), arXiv 2405.14734 eq. 6
    orpo    -s_a - beta log sigmoid(logodds_a - logodds_b), arXiv 2403.07691 eqs. 6 and 7
    """
    delta = margin(policy, ref, tokens, config)
    match config.type:
        case "ipo":
            return (delta - 1 / (2 * config.beta)) ** 2
        case "dpo":
            e = config.label_smoothing
            logit = config.beta * delta
            return -(1 - e) * functional.logsigmoid(logit) - e * functional.logsigmoid(-logit)
        case "hinge":
            return torch.relu(1 - config.beta * delta)
        case "robust":
            e = config.label_smoothing
            logit = config.beta * delta
            right, wrong = functional.logsigmoid(logit), functional.logsigmoid(-logit)
            return (-(1 - e) * right + e * wrong) / (1 - 2 * e)
        case "simpo":
            return -functional.logsigmoid(config.beta * delta - config.simpo_gamma)
        case "orpo":
            s = means(policy, tokens)
            odds = log_odds(s)
            ratio = functional.logsigmoid(odds[..., 0] - odds[..., 1])
            return -s[..., 0] - config.beta * ratio


def log_odds(s: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = e^s, any shape; finite for s of at most 0."""
    tiny = torch.finfo(s.dtype).tiny
    return s - torch.log((-torch.expm1(s)).clamp(min=tiny))


def on_policy_weight(base_policy: Tensor, base_tokens: Tensor, config: LossConfig) -> Tensor:
    """W = sigmoid(-(alpha m(y+|plain) + (1-alpha) m(y-|plain))), [B] of the base term [B, S].

    The weight of arXiv 2410.17131, with m the policy's means in nats/token. It lies between 1/2 and
    1; its gradient is cut with `detach_weight`.
    """
    m = means(base_policy, base_tokens)
    weight = torch.sigmoid(-(config.alpha * m[..., 0] + (1 - config.alpha) * m[..., 1]))
    return weight.detach() if config.detach_weight else weight


def nll(policy: Tensor, tokens: Tensor) -> Tensor:
    """-m of the preferred side: [...] of sides [..., S], nats/token."""
    return -means(policy, tokens)[..., 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A loss and what it is made of, one number a row each; `weight` is None without W."""

    loss: Tensor
    preference: Mapping[PreferenceTerm, Tensor]
    weight: Tensor | None


def sso_loss(
    policy_BCS: Tensor,
    ref_BCS: Tensor | None,
    tokens_BCS: Tensor,
    config: LossConfig,
) -> Parts:
    """The objective's loss per row [B], from total log-probs in nats and token counts."""
    terms = terms_of(config)
    index = {name: PREFERENCE_TERMS.index(name) for name in terms.names}
    preference = {
        name: preference_loss(
            policy_BCS[:, c], None if ref_BCS is None else ref_BCS[:, c], tokens_BCS[:, c], config
        )
        for name, c in index.items()
    }
    weight = None
    if terms.base_by_w or terms.steered_by_w:
        weight = on_policy_weight(policy_BCS[:, 0], tokens_BCS[:, 0], config)
    loss = combine(preference, weight, terms)
    for name, c in index.items():
        if terms.nll[name]:
            loss = loss + terms.nll[name] * nll(policy_BCS[:, c], tokens_BCS[:, c])
    return Parts(loss=loss, preference=preference, weight=weight)


def combine(
    preference: Mapping[PreferenceTerm, Tensor], weight: Tensor | None, terms: Terms
) -> Tensor:
    """base*[W]*l_base + steered*[W]*(l_good + l_bad), [B] each; nothing for an absent term."""
    found = []
    if terms.base:
        found.append(terms.base * preference["base"] * factor(weight, terms.base_by_w))
    if terms.steered:
        steered = preference["good"] + preference["bad"]
        found.append(terms.steered * steered * factor(weight, terms.steered_by_w))
    return torch.stack(found).sum(0)


def factor(weight: Tensor | None, used: bool) -> Tensor | float:
    """W where it is used, else 1."""
    if not used:
        return 1.0
    assert weight is not None, "this objective needs W"
    return weight


def metrics(
    policy_BCS: Tensor,
    ref_BCS: Tensor | None,
    tokens_BCS: Tensor,
    parts: Parts,
    config: LossConfig,
) -> dict[str, Tensor]:
    """Return metrics per row, [B] each, without gradient.

    `margin_<term>` is D (nats or nats/token, as the loss compares), `accuracy_<term>`
    whether D > 0 (1/2 at 0), `loss_<term>` the base loss; `weight` W; `logp_chosen`,
    `logp_rejected` the plain-view means of y+ and y- in nats/token; `tokens_*` their lengths.
    """
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, loss in parts.preference.items():
            c = PREFERENCE_TERMS.index(name)
            ref = None if ref_BCS is None else ref_BCS[:, c]
            delta = margin(policy_BCS[:, c], ref, tokens_BCS[:, c], config)
            found[f"margin_{name}"] = delta
            found[f"accuracy_{name}"] = (torch.sign(delta) + 1) / 2
            found[f"loss_{name}"] = loss
        if parts.weight is not None:
            found["weight"] = parts.weight
        if "base" in parts.preference:
            m = means(policy_BCS[:, 0], tokens_BCS[:, 0])
            found["logp_chosen"], found["logp_rejected"] = m[:, 0], m[:, 1]
        pair = "base" if "base" in parts.preference else "good"
        lengths = tokens_BCS[:, PREFERENCE_TERMS.index(pair)]
        found["tokens_chosen"], found["tokens_rejected"] = lengths[:, 0], lengths[:, 1]
    return {name: value.detach().to(torch.float32) for name, value in found.items()}
