"""The draw itself: whole sorts, candidate sorts, ties and edges agree with the definition."""

import pytest
import torch

from sso_data.engines import nucleus
from sso_data.engines.nucleus import draw_tokens


def by_definition(logits: list[float], temperature: float, top_p: float, uniform: float) -> int:
    """Sort by probability then id, keep until top_p is reached, invert the CDF: in plain Python."""
    weights = torch.tensor(logits, dtype=torch.float32).div(temperature).softmax(-1).tolist()
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    kept, mass = [], 0.0
    for token in order:
        kept.append(token)
        mass += weights[token]
        if mass >= top_p:
            break
    if top_p >= 1:
        kept = list(range(len(weights)))
    target, running = uniform * sum(weights[t] for t in kept), 0.0
    for token in kept:
        running += weights[token]
        if running > target:
            return token
    return kept[-1]


def draw(logits: torch.Tensor, heat: float, top_p: float, uniform: list[float]) -> list[int]:
    count = len(uniform)
    ids, _ = draw_tokens(
        logits.expand(count, -1),
        torch.full((count,), heat, dtype=torch.float64),
        torch.full((count,), top_p, dtype=torch.float64),
        torch.tensor(uniform, dtype=torch.float64),
    )
    found: list[int] = ids.tolist()
    return found


@pytest.mark.parametrize("candidates", [4, 16, 1024])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999, 1.0])
def test_draws_equal_the_definition(
    monkeypatch: pytest.MonkeyPatch, candidates: int, top_p: float
) -> None:
    monkeypatch.setattr(nucleus, "CANDIDATES", candidates)
    torch.manual_seed(1)
    uniform = [0.0, 0.1, 0.33, 0.5, 0.77, 0.95, 0.999999]
    for spread in (0.1, 1.0, 4.0):
        logits = torch.randn(40) * spread
        expected = [by_definition(logits.tolist(), 0.7, top_p, u) for u in uniform]
        assert draw(logits, 0.7, top_p, uniform) == expected


@pytest.mark.parametrize("candidates", [4, 1024])
def test_equal_tokens_come_in_the_order_of_their_ids(
    monkeypatch: pytest.MonkeyPatch, candidates: int
) -> None:
    monkeypatch.setattr(nucleus, "CANDIDATES", candidates)
    logits = torch.zeros(20)
    assert draw(logits, 1.0, 0.2, [0.1, 0.3, 0.6, 0.9]) == [0, 1, 2, 3]
    logits[11] = 1.0
    assert draw(logits, 1.0, 1e-9, [0.99]) == draw(logits, 0.0, 1.0, [0.99]) == [11]


def test_a_row_does_not_see_its_neighbours() -> None:
    torch.manual_seed(2)
    logits = torch.randn(150, 30)
    settings = [torch.rand(150, dtype=torch.float64) for _ in range(3)]
    together, nats = draw_tokens(logits, *settings)
    for row in range(0, 150, 7):
        alone, own = draw_tokens(logits[row, None], *(s[row, None] for s in settings))
        assert int(alone) == int(together[row])
        assert float(own) == pytest.approx(float(nats[row]), abs=1e-6)
    assert torch.allclose(nats, logits.log_softmax(-1)[torch.arange(150), together], atol=1e-6)
