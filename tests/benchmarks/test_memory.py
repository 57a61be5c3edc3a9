"""What a training is computed to take: weights, gradients and AdamW's moments, counted."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.memory import Shape, training_bytes

SIZES = {"layers": 2, "hidden": 48, "intermediate": 80, "heads": 3, "kv_heads": 1}
SHAPE = Shape(**SIZES, head_dim=16, vocab=100, tied=True)


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=100,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=16,
            tie_word_embeddings=True,
        )
    )


def test_the_parts_are_those_of_a_real_step() -> None:
    model = llama()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters)
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimizer.step()
    found = training_bytes(SHAPE, "float32", tokens=8)
    assert found["weights"] == sum(p.nbytes for p in parameters) == 4 * SHAPE.parameters
    assert found["gradients"] == sum(p.grad.nbytes for p in parameters if p.grad is not None)
    states = [
        state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
    ]
    assert found["optimizer"] == sum(state.nbytes for state in states)


def test_an_adapter_has_as_many_weights_as_peft_gives_it() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trained = peft.get_peft_model(llama(), config).get_nb_trainable_parameters()[0]
    assert SHAPE.adapter_parameters(4) == trained
    found = training_bytes(SHAPE, "lora", tokens=8, r=4)
    assert found["optimizer"] == 8 * trained
    assert found["weights"] == 2 * SHAPE.parameters + 4 * trained


def test_a_published_model_has_its_published_size() -> None:
    """SmolLM2-135M has 134,515,008 weights."""
    sizes = {"layers": 30, "hidden": 576, "intermediate": 1536, "heads": 9, "kv_heads": 3}
    assert Shape(**sizes, head_dim=64, vocab=49_152, tied=True).parameters == 134_515_008
