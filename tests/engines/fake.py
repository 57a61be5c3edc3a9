"""An engine without a model, for what a child process does around one; it obeys the keys."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sso_data.config.run import EngineConfig
from sso_data.core.errors import ModelError
from sso_data.engines.interface import EngineInfo, Request, Result, Scored


class FakeEngine:
    """Answers one request per step; keys that end in `die`, `fail`, `hang` or `noise` do so."""

    def __init__(self) -> None:
        self._waiting: list[Request] = []

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            name="transformers",
            version=os.environ.get("OMP_NUM_THREADS", ""),
            device="cpu",
            dtype="float32",
            context_tokens=100,
            max_in_flight=8,
        )

    def submit(self, requests: Sequence[Request]) -> None:
        self._waiting += requests

    def step(self) -> list[Result]:
        if not self._waiting:
            return []
        request = self._waiting.pop(0)
        match request.key.rpartition("/")[2]:
            case "die":
                print("the last\twords", file=sys.stderr, flush=True)
                os._exit(3)
            case "fail":
                raise RuntimeError("one\ntwo")
            case "hang":
                time.sleep(1000)
            case "noise":
                os.write(1, b"noise on stdout\n")
        return [Scored(key=request.key, total_nats=-float(len(request.prompt_ids)))]

    def close(self) -> None:
        pass


def start_fake(model_path: Path, config: EngineConfig) -> FakeEngine:
    assert not {"torch", "vllm"} & set(sys.modules)
    return FakeEngine()


def start_refusing(model_path: Path, config: EngineConfig) -> FakeEngine:
    raise ModelError(f"{model_path}: not today")


def start_crashing(model_path: Path, config: EngineConfig) -> FakeEngine:
    raise KeyError("surprise")
