"""The draw itself: whole sorts, candidate sorts, ties and edges agree with the definition."""

from typing import Any

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


def draw(
    logits: torch.Tensor,
    heat: float,
    top_p: float,
    uniform: list[float],
    *,
    top_k: int = 0,
    min_p: float = 0.0,
) -> list[int]:
    count = len(uniform)
    ids, _ = draw_tokens(
        logits.expand(count, -1),
        torch.full((count,), heat, dtype=torch.float64),
        torch.full((count,), top_p, dtype=torch.float64),
        torch.full((count,), top_k),
        torch.full((count,), min_p, dtype=torch.float64),
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


FIFTHS = torch.tensor([0.0625, 0.5, 0.25, 0.125, 0.0625]).log()
"""Token 1 has probability 1/2, 2 has 1/4, 3 has 1/8, 0 and 4 have 1/16 each."""


@pytest.mark.parametrize(
    ("settings", "uniform", "expected"),
    [
        # 1 and 2 are left, with 2/3 and 1/3
        ({"top_k": 2}, [0.0, 0.66, 0.67, 0.99], [1, 1, 2, 2]),
        # at least 0.2 of 1/2: 1, 2 and 3 are left, with 4/7, 2/7 and 1/7
        ({"min_p": 0.2}, [0.57, 0.58, 0.85, 0.86], [1, 2, 2, 3]),
        ({"min_p": 0.49}, [0.66, 0.67], [1, 2]),
        ({"min_p": 1.0}, [0.99], [1]),
        # a token as likely as the fourth stays, so all five do
        ({"top_k": 4}, [0.0, 0.99], [0, 4]),
        ({"top_k": 5}, [0.0, 0.99], [0, 4]),
        ({"top_k": 9}, [0.0, 0.99], [0, 4]),
        # whichever leaves less decides: with these, 1 and 2
        ({"top_k": 2, "min_p": 0.1}, [0.99], [2]),
        ({"top_k": 3, "min_p": 0.4}, [0.99], [2]),
        # top_p is of what is left: 2/3 reach 0.6 alone, 1/2 of all would not
        ({"top_k": 2, "top_p": 0.6}, [0.99], [1]),
        ({"top_p": 0.6}, [0.99], [2]),
        ({"top_k": 2, "top_p": 0.7}, [0.99], [2]),
        # temperature comes first: at 2, 1/16 is to 1/2 as 0.25 to 0.71, and all are above 0.3
        ({"min_p": 0.3, "heat": 2.0}, [0.999], [4]),
        ({"min_p": 0.3}, [0.999], [2]),
        # greedy
        ({"top_k": 3, "min_p": 0.1, "heat": 0.0}, [0.99], [1]),
    ],
)
@pytest.mark.parametrize("candidates", [4, 1024])
def test_top_k_and_min_p_by_hand(
    monkeypatch: pytest.MonkeyPatch,
    candidates: int,
    settings: dict[str, float],
    uniform: list[float],
    expected: list[int],
) -> None:
    monkeypatch.setattr(nucleus, "CANDIDATES", candidates)
    given: dict[str, Any] = {"heat": 1.0, "top_p": 1.0} | settings
    assert draw(FIFTHS, uniform=uniform, **given) == expected


def test_a_row_does_not_see_its_neighbours() -> None:
    torch.manual_seed(2)
    logits = torch.randn(150, 30)
    heat, top_p, min_p, uniform = (torch.rand(150, dtype=torch.float64) for _ in range(4))
    top_k = torch.randint(0, 30, (150,))
    settings = [heat, top_p, top_k, min_p * (top_k % 2), uniform]
    together, nats = draw_tokens(logits, *settings)
    for row in range(0, 150, 7):
        alone, own = draw_tokens(logits[row, None], *(s[row, None] for s in settings))
        assert int(alone) == int(together[row])
        assert float(own) == pytest.approx(float(nats[row]), abs=1e-6)
    assert torch.allclose(nats, logits.log_softmax(-1)[torch.arange(150), together], atol=1e-6)
