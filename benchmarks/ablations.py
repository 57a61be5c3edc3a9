"""What the parts of the loss do: rounds on the tiny policy, over ablations, bases and seeds.

    python benchmarks/ablations.py --out results/ablations.jsonl
    python benchmarks/ablations.py --seeds 1 2 3 4 --iterations 3 --bases dpo

A round generates rows with the policy of the round before, keeps those that are steered, and trains
on them. After it the exact oracle scores fresh answers to held-out queries: without any principle
(the unprompted score), and as pairs (signal accuracy: is y+ better than y-). One line of JSON a
round; what stands in the file is not done again. The table gives means over seeds with their
standard errors; with one seed, the standard error over queries.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sso_data.config import EngineConfig
from sso_data.demo import demo_config
from sso_data.engines.environment import prepare_environment
from sso_data.generate import generate
from sso_data.train.settings import load_train_config
from sso_data.world import policy_dir, queries

VARIANTS: dict[str, dict[str, Any]] = {
    "pairs": {"objective": "pairs"},
    "sso g=.1": {"g": 0.1},
    "sso g=1": {"g": 1.0},
    "no w": {"use_w": False},
    "no g": {"use_g": False},
}
LEARNING_RATES = {"ipo": 5e-4, "dpo": 3e-4}
STEPS, STEP_ROWS = 12, 32
MEASURED = ("signal_accuracy_total", "unprompted", "well_formed", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One chain of rounds; `lr` and `rows` are part of what was asked."""

    base: str
    variant: str
    seed: int
    lr: float
    rows: int


class Quiet:
    """A listener that hears nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ablations of the loss on the tiny policy.")
    parser.add_argument("--out", type=Path, default=Path("ablations.jsonl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--bases", nargs="+", choices=LEARNING_RATES, default=["ipo", "dpo"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--iterations", type=int, default=1, help="rounds in a chain")
    parser.add_argument("--rows", type=int, default=384, help="prompts of a round")
    parser.add_argument("--queries", type=int, default=250, help="held-out ones, for measuring")
    parser.add_argument("--lr", type=float, help="for every base; else 5e-4 ipo, 3e-4 dpo")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"a round, of {STEP_ROWS} rows")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the file lacks, then print the table."""
    given = parse(argv)
    prepare_environment(EngineConfig(threads=1))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ablations-") as scratch:
        start(given, Path(scratch))
        for cell in cells(given):
            chain(cell, given, Path(scratch))
    print(table(list(results(given.out))))
    return 0


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    """Every chain asked for, seed by seed, so that an early end leaves whole rows of the table."""
    for seed in given.seeds:
        for base in given.bases:
            for variant in given.variants:
                lr = given.lr or LEARNING_RATES[base]
                yield Cell(base=base, variant=variant, seed=seed, lr=lr, rows=given.rows)


def start(given: argparse.Namespace, scratch: Path) -> None:
    """Measure the untrained policy, seed by seed: round 0."""
    for seed in given.seeds:
        cell = Cell(base="-", variant="start", seed=seed, lr=0.0, rows=0)
        if not is_done(given, cell, 0):
            note(given, cell, 0, judged(policy_dir(), given, seed), seconds=0.0, pairs=0)


def chain(cell: Cell, given: argparse.Namespace, scratch: Path) -> None:
    """The rounds of one cell; done again from the first where the last one is missing."""
    if is_done(given, cell, given.iterations):
        return
    policy = policy_dir()
    for iteration in range(1, given.iterations + 1):
        began = time.monotonic()
        name = f"{cell.seed}-{iteration}"
        shared = iteration == 1  # the first round's rows are the same for every variant
        run = scratch / (name if shared else f"{name}-{cell.base}-{cell.variant}")
        pairs = make_rows(run, policy, cell, iteration)
        out = scratch / f"{name}-{cell.base}-{cell.variant}-model"
        train_round(run, policy, out, cell, given.steps)
        policy = out
        if not is_done(given, cell, iteration):
            found = judged(policy, given, cell.seed)
            note(given, cell, iteration, found, seconds=time.monotonic() - began, pairs=pairs)


def make_rows(run: Path, policy: Path, cell: Cell, iteration: int) -> int:
    """A run of fresh rows, those kept that are steered; how many."""
    prompts = run.with_suffix(".jsonl")
    texts = queries(cell.rows, seed=1000 * cell.seed + iteration)
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    config = demo_config()
    steered = config.filter.model_copy(update={"closeness": "q1.0", "gap": 0.0})
    seed = 1000 * cell.seed + iteration
    changed = {"model": str(policy), "filter": steered, "seed": seed}
    summary = generate(str(prompts), run, config.model_copy(update=changed), Quiet())
    return len(summary.decision.kept)


def train_round(run: Path, policy: Path, out: Path, cell: Cell, steps: int) -> None:
    """One round of training with the cell's loss."""
    from sso_data.train.run import train

    config = load_train_config(
        None,
        None,
        model=str(policy),
        seed=cell.seed,
        loss={"base": cell.base, **VARIANTS[cell.variant]},
        optim={
            "lr": cell.lr,
            "max_steps": steps,
            "batch_rows": STEP_ROWS,
            "micro_batch_rows": 16,
            "schedule": "constant",
            "warmup": 0.0,
        },
        checkpoints={"every": steps},
        stop={"chosen_drop": None},
        log={"plot": False},
    )
    train(str(run), out, config, Quiet(), overwrite=True)


def judged(policy: Path, given: argparse.Namespace, seed: int) -> dict[str, dict[str, float]]:
    """The oracle's numbers, each with mean and standard error over queries."""
    from sso_data.world.measure import measure

    found: Any = measure(policy, given.queries, seed=5000 + seed)
    return {
        "signal_accuracy_total": found["signal_accuracy_total"],
        "unprompted": found["total"]["plain"],
        "well_formed": found["well_formed"]["plain"],
        "tokens": found["tokens"]["plain"],
    }


def results(file: Path) -> Iterator[dict[str, Any]]:
    """What the file holds; a torn last line does not count."""
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def is_done(given: argparse.Namespace, cell: Cell, iteration: int) -> bool:
    """Whether the file has this round of this cell, made with the same settings."""
    wanted = asdict(cell) | {
        "iteration": iteration,
        "queries": given.queries,
        "steps": given.steps if iteration else 0,
    }
    return any(wanted.items() <= line.items() for line in results(given.out))


def note(
    given: argparse.Namespace,
    cell: Cell,
    iteration: int,
    found: dict[str, dict[str, float]],
    *,
    seconds: float,
    pairs: int,
) -> None:
    """Append a round to the file."""
    line = asdict(cell) | {
        "iteration": iteration,
        "queries": given.queries,
        "steps": given.steps if iteration else 0,
        "pairs": pairs,
        "seconds": round(seconds, 1),
        **found,
    }
    whole = b"".join((json.dumps(old) + "\n").encode() for old in results(given.out))
    given.out.write_bytes(whole + (json.dumps(line) + "\n").encode())
    print(f"{cell.base} {cell.variant} seed {cell.seed} round {iteration}: {seconds:.0f} s")


def table(lines: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: a row for each base, variant and round."""
    shown = [
        "| base | variant | round | seeds | signal accuracy | unprompted | well-formed | tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for line in lines:
        key = (line["base"], line["variant"], line["iteration"])
        groups.setdefault(key, []).append(line)
    for (base, variant, iteration), found in sorted(groups.items(), key=lambda item: item[0][::2]):
        numbers = " | ".join(mean_and_error([line[name] for line in found]) for name in MEASURED)
        shown.append(f"| {base} | {variant} | {iteration} | {len(found)} | {numbers} |")
    return "\n".join(shown)


def mean_and_error(values: Sequence[dict[str, float]]) -> str:
    """The mean over seeds and its standard error; with one seed, that over queries."""
    means = [value["mean"] for value in values]
    if len(means) == 1:
        return f"{means[0]:.3f} +- {values[0]['se']:.3f}"
    return f"{statistics.fmean(means):.3f} +- {statistics.stdev(means) / math.sqrt(len(means)):.3f}"


if __name__ == "__main__":
    sys.exit(main())
