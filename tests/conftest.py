"""The surroundings of every test: no network, one CPU thread, quiet libraries."""

import os
import signal
import threading
from typing import Any

import pytest

SURROUNDINGS = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
for _name, _value in SURROUNDINGS.items():
    os.environ.setdefault(_name, _value)

if threading.current_thread() is threading.main_thread():
    # A suite started in the background ignores them, and so would every command it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


REAL_PROCESSES = {"reliability", "training", "command", "evaluation", "iteration"}
"""Folders with tests that start whole commands."""
WORKERS = "PYTEST_XDIST_WORKER_COUNT"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests come first in every worker's share, and vLLM's in that of one worker.

    `--dist worksteal` deals neighbours: a share each, of which idle workers take the end.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(
        key=lambda item: (item.path not in slow, item.path.parent.name not in REAL_PROCESSES)
    )
    shares: list[list[pytest.Item]] = [[] for _ in range(int(os.environ.get(WORKERS, "1")))]
    shares[0] = [item for item in items if item.get_closest_marker("vllm")]
    for item in items:
        if not item.get_closest_marker("vllm"):
            min(shares, key=len).append(item)
    items[:] = [item for share in shares for item in share]


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: tests wait for processes that they kill, stop and start."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def opened_sources(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of prompt sources, each time that one is opened."""
    import sso_data.prompts as prompt_sources

    opened: list[str] = []
    raw_rows = prompt_sources.raw_rows

    def counted(source: str, config: Any) -> Any:
        opened.append(source)
        return raw_rows(source, config)

    monkeypatch.setattr(prompt_sources, "raw_rows", counted)
    return opened
