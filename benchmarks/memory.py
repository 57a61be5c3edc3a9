"""What a training of a Llama-like model takes, by computation: the table of `docs/training.md`."""

from dataclasses import dataclass
from typing import Literal

from sso_data.models.memory import CHUNK_ELEMENTS

TrainingMethod = Literal["float32", "bfloat16", "lora"]
"""All weights in float32; the same with passes in bfloat16; LoRA on frozen bfloat16 weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a Llama-like model without biases; `tied`: the LM head is the embedding."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @property
    def parameters(self) -> int:
        """The number of all weights."""
        inside = sum(rows * columns for rows, columns in self._linear()) + 2 * self.hidden
        embeddings = (1 if self.tied else 2) * self.vocab * self.hidden
        return embeddings + self.layers * inside + self.hidden

    def adapter_parameters(self, r: int) -> int:
        """The weights of a LoRA adapter of rank `r` on every linear layer but the head."""
        return self.layers * r * sum(rows + columns for rows, columns in self._linear())

    def _linear(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of one block's linear layers: q, k, v, o, gate, up, down."""
        query, other = self.heads * self.head_dim, self.kv_heads * self.head_dim
        wide, hidden = self.intermediate, self.hidden
        attention = ((query, hidden), (other, hidden), (other, hidden), (hidden, query))
        return (*attention, (wide, hidden), (wide, hidden), (hidden, wide))


def training_bytes(
    shape: Shape, method: TrainingMethod, *, tokens: int, r: int = 16
) -> dict[str, int]:
    """Bytes that a training's parts take at their highest, by computation.

    `tokens`: of one micro-batch's pair, 2 x rows x length. Weights, gradients and AdamW's two
    moments are exact; activations are the inputs of every block (gradient checkpointing), those
    inside one block, and two chunks of the LM head's logits with its gradient, in float32.
    """
    trained = shape.adapter_parameters(r) if method == "lora" else shape.parameters
    wide = 4 if method == "float32" else 2
    frozen = 2 * shape.parameters if method == "lora" else 0
    copies = 2 * shape.parameters if method == "bfloat16" else 0  # autocast's, of a forward pass
    block = 18 * shape.hidden + 6 * shape.intermediate
    head = 0 if method == "lora" else 4 * shape.vocab * shape.hidden
    return {
        "weights": frozen + 4 * trained + copies,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "activations": wide * tokens * (shape.layers * shape.hidden + block)
        + 2 * 4 * min(CHUNK_ELEMENTS, tokens * shape.vocab)
        + head,
    }
