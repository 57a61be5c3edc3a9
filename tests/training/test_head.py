"""Log-probs from the LM head in chunks: right, with the right gradients, and small."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config

from sso_data.models.head import CompletionScorer, disable_dropout
from sso_data.models.logprobs import target_logprobs
from sso_data.training.batch import pad_sequences
from tests.training.models import arrays, gpt2


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def inputs(count: int = 7, *, bias: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    torch.manual_seed(0)
    hidden = torch.randn(count, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(11, dtype=torch.float64, requires_grad=True) if bias else None
    return hidden, weight, torch.randint(0, 11, (count,)), offset


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
    logits = nn.functional.linear(hidden, weight, bias)
    return logits.log_softmax(-1)[torch.arange(len(targets)), targets]


@pytest.mark.parametrize("chunk_rows", [1, 3, 7, None])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_by_finite_differences(chunk_rows: int | None, bias: bool) -> None:
    hidden, weight, targets, offset = inputs(bias=bias)
    assert torch.autograd.gradcheck(
        lambda h, w, b=None: target_logprobs(h, w, targets, b, chunk_rows=chunk_rows),
        (hidden, weight) if offset is None else (hidden, weight, offset),
    )


@pytest.mark.parametrize("chunk_rows", [1, 3, 7, None])
def test_values_and_gradients_equal_the_plain_computation(chunk_rows: int | None) -> None:
    hidden, weight, targets, bias = inputs()
    assert bias is not None
    leaves = [hidden, weight, bias]
    upstream = torch.randn(7, dtype=torch.float64)
    found = target_logprobs(hidden, weight, targets, bias, chunk_rows=chunk_rows)
    expected = plain(hidden, weight, targets, bias)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    for one, other in zip(
        torch.autograd.grad(found, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_a_frozen_head_costs_no_gradient_of_its_own() -> None:
    hidden, weight, targets, _ = inputs()
    found = target_logprobs(hidden, weight.detach(), targets)
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    assert gradient.shape == hidden.shape


def test_bf16_normalises_in_fp32() -> None:
    hidden, weight, targets, _ = inputs(bias=False)
    low = [hidden.detach().bfloat16().requires_grad_(), weight.detach().bfloat16().requires_grad_()]
    found = target_logprobs(low[0], low[1], targets)
    assert found.dtype == torch.float32
    gradients = torch.autograd.grad(found.sum(), low)
    assert [g.dtype for g in gradients] == [torch.bfloat16] * 2
    expected = torch.autograd.grad(plain(hidden, weight, targets, None).sum(), [hidden, weight])
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("chunk_rows", [4, 16])
def test_never_more_logits_than_a_chunk_forward_or_backward(chunk_rows: int) -> None:
    rows, width, vocab = 64, 8, 3000
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    targets = torch.randint(0, vocab, (rows,))
    with Largest() as largest:
        target_logprobs(hidden, weight, targets, chunk_rows=chunk_rows).sum().backward()
    assert largest.elements == max(chunk_rows * vocab, weight.numel())
    with Largest() as whole:
        plain(hidden, weight, targets, None).sum().backward()
    assert whole.elements == rows * vocab


PAIRS = [
    (arrays(3, 4, 5), arrays(6, 7)),
    (arrays(8), arrays(9, 10, 11, 12)),
    (arrays(1, 2), arrays(3)),
]


def totals_by_hand(model: Any) -> Tensor:
    """Each sequence alone and unpadded, all logits at once."""
    found = []
    for prompt, completion in PAIRS:
        ids = torch.tensor([[*prompt, *completion]])
        nats = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        places = range(len(prompt) - 1, ids.shape[1] - 1)
        found.append(nats[list(places), ids[0, len(prompt) :]].sum())
    return torch.stack(found)


def gemma2() -> Any:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.5,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(("make", "is_plain"), [(gpt2, True), (gemma2, False)])
def test_a_models_totals_and_gradients(make: Callable[[], Any], is_plain: bool) -> None:
    model = make()
    scorer = CompletionScorer(model)
    batch = pad_sequences(PAIRS, pad_id=0)
    found = scorer.totals(model, batch["input_ids"], batch["attention_mask"], batch["labels"])
    assert scorer.is_plain(model, batch["input_ids"]) is is_plain
    expected = totals_by_hand(model)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    weights = [p for p in model.parameters() if p.requires_grad]
    for one, other in zip(
        torch.autograd.grad(found.sum(), weights),
        torch.autograd.grad(expected.sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_model_is_itself_again_afterwards() -> None:
    model = gpt2()
    before = model(input_ids=torch.tensor([[1, 2, 3]])).logits
    batch = pad_sequences(PAIRS, pad_id=0)
    CompletionScorer(model).totals(
        model, batch["input_ids"], batch["attention_mask"], batch["labels"]
    )
    assert "forward" not in model.lm_head.__dict__
    assert torch.equal(model(input_ids=torch.tensor([[1, 2, 3]])).logits, before)


def test_a_whole_model_never_makes_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sso_data.models.logprobs.CHUNK_ELEMENTS", 4 * 500)
    model = gpt2(vocab_size=500, dtype=torch.float32)
    pairs = [(arrays(*range(1, 20)), arrays(*range(20, 60)))] * 4
    batch = pad_sequences(pairs, pad_id=0)
    scorer = CompletionScorer(model)
    scorer.is_plain(model, batch["input_ids"])
    with Largest() as largest:
        nats = scorer.totals(model, batch["input_ids"], batch["attention_mask"], batch["labels"])
        nats.sum().backward()
    assert largest.elements < 4 * 40 * 500 / 4


def test_dropout_is_off_everywhere() -> None:
    config = GPT2Config(
        vocab_size=40, n_positions=64, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5
    )
    model = AutoModelForCausalLM.from_config(config).train()
    disable_dropout(model)
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
