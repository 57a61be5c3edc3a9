"""What the fleet costs the driver: CPU seconds beside an engine that answers at once.

    python benchmarks/fleet.py --rows 20000

`bare` is the engine itself, `fleet` a fleet of one; both are given the requests of rows (three
samples, then five scores) with so many of them open at a time. A pair of passes is made one after
the other, `--repeat` times; the report has the medians, in microseconds of CPU a row, and what the
fleet adds as a share of `--row-ms`, the driver's own CPU time of a row. Prints JSON.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from sso_data.config.run import EngineConfig
from sso_data.engines.fleet import Fleet
from sso_data.engines.interface import (
    EngineInfo,
    Request,
    Result,
    Sampled,
    SampleRequest,
    Scored,
    ScoreRequest,
    row_of,
)

VIEWS = ("plain", "good", "bad")
SCORES = ("good/plain", "bad/plain", "good/bad", "bad/good", "plain/good")
PROMPT = tuple(range(40))
ANSWERS_A_STEP = 64


class Instant:
    """Answers the oldest requests, without a model."""

    waitables: Sequence[Any] = ()

    def __init__(self, open_requests: int) -> None:
        self._waiting: deque[Request] = deque()
        self.info = EngineInfo(
            name="instant",
            version="1",
            device="none",
            dtype="none",
            context_tokens=4096,
            max_in_flight=open_requests,
        )

    def poll(self) -> EngineInfo:
        return self.info

    def submit(self, requests: Sequence[Request]) -> None:
        self._waiting += requests

    def step(self, timeout: float = 0.0) -> list[Result]:
        count = min(ANSWERS_A_STEP, len(self._waiting))
        return [_answer(self._waiting.popleft()) for _ in range(count)]

    def close(self) -> None:
        pass


def _start(open_requests: int, config: EngineConfig) -> Instant:
    return Instant(open_requests)


def _answer(request: Request) -> Result:
    if isinstance(request, ScoreRequest):
        return Scored(key=request.key, total_nats=-3.0)
    return Sampled(key=request.key, token_ids=PROMPT, total_nats=-3.0, finish_reason="stop")


def cpu_of(engine: Instant | Fleet, rows: int, open_requests: int) -> float:
    """CPU seconds of all requests of so many rows."""
    began = time.process_time()
    begun = done = in_flight = 0
    left: dict[str, int] = {}
    while done < rows:
        while begun < rows and in_flight < open_requests:
            begun += 1
            left[f"r{begun}"] = 0
            engine.submit([_sample(f"r{begun}/{view}") for view in VIEWS])
            in_flight += len(VIEWS)
        for result in engine.step():
            in_flight -= 1
            row = row_of(result.key)
            left[row] += 1
            if left[row] == len(VIEWS):
                engine.submit([_score(f"{row}/{cell}") for cell in SCORES])
                in_flight += len(SCORES)
            elif left[row] == len(VIEWS) + len(SCORES):
                done += 1
                del left[row]
    return time.process_time() - began


def _sample(key: str) -> SampleRequest:
    return SampleRequest(
        key=key, prompt_ids=PROMPT, max_tokens=40, seed=1, temperature=0.7, top_p=0.8
    )


def _score(key: str) -> ScoreRequest:
    return ScoreRequest(key=key, prompt_ids=PROMPT, completion_ids=PROMPT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--open", type=int, nargs="*", default=[512, 32_768])
    parser.add_argument("--row-ms", type=float, default=3.1)
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "rows": arguments.rows,
    }
    for open_requests in arguments.open:
        passes = [
            (
                cpu_of(Instant(open_requests), arguments.rows, open_requests),
                cpu_of(
                    Fleet([partial(_start, open_requests)], EngineConfig()),
                    arguments.rows,
                    open_requests,
                ),
            )
            for _ in range(arguments.repeat)
        ]
        bare, fleet = (
            statistics.median(one) / arguments.rows * 1e6 for one in zip(*passes, strict=True)
        )
        report[f"{open_requests} open"] = {
            "bare_us": round(bare, 1),
            "fleet_us": round(fleet, 1),
            "share_of_a_row": round((fleet - bare) / (arguments.row_ms * 1000), 4),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
