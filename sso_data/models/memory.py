"""Memory: how much of it is free, and which errors mean that it ran out."""

import os
import sys
from pathlib import Path

CHUNK_ELEMENTS = 2**26
"""Logits that exist at once by default: 256 MiB in fp32."""
CPU_PASS_TOKENS = 1024
"""More of them take longer each: their work no longer lies in the caches (docs/benchmarks.md)."""


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
