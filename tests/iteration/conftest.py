"""Iterations of the tiny policy with settings of a few seconds, trained in this process."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from sso_data.config.iteration import IterateConfig
from sso_data.config.loading import validated
from sso_data.core.progress import NullProgress
from sso_data.core.trees import deep_merge
from sso_data.iteration.report import Iterated
from sso_data.iteration.run import iterate
from sso_data.iteration.training import Train, Training
from sso_data.training.run import train
from sso_data.world import catalogue_dir, policy_dir, queries
from tests.tiny_runs import Silent

PROMPTS = 8

TINY: dict[str, Any] = {
    "model": str(policy_dir()),
    "rounds": 2,
    "seed": 3,
    "slices": {"prompts": PROMPTS},
    "generate": {
        "principles": str(catalogue_dir()),
        "steering": {"paraphrase": False},
        "sampling": {"max_tokens": 64},
        "engine": {"name": "transformers", "isolation": "inline", "dtype": "float32", "threads": 1},
        "filter": {"preset": "none", "drop_truncated": False},
        "output": {"parquet": False},
    },
    "train": {
        "loss": {"type": "dpo", "beta": 0.1},
        "optim": {"lr": 3e-4, "max_steps": 2, "batch_size": 4, "micro_batch_rows": 4}
        | {"warmup_steps": 0.0, "schedule": "constant"},
        "checkpoints": {"every": 2},
        "log": {"plot": False},
    },
    "held_out": {"judge": {"kind": "oracle"}},
    "stop": {"steered": 0, "gap": 0, "signal_accuracy": 0},
}


def tiny(prompts: Path, **changes: Any) -> IterateConfig:
    """The settings of a tiny iteration, changed section by section."""
    return validated(
        IterateConfig, deep_merge(deep_merge(TINY, {"prompts": str(prompts)}), changes)
    )


def write_prompts(file: Path, number: int, *, seed: int = 5) -> Path:
    """A file of prompts of the tiny world, each with an id and another column."""
    rows = [
        {"prompt": text, "id": f"q{place}", "kind": place % 3}
        for place, text in enumerate(queries(number, seed=seed))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@dataclass
class Heard(NullProgress):
    """A progress that keeps notes (the headings of steps among them), warnings and units."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        self.units.append(unit)


def train_here(training: Training) -> None:
    """What the training's own process does, in this one: seconds of imports are saved."""
    train(str(training.source), training.out, training.config, Silent())


def run(
    config: IterateConfig, out: Path, progress: Heard | None = None, *, by: Train = train_here
) -> Iterated:
    """Make or continue an iteration."""
    return iterate(config, out, progress, train=by)


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slices of prompts, from chats of people by the file's name."""
    return write_prompts(tmp_path_factory.mktemp("prompts") / "wildchat.jsonl", 4 * PROMPTS)
