"""The loss by hand, its gradients by finite differences, and METHOD's formulas."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sso_data.config.training import LossConfig
from sso_data.training.loss import (
    log_odds,
    margin,
    metrics,
    on_policy_weight,
    preference_loss,
    sso_loss,
    terms_of,
)

LN2 = math.log(2)


def batch(rows: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Policy and reference totals (nats) and token counts, [B, 3, 2] each, float64."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 60, (rows, 3, 2), generator=generator)
    policy = -tokens * torch.rand(rows, 3, 2, generator=generator, dtype=torch.float64) * 2
    ref = -tokens * torch.rand(rows, 3, 2, generator=generator, dtype=torch.float64) * 2
    return policy, ref, tokens


def one(*nats: float) -> Tensor:
    """One row's three terms as (preferred, other) totals."""
    return torch.tensor(nats, dtype=torch.float64).reshape(1, 3, 2)


def loss_of(config: LossConfig, *args: Tensor) -> Tensor:
    policy, ref, tokens = args
    return sso_loss(policy, ref, tokens, config).loss


class TestFirstStep:
    """With the policy still the reference, D is 0 everywhere."""

    @pytest.mark.parametrize("beta", [0.1, 0.2, 1.0])
    def test_ipo_is_a_quarter_of_beta_squared(self, beta: float) -> None:
        policy, _, tokens = batch()
        found = loss_of(LossConfig(objective="pairs", beta=beta), policy, policy, tokens)
        torch.testing.assert_close(found, torch.full_like(found, 1 / (4 * beta**2)))

    def test_dpo_is_ln_2(self) -> None:
        policy, _, tokens = batch()
        found = loss_of(LossConfig(objective="pairs", type="dpo"), policy, policy, tokens)
        torch.testing.assert_close(found, torch.full_like(found, LN2))

    @pytest.mark.parametrize("base", ["ipo", "dpo", "hinge"])
    def test_sso_is_base_times_one_plus_two_g_mean_w(self, base: Any) -> None:
        policy, _, tokens = batch()
        parts = sso_loss(policy, policy, tokens, LossConfig(type=base))
        assert parts.weight is not None
        expected = parts.preference["base"].mean() * (1 + 2 * 0.1 * parts.weight.mean())
        torch.testing.assert_close(parts.loss.mean(), expected)


class TestByHand:
    """One row: y+ has 4 tokens, y- 2, y0 5; each term its own numbers."""

    policy = one(-4.0, -3.0, -2.0, -6.0, -5.0, -8.0)
    ref = one(-6.0, -2.0, -3.0, -4.0, -5.0, -6.0)
    tokens = torch.tensor([[[4, 2], [4, 2], [5, 4]]])

    def test_margins(self) -> None:
        means = margin(self.policy, self.ref, self.tokens, LossConfig())
        # base: (-1 + 1.5) - (-1.5 + 1); good: (-.5 + .75) - (-3 + 2); bad: (-1 + 1) - (-2 + 1.5)
        assert means.tolist() == [[1.0, 1.25, 0.5]]
        totals = margin(self.policy, self.ref, self.tokens, LossConfig(type="dpo"))
        assert totals.tolist() == [[3.0, 3.0, 2.0]]

    def test_base_losses(self) -> None:
        def of(**options: Any) -> float:
            config = LossConfig(objective="pairs", **options)
            return float(
                preference_loss(self.policy[:, 0], self.ref[:, 0], self.tokens[:, 0], config)
            )

        def log_sigmoid(x: float) -> float:
            return -math.log1p(math.exp(-x))

        assert of(beta=0.5) == pytest.approx((1.0 - 1.0) ** 2)
        assert of(beta=0.2) == pytest.approx((1.0 - 2.5) ** 2)
        assert of(type="dpo", beta=0.2) == pytest.approx(-log_sigmoid(0.6))
        smooth = -0.9 * log_sigmoid(0.6) - 0.1 * log_sigmoid(-0.6)
        assert of(type="dpo", beta=0.2, label_smoothing=0.1) == pytest.approx(smooth)
        assert of(type="hinge", beta=0.2) == pytest.approx(0.4)
        assert of(type="hinge", beta=0.5) == 0.0
        robust = (-0.9 * log_sigmoid(0.6) + 0.1 * log_sigmoid(-0.6)) / 0.8
        assert of(type="robust", beta=0.2, label_smoothing=0.1) == pytest.approx(robust)
        assert of(type="simpo", beta=2.0) == pytest.approx(-log_sigmoid(2 * 0.5 - 0.5))
        odds = [s - math.log(1 - math.exp(s)) for s in (-1.0, -1.5)]
        assert of(type="orpo", beta=0.2) == pytest.approx(1 - 0.2 * log_sigmoid(odds[0] - odds[1]))

    def test_weight(self) -> None:
        found = on_policy_weight(self.policy[:, 0], self.tokens[:, 0], LossConfig())
        assert float(found) == pytest.approx(1 / (1 + math.exp(-(0.66 * 1.0 + 0.34 * 1.5))))

    def test_metrics(self) -> None:
        config = LossConfig()
        parts = sso_loss(self.policy, self.ref, self.tokens, config)
        found = metrics(self.policy, self.ref, self.tokens, parts, config)
        assert {name: round(float(value), 6) for name, value in found.items()} == {
            "margin_base": 1.0,
            "margin_good": 1.25,
            "margin_bad": 0.5,
            "accuracy_base": 1.0,
            "accuracy_good": 1.0,
            "accuracy_bad": 1.0,
            "loss_base": 2.25,
            "loss_good": 1.5625,
            "loss_bad": 4.0,
            "weight": round(1 / (1 + math.exp(-1.17)), 6),
            "logp_chosen": -1.0,
            "logp_rejected": -1.5,
            "tokens_chosen": 4.0,
            "tokens_rejected": 2.0,
        }


class TestFormulas:
    """METHOD's objectives and ablations, written out."""

    @pytest.fixture
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        policy, ref, tokens = batch()
        config = LossConfig()
        losses = [preference_loss(policy[:, c], ref[:, c], tokens[:, c], config) for c in range(3)]
        weight = on_policy_weight(policy[:, 0], tokens[:, 0], config)
        return losses[0], 0.1 * (losses[1] + losses[2]), weight

    @pytest.mark.parametrize("scope", ["good_bad", "all"])
    def test_sso(self, parts: tuple[Tensor, ...], scope: Any) -> None:
        base, steered, weight = parts
        whole = weight * (base + steered) if scope == "all" else base + weight * steered
        torch.testing.assert_close(loss_of(LossConfig(weight_scope=scope), *batch()), whole)

    def test_without_w(self, parts: tuple[Tensor, ...]) -> None:
        base, steered, _ = parts
        torch.testing.assert_close(loss_of(LossConfig(use_w=False), *batch()), base + steered)

    @pytest.mark.parametrize("scope", ["good_bad", "all"])
    def test_without_g(self, parts: tuple[Tensor, ...], scope: Any) -> None:
        base, _, weight = parts
        config = LossConfig(use_g=False, weight_scope=scope)
        torch.testing.assert_close(loss_of(config, *batch()), weight * base)
        assert terms_of(config).names == ("base",)

    def test_without_both(self, parts: tuple[Tensor, ...]) -> None:
        for config in (
            LossConfig(use_g=False, use_w=False),
            LossConfig.model_validate({"objective": "pbaa"}),
        ):
            torch.testing.assert_close(loss_of(config, *batch()), parts[0])

    def test_as_published_drops_g_with_w(self, parts: tuple[Tensor, ...]) -> None:
        config = LossConfig(use_w=False, recipe="as-published")
        torch.testing.assert_close(loss_of(config, *batch()), parts[0])
        whole = LossConfig(recipe="as-published")
        torch.testing.assert_close(loss_of(whole, *batch()), loss_of(LossConfig(), *batch()))

    def test_nll(self, parts: tuple[Tensor, ...]) -> None:
        policy, ref, tokens = batch()
        m = (policy / tokens)[..., 0]
        extra = -m[:, 0] - 0.1 * m[:, 1] - 0.1 * m[:, 2]
        base, steered, weight = parts
        found = loss_of(LossConfig(nll=0.3), policy, ref, tokens)
        torch.testing.assert_close(found, base + weight * steered + 0.3 * extra)

    def test_generator(self) -> None:
        policy, ref, tokens = batch()
        config = LossConfig(objective="sso-generator")
        assert (config.type, config.beta) == ("dpo", 0.1)
        policy[:, 0] = torch.nan  # never read
        losses = [preference_loss(policy[:, c], ref[:, c], tokens[:, c], config) for c in (1, 2)]
        m = (policy / tokens)[..., 0]
        expected = losses[0] + losses[1] - 0.1 * (m[:, 1] + m[:, 2])
        torch.testing.assert_close(loss_of(config, policy, ref, tokens), expected)


class TestGradients:
    @pytest.mark.parametrize("base", ["ipo", "dpo", "hinge", "robust", "simpo", "orpo"])
    def test_preferred_up_and_other_down(self, base: Any) -> None:
        """Descending raises the preferred side's log-prob and lowers the other's, per term."""
        _, ref, tokens = batch()
        policy = ref.clone().requires_grad_()
        config = LossConfig(type=base, use_w=False)
        (gradient,) = torch.autograd.grad(loss_of(config, policy, ref, tokens).sum(), policy)
        assert (gradient[..., 0] < 0).all()
        assert (gradient[..., 1] > 0).all()

    @pytest.mark.parametrize("scope", ["good_bad", "all"])
    @pytest.mark.parametrize("base", ["ipo", "dpo", "simpo", "orpo"])
    def test_all_of_it_by_finite_differences(self, base: Any, scope: Any) -> None:
        policy, ref, tokens = batch(3)
        config = LossConfig(type=base, weight_scope=scope, nll=0.2)
        assert torch.autograd.gradcheck(
            lambda p: loss_of(config, p, ref, tokens), policy.requires_grad_()
        )

    def test_w_alone_raises_both_plain_responses(self) -> None:
        """d(W*G)/dm < 0 on both sides of the plain view, and equals its finite difference."""
        policy, ref, tokens = batch(1)
        config = LossConfig()

        def w_times_g(base: Tensor) -> Tensor:
            whole = torch.cat([base[:, None], policy[:, 1:]], 1)
            parts = sso_loss(whole, ref, tokens, config)
            return (parts.loss - parts.preference["base"]).sum()

        base = policy[:, 0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(w_times_g(base), base)
        assert (gradient < 0).all()
        for side in (0, 1):
            step = torch.zeros_like(base)
            step[0, side] = 1e-4
            slope = (w_times_g(base + step) - w_times_g(base - step)) / 2e-4
            assert float(gradient[0, side]) == pytest.approx(float(slope.detach()), rel=1e-6)

    def test_detached_w_gives_the_base_term_its_own_gradient_only(self) -> None:
        policy, ref, tokens = batch()
        policy.requires_grad_()
        whole = loss_of(LossConfig(detach_weight=True), policy, ref, tokens).sum()
        alone = loss_of(LossConfig(objective="pairs"), policy, ref, tokens).sum()
        (one_gradient,) = torch.autograd.grad(whole, policy)
        (other_gradient,) = torch.autograd.grad(alone, policy)
        torch.testing.assert_close(one_gradient[:, 0], other_gradient[:, 0])

    def test_log_odds_is_finite_up_to_certainty(self) -> None:
        s = torch.tensor([-50.0, -1e-3, -1e-9, 0.0], requires_grad=True)
        (gradient,) = torch.autograd.grad(log_odds(s).sum(), s)
        assert log_odds(s).isfinite().all()
        assert gradient.isfinite().all()


class TestConfig:
    @pytest.mark.parametrize(
        "options",
        [
            {"objective": "pairs", "use_w": False},
            {"objective": "sso-generator", "g": 0.3},
            {"objective": "sso-generator", "nll": 0.3},
            {"label_smoothing": 0.1},
            {"type": "robust", "label_smoothing": 0.5},
            {"simpo_gamma": 0.2},
            {"generator_nll": 0.2},
            {"use_w": False, "detach_weight": True},
            {"use_w": False, "weight_scope": "all"},
            {"beta": 0.0},
            {"betta": 0.1},
        ],
    )
    def test_options_without_effect_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            LossConfig(**options)

    @pytest.mark.parametrize("objective", ["sso", "sso-generator", "pairs", "pbaa"])
    def test_a_resolved_configuration_can_be_read_again(self, objective: Any) -> None:
        config = LossConfig(objective=objective)
        assert LossConfig(**config.model_dump()) == config

    def test_a_missing_reference_is_a_fault(self) -> None:
        policy, _, tokens = batch()
        with pytest.raises(ValueError, match="needs reference"):
            sso_loss(policy, None, tokens, LossConfig())
        assert sso_loss(policy, None, tokens, LossConfig(type="simpo")).loss.isfinite().all()
