"""What the driver costs: CPU seconds beside an engine that answers at once.

    python benchmarks/fleet.py --rows 20000
    python benchmarks/fleet.py --model DIR --driver-rows 2000 --before OTHER_CHECKOUT

`bare` is the engine itself, `fleet` a fleet of one; both are given the requests of rows (three
samples, then five scores) with so many of them open at a time. A pair of passes is made one after
the other, `--repeat` times; the report has the medians, in microseconds of CPU a row, and what the
fleet adds as a share of `--row-ms`, the driver's own CPU time of a row. With `--model` that time is
measured: `generate` from its second look at the prompts to the last row in the journal, with
responses of 300 tokens; with `--before` also of another checkout's package, the two in turns.
Prints JSON.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

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
from sso_data.generation import generate as generating
from sso_data.templating.chat_template import load_tokenizer

VIEWS = ("plain", "good", "bad")
SCORES = ("good/plain", "bad/plain", "good/bad", "bad/good", "plain/good")
PROMPT = tuple(range(40))
ANSWERS_A_STEP = 64
WORDS = Path(__file__).parents[1] / "templates" / "choose.j2"


class Instant:
    """Answers the oldest requests, without a model; samples are slices of `ids`."""

    waitables: Sequence[Any] = ()

    def __init__(self, open_requests: int, ids: tuple[int, ...] = (), tokens: int = 0) -> None:
        self._ids, self._tokens = ids, tokens
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
        return [self._answer(self._waiting.popleft()) for _ in range(count)]

    def close(self) -> None:
        pass

    def _answer(self, request: Request) -> Result:
        if isinstance(request, ScoreRequest):
            return Scored(key=request.key, total_nats=-3.0)
        start = request.seed % max(1, len(self._ids) - self._tokens)
        ids = self._ids[start : start + self._tokens] or PROMPT
        return Sampled(key=request.key, token_ids=ids, total_nats=-3.0, finish_reason="stop")


def _start(open_requests: int, config: EngineConfig) -> Instant:
    return Instant(open_requests)


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


def driver_ms(model: str, rows: int, open_requests: int) -> float:
    """The driver's CPU time of a row, in ms."""
    from sso_data.config.run import load_config

    words = WORDS.read_text(encoding="utf-8").split()
    rng, spent = random.Random(1), []
    make_rows = generating.make_rows

    def timed(*given: Any, **named: Any) -> Any:
        began = time.process_time()
        counts = make_rows(*given, **named)
        spent.append(time.process_time() - began)
        return counts

    def start(path: Path, *_: Any, **__: Any) -> Instant:
        ids = tokenizer(" ".join(rng.choices(words, k=4000)))["input_ids"]
        return Instant(open_requests // 2, tuple(ids), 300)

    tokenizer = load_tokenizer(Path(model))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "prompts.jsonl"
        texts = (" ".join(rng.choices(words, k=30)) for _ in range(rows))
        source.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        config = load_config(None, ["output.parquet=false"], model=model)
        with (
            mock.patch.object(generating, "make_rows", timed),
            mock.patch.object(generating, "start_engine", start),
        ):
            generating.generate(str(source), Path(folder) / "run", config)
    return sum(spent) / rows * 1000


def driver_report(arguments: argparse.Namespace) -> dict[str, float]:
    """The medians of this checkout and of the one before, each pass in a process of its own."""
    trees = {"after_ms": str(Path(__file__).parents[1])}
    if arguments.before:
        trees["before_ms"] = arguments.before
    command = [sys.executable, __file__, "--one-pass", "--model", arguments.model]
    command += ["--driver-rows", str(arguments.driver_rows), "--open", str(arguments.open[0])]
    found: dict[str, list[float]] = {name: [] for name in trees}
    for _ in range(arguments.repeat):
        for name, tree in trees.items():
            environ = os.environ | {"PYTHONPATH": str(Path(tree).absolute())}
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
            found[name].append(float(done.stdout))
    return {name: round(statistics.median(each), 3) for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--open", type=int, nargs="*", default=[512, 32_768])
    parser.add_argument("--row-ms", type=float, default=3.1)
    parser.add_argument("--model", help="a model's directory, of which the tokenizer is used")
    parser.add_argument("--driver-rows", type=int, default=2000)
    parser.add_argument("--before", help="another checkout, to compare the driver with")
    parser.add_argument("--one-pass", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_pass:
        print(driver_ms(arguments.model, arguments.driver_rows, arguments.open[0]))
        return
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "rows": arguments.rows,
    }
    if arguments.model:
        report["driver of a row"] = driver_report(arguments)
    for open_requests in arguments.open if arguments.rows else ():
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
