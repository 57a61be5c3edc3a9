"""Memory: how much of it is free, which errors mean that it ran out, what a training takes."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CHUNK_ELEMENTS = 2**26
"""Logits that exist at once by default: 256 MiB in fp32."""
CPU_PASS_TOKENS = 1024
"""More of them take longer each: their work no longer lies in the caches (docs/benchmarks.md)."""

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


def pass_tokens(device: str, most: int) -> int:
    """Tokens of a forward pass over whole sequences: `most`, on a CPU at most CPU_PASS_TOKENS."""
    return min(most, CPU_PASS_TOKENS) if device == "cpu" else most


def free_memory() -> int:
    """Bytes of main memory that this process can still take (the container's limit counts too)."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except OSError:
        pass
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return max(0, min(free, limit - used))


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the device, an allocator or the host ran out of memory.

    The error's causes are searched too: vLLM and transformers wrap what their allocators raise.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        text = str(seen).lower()
        if "out of memory" in text or "can't allocate memory" in text:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def release_device_memory() -> None:
    """Give cached blocks of GPU memory back, where torch is in use on a GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
