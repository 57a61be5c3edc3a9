"""Seconds and memory of everything but the engine, at N rows and at fewer.

    python benchmarks/scale.py --dir DIR                    # 20,000 and 100,000 rows
    python benchmarks/scale.py --dir DIR --rows 1000000 --few 20000

An engine that answers at once (60 random tokens, made-up log-probs) makes two shards with the
embedded tiny policy; they are merged, and the commands work on the merged run. Every step is a
process of its own. A step is linear where a row costs as much among N as among few, and its memory
flat where the peak is the same. About 3 kB of disk a row and copy; DIR is deleted, unless --keep.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from sso_data.engines.interface import (
    EngineInfo,
    Request,
    Result,
    Sampled,
    SampleRequest,
    Scored,
    ScoreRequest,
)

TOKENS = 60
ON_VIEW_NATS = -0.9 * TOKENS
ANSWERS_A_STEP = 256
FLAT, LINEAR = 1.25, 1.25
"""Growth from few to N, of the peak and of the time of a row, up to which we say so."""


class Instant:
    """Answers the oldest requests, without a model."""

    info = EngineInfo(
        name="instant",
        version="1",
        device="none",
        dtype="none",
        context_tokens=4096,
        max_in_flight=1024,
    )

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()

    def submit(self, requests: Sequence[Request]) -> None:
        self._waiting += requests

    def step(self) -> list[Result]:
        count = min(ANSWERS_A_STEP, len(self._waiting))
        return [answer(self._waiting.popleft()) for _ in range(count)]

    def close(self) -> None:
        """Nothing is held."""


def answer(request: Request) -> Result:
    """Random tokens; less likely under views that they were not sampled from."""
    if isinstance(request, ScoreRequest):
        draw = random.Random(request.key).uniform(1.0, 1.6)
        nats = ON_VIEW_NATS if request.was_sampled else draw * ON_VIEW_NATS
        return Scored(key=request.key, total_nats=nats)
    assert isinstance(request, SampleRequest)
    tokens = tuple(random.Random(request.seed).choices(range(30, 900), k=TOKENS))
    return Sampled(key=request.key, token_ids=tokens, total_nats=ON_VIEW_NATS, finish_reason="stop")


def make_shard(source: Path, out: Path, shard: str) -> None:
    """`generate` with the instant engine."""
    from sso_data import generate
    from sso_data.world import catalogue_dir, policy_dir

    config = {
        "model": str(policy_dir()),
        "principles": str(catalogue_dir()),
        "source": {"shard": shard},
        "engine": {"isolation": "inline"},
    }
    with mock.patch("sso_data.generation.generate.start_engine", lambda *_, **__: Instant()):
        generate(source, out, config=config)


def steps_of(folder: Path) -> dict[str, list[str]]:
    """What is measured, in this order: a command line each."""
    product = [sys.executable, "-m", "sso_data"]
    run, parts = str(folder / "run"), [str(folder / f"part{number}") for number in (1, 2)]
    make = [sys.executable, __file__, "--dir", str(folder), "--make"]
    return {
        "generate, first half": [*make, "1/2"],
        "generate, second half": [*make, "2/2"],
        "resume, nothing left": [*make, "1/2"],
        "merge": [*product, "merge", *parts, "--out", run],
        "filter, dry": [*product, "filter", run, "--dry-run"],
        "sweep": [*product, "filter", run, "--sweep"],
        "filter": [*product, "filter", run, "--set", "filter.closeness=0.6"],
        "report": [*product, "report", run, "--out", str(folder / "report")],
        "export": [*product, "export", run, "--to", "trl", "--out", str(folder / "trl")],
        "push, dry": [
            *(*product, "push", run, "someone/pairs", "--dry-run"),
            *("--license", "apache-2.0", "--language", "en"),
        ],
    }


def measured(command: Sequence[str], log: Path) -> dict[str, float]:
    """Seconds, processor seconds and peak memory (MB) of a command and of its children."""
    began = time.perf_counter()
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}; see {log}")
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss * 1024 / 1e6, 1),
    }


def at(rows: int, folder: Path) -> dict[str, dict[str, float]]:
    """Every step at a number of rows."""
    folder.mkdir(parents=True)
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(rows):
            stream.write(json.dumps({"prompt": f"Tell me of number {number}."}) + "\n")
    found = {}
    for name, command in steps_of(folder).items():
        found[name] = measured(command, folder / "log.txt")
        print(f"{rows:,} rows, {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def table(report: Mapping[str, Any]) -> str:
    """A line a step: the growth first, then what was measured."""
    few, many = report["rows"]
    lines = [
        f"| step | CPU s a row, x from {few:,} to {many:,} | peak, x | CPU s | seconds | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    start = report["start"]["cpu_seconds"]
    for name, last in report["steps"][str(many)].items():
        first = report["steps"][str(few)][name]
        own = [max(one["cpu_seconds"] - start, 0.01) for one in (first, last)]
        time_growth = own[1] / own[0] * few / many
        memory_growth = last["peak_mb"] / first["peak_mb"]
        linear = "linear" if time_growth <= LINEAR else "more than linear"
        flat = "flat" if memory_growth <= FLAT else "grows"
        lines.append(
            f"| {name} | {time_growth:.2f} ({linear}) | {memory_growth:.2f} ({flat}) | "
            f"{last['cpu_seconds']:.1f} | {last['seconds']:.1f} | {last['peak_mb']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Everything but the engine, at N rows.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--few", type=int, help="rows to compare with (default: a fifth)")
    parser.add_argument("--dir", type=Path, required=True, help="a directory that does not exist")
    parser.add_argument("--keep", action="store_true", help="leave the runs")
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        out = options.dir / f"part{options.make[0]}"
        make_shard(options.dir / "prompts.jsonl", out, options.make)
        return
    options.dir.mkdir(parents=True)
    counts = (options.few or options.rows // 5, options.rows)
    help_command = [sys.executable, "-m", "sso_data", "--help"]
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rows": counts,
        "start": measured(help_command, options.dir / "log.txt"),
        "steps": {},
    }
    for rows in counts:
        report["steps"][str(rows)] = at(rows, options.dir / str(rows))
        if not options.keep:
            shutil.rmtree(options.dir / str(rows))
    print(json.dumps(report, indent=2) if options.json else table(report))
    if not options.keep:
        shutil.rmtree(options.dir)


if __name__ == "__main__":
    main()
