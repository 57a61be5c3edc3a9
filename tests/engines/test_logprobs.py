"""Log-probs in chunks equal log-probs all at once."""

import pytest
import torch

from sso_data.models.logprobs import target_logprobs


def rows(count: int, bias: bool = False) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(3)
    hidden, weight = torch.randn(count, 16), torch.randn(50, 16)
    return hidden, weight, torch.randint(0, 50, (count,)), torch.randn(50) * bias


@pytest.mark.parametrize("chunk_rows", [1, 3, 10, 11, None])
def test_chunks_equal_the_whole(chunk_rows: int | None) -> None:
    hidden, weight, targets, bias = rows(10, bias=True)
    whole = (hidden @ weight.T + bias).log_softmax(-1)[torch.arange(10), targets]
    found = target_logprobs(hidden, weight, targets, bias, chunk_rows=chunk_rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


def test_no_rows() -> None:
    hidden, weight, targets, _ = rows(0)
    assert target_logprobs(hidden, weight, targets).shape == (0,)


def test_a_certain_token_is_at_most_zero() -> None:
    hidden, weight = torch.full((1, 1), 100.0), torch.tensor([[5.0], [-5.0]])
    assert float(target_logprobs(hidden, weight, torch.tensor([0]))) == 0.0


def test_never_more_logits_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    linear = torch.nn.functional.linear

    def counting(*arguments: torch.Tensor) -> torch.Tensor:
        sizes.append(arguments[0].shape[0])
        return linear(*arguments)

    monkeypatch.setattr(torch.nn.functional, "linear", counting)
    hidden, weight, targets, _ = rows(10)
    target_logprobs(hidden, weight, targets, chunk_rows=4)
    assert sizes == [4, 4, 2]
