"""Does SSO do what its paper claims? Chains of rounds on tiny policies, judged by the exact oracle.

    python -m benchmarks.claims prepare --work claims           # two more checkpoints
    python -m benchmarks.claims run --half 1 --work claims      # 44 chains of one to two minutes
    python -m benchmarks.claims run --half 2 --work claims      # 35, and 9 reward models
    python -m benchmarks.claims report --work claims            # docs/claims.* from the results
    python -m benchmarks.claims page                            # docs/claims.md alone

What is run, and what would count as an answer, stands in `claims_grid.py`. One line of JSON for
each measurement goes to WORK/results-HALF.jsonl when its chain is done; the same command continues
after an interruption, within a round too.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims_grid import CHECKPOINTS, HALVES, Chain, chains
from sso_data.config.run import EngineConfig
from sso_data.engines.environment import prepare_environment
from sso_data.world import policy_dir

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The study of the paper's claims.")
    parser.add_argument("what", choices=("prepare", "run", "report", "page"))
    parser.add_argument("--half", type=int, choices=sorted(HALVES), help="which half to run")
    parser.add_argument("--work", type=Path, default=Path("claims"), help="where it is kept")
    parser.add_argument("--study", help="only this study of the half")
    parser.add_argument("--page", type=Path, default=DOCS / "claims.md", help="the page to write")
    given = parser.parse_args(argv)
    if given.what == "run" and given.half is None:
        parser.error("run needs --half")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    given = parse(argv)
    if given.what == "prepare":
        for name in CHECKPOINTS:
            checkpoint(name, given.work)
    elif given.what == "run":
        run(given.half, given.work, given.study)
    else:
        from benchmarks.claims_report import write_page, write_report

        if given.what == "report":
            write_report(list(results(given.work)), given.page)
        else:
            write_page(given.page)
    return 0


def run(half: int, work: Path, study: str | None = None) -> None:
    """Every chain of the half that has no result yet."""
    prepare_environment(EngineConfig(threads=1))
    import torch

    from benchmarks.claims_reward import Rewarding
    from benchmarks.claims_rounds import Rounds

    torch.set_num_threads(1)
    wanted = [chain for chain in chains(half) if study in (None, chain.study)]
    done = {line["chain"] for line in results(work)}
    todo = [chain for chain in wanted if chain.key not in done]
    policies = {chain.checkpoint for chain in todo}
    if any(chain.arm.pairs == "labelled" or chain.study == "reward" for chain in todo):
        policies |= {"second", "rambling"}
    places = {name: checkpoint(name, work) for name in sorted(policies)}
    began = time.monotonic()
    for number, chain in enumerate(todo, start=1):
        kind = Rewarding if chain.study == "reward" else Rounds
        note(work / f"results-{half}.jsonl", chain, kind(chain, work, places).run())
        seconds = time.monotonic() - began
        left = seconds / number * (len(todo) - number)
        print(f"{number}/{len(todo)} {chain.key}: {seconds:.0f} s, {left:.0f} s left", flush=True)


def checkpoint(name: str, work: Path) -> Path:
    """The directory of a checkpoint; trained now unless it is there."""
    recipe = CHECKPOINTS[name]
    if recipe is None:
        return policy_dir()
    place = work / "checkpoints" / name
    if not (place / "model.safetensors").exists():
        words = [f"--{key}={value}" for key, value in recipe.items()]
        new = place.with_name(f"{name}-{os.getpid()}.new")
        module = "tools.tiny_world.train_policy"
        subprocess.run(
            [sys.executable, "-m", module, "--out", str(new.resolve()), *words],
            cwd=ROOT,
            check=True,
        )
        if not place.exists():  # another half may have been quicker; the weights are the same
            new.rename(place)
    return place


def note(file: Path, chain: Chain, found: Sequence[dict[str, Any]]) -> None:
    """Append a chain's measurements in one write; a torn end is cut off first."""
    given: dict[str, Any] = {"chain": chain.key, "study": chain.study}
    given |= {"checkpoint": chain.checkpoint, "arm": chain.arm.name, "seed": chain.seed}
    text = "".join(json.dumps(given | line) + "\n" for line in found)
    with file.open("ab", buffering=0) as stream:
        stream.truncate(file.read_bytes().rfind(b"\n") + 1)
        stream.write(text.encode())
        os.fsync(stream.fileno())


def results(work: Path) -> Iterator[dict[str, Any]]:
    """Every measurement so far; of a chain whose lines are torn, none."""
    for file in sorted(work.glob("results-*.jsonl")):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        whole = {line["chain"] for line in found if line["on"] == "held-out" and line["trained"]}
        yield from (line for line in found if line["chain"] in whole)


if __name__ == "__main__":
    sys.exit(main())
