"""The surroundings of every test: no network, one CPU thread, quiet libraries."""

import os
import signal
import threading

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first: no worker begins one when the others have nothing left to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(
        key=lambda item: (item.path not in slow, item.path.parent.name not in REAL_PROCESSES)
    )
