"""Makes the fixtures of this directory: `python -m tests.upgrade.make [NAME ...]`.

Each fixture is work that a command began and SIGKILL ended: a run, trainings, an iteration, an
evaluation, an augmentation. Later versions must go on with it to what the version that began it
would have come to. So this is run with the version whose work is to be kept, at its commit, which
`stored/made.json` names. It is not run again for later versions: their own work would be a fixture
beside these.

    stored/policy/              the model that all of them use
    stored/NAME/begun.tar.xz    the working directory as SIGKILL left it, without the model
    stored/NAME/command.json    the words of the command that was killed, and how
    stored/NAME/expected.json   what the same command gave where nothing interrupted it

All paths in the files are relative to the working directory. No file is written by hand: a command
kills itself half-way through a write that `Death` names (`dying.py`).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.upgrade.content import (
    augmentation_content,
    evaluation_content,
    iteration_content,
    run_content,
    steering_content,
    training_content,
)
from tests.upgrade.places import POLICY, STORED, weakened

ROOT = Path(__file__).parents[2]
_NUMBERS = re.compile(r"\[[-+.,\de\s]+\]")
"""A list of numbers, which is written on one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Half-way through the `k`-th write to the file whose path ends in `file`."""

    file: str
    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A fixture: `before` are commands that finish, `command` the one that is killed.

    `data` fills the working directory; `content` reads what is compared from it. `keeps` names what
    goes into the archive.
    """

    name: str
    data: Callable[[Path], None]
    command: Sequence[str]
    death: Death
    content: Callable[[Path], dict[str, Any]]
    keeps: Sequence[str]
    before: Sequence[Sequence[str]] = ()


def sets(*settings: str) -> list[str]:
    """`--set` before each of them."""
    return [word for setting in settings for word in ("--set", setting)]


def write_queries(folder: Path, number: int, seed: int) -> list[dict[str, Any]]:
    """`prompts.jsonl` with queries of the tiny world, an id and another column in each row."""
    from sso_data.world import queries

    texts = queries(number, seed=seed)
    rows = [{"prompt": text, "id": f"q{n}", "kind": n % 3} for n, text in enumerate(texts)]
    _write_rows(folder, rows)
    return rows


def _write_rows(folder: Path, rows: Sequence[Any]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "prompts.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _with_catalogue(folder: Path) -> None:
    from sso_data.world import catalogue_dir

    shutil.copytree(catalogue_dir(), folder / "principles")


def _with_templates(folder: Path) -> None:
    from sso_data.world import skill_templates_dir

    shutil.copytree(skill_templates_dir(), folder / "templates")


def _mixed_prompts(folder: Path) -> None:
    """Ten queries, one of them twice; one that is too long for the model, and a malformed row."""
    rows: list[Any] = list(write_queries(folder, 10, 5))
    rows.insert(2, {"prompt": " ".join(["Tell me about the tiger."] * 120), "id": "long"})
    rows.insert(4, '{"prompt": ')
    rows.insert(7, {"prompt": rows[0]["prompt"], "id": "again"})
    _write_rows(folder, rows)
    _with_catalogue(folder)


def _few_prompts(folder: Path, number: int = 6, seed: int = 8) -> None:
    write_queries(folder, number, seed)
    _with_catalogue(folder)


def _steered(folder: Path) -> None:
    _few_prompts(folder)
    _with_templates(folder)


def _steered_by_two(folder: Path) -> None:
    _steered(folder)
    weakened(folder / "policy", folder / "weaker")


def _for_training(folder: Path) -> None:
    _few_prompts(folder, 16, 5)


def _for_rounds(folder: Path) -> None:
    _few_prompts(folder, 16, 5)


def _for_eval(folder: Path) -> None:
    _few_prompts(folder, 6, 31)
    weakened(folder / "policy", folder / "weaker")


def _for_augment(folder: Path) -> None:
    write_queries(folder, 12, 3)
    _with_templates(folder)


CPU = sets("engine.device=cpu", "engine.process=inline", "engine.threads=1")
RUN = ["generate", "prompts.jsonl", "--model", "policy", "--out", "run"]
RUN += ["--principles", "principles", "--engine", "transformers"]
TRAIN = ["train", "run", "--model", "policy", "--out", "model", "--seed", "7"]
PAIRS = [*RUN, *CPU, *sets("sampling.max_tokens=96", "filter.preset=none")]

RECIPES = (
    Recipe(
        name="run",
        data=_mixed_prompts,
        command=[
            *RUN,
            *("--seed", "11", "--skip-bad-rows"),
            *CPU,
            *sets("engine.dtype=float32", "engine.max_model_len=512", "sampling.max_tokens=96"),
            *sets("sampling.top_p=0.9", "scoring.full=true", "steering.count=3"),
            *sets("steering.paraphrase=false"),
        ],
        death=Death(file="run/rows/00000.jsonl", k=6),
        content=lambda folder: {"run": run_content(folder / "run")},
        keeps=("prompts.jsonl", "principles", "run"),
    ),
    Recipe(
        name="steered",
        data=_steered,
        command=[
            *RUN,
            *("--templates", "templates"),
            *sets("engine.device=cpu", "engine.process=child", "sampling.max_tokens=96"),
            *sets("steering.choose=policy", "steering.principles=written"),
            *sets("steering.max_tokens=64", "steering.temperature=0.6"),
        ],
        death=Death(file="run/rows/00000.jsonl", k=3),
        content=lambda folder: {
            "run": run_content(folder / "run"),
            "steering": steering_content(folder / "run"),
        },
        keeps=("prompts.jsonl", "principles", "templates", "run"),
    ),
    Recipe(
        name="half-steered",
        data=_steered_by_two,
        command=[
            *RUN,
            *("--templates", "templates", "--principle-model", "weaker", "--seed", "3"),
            *CPU,
            *sets("sampling.max_tokens=32", "filter.drop_truncated=false"),
            *sets("steering.choose=policy", "steering.principles=written"),
            *sets("steering.max_tokens=64", "steering.concision_probability=0"),
        ],
        death=Death(file="run/steering.jsonl", k=9),
        content=lambda folder: {
            "run": run_content(folder / "run"),
            "steering": steering_content(folder / "run"),
        },
        keeps=("prompts.jsonl", "principles", "templates", "run"),
    ),
    Recipe(
        name="trained",
        data=_for_training,
        before=[PAIRS],
        command=[
            *TRAIN,
            *("--base", "dpo"),
            *sets("optim.compute=float32", "optim.weights=bfloat16", "optim.warmup=0.25"),
            *sets("optim.batch_rows=4", "optim.micro_batch_rows=2", "optim.max_steps=6"),
            *sets("optim.lr=1e-3", "reference.tolerance=0.5"),
            *sets("checkpoints.every=2", "log.plot=false"),
        ],
        death=Death(file="model/metrics.jsonl", k=4),
        content=lambda folder: training_content(folder / "model", folder / "policy"),
        keeps=("prompts.jsonl", "principles", "run", "model"),
    ),
    Recipe(
        name="adapted",
        data=_for_training,
        before=[PAIRS],
        command=[
            *TRAIN,
            "--lora",
            *sets("lora.r=4", "lora.merge=true", "optim.compute=float32", "optim.weights=float32"),
            *sets("optim.warmup=0.2", "optim.batch_rows=5", "optim.micro_batch_rows=2"),
            *sets("optim.epochs=2", "optim.lr=2e-3", "optim.schedule=linear", "loss.g=0.3"),
            *sets("data.eval_share=0.2", "checkpoints.every=2", "log.plot=false"),
        ],
        death=Death(file="model/metrics.jsonl", k=5),
        content=lambda folder: training_content(folder / "model", folder / "policy"),
        keeps=("prompts.jsonl", "principles", "run", "model"),
    ),
    Recipe(
        name="rewarded",
        data=_for_training,
        before=[PAIRS],
        command=[
            *TRAIN,
            *("--objective", "reward", "--lora"),
            *sets("reward.centre=0.02", "reward.own_weight=1.5", "lora.r=4", "optim.warmup=0.5"),
            *sets("optim.batch_rows=4", "optim.max_steps=4", "optim.lr=1e-3"),
            *sets("checkpoints.every=2", "log.plot=false"),
        ],
        death=Death(file="model/metrics.jsonl", k=3),
        content=lambda folder: training_content(folder / "model", folder / "policy"),
        keeps=("prompts.jsonl", "principles", "run", "model"),
    ),
    Recipe(
        name="iterated",
        data=_for_rounds,
        command=[
            *("iterate", "prompts.jsonl", "--model", "policy", "--out", "loop"),
            *("--rounds", "2", "--seed", "3", "--judge", "oracle"),
            *sets("slices.prompts=6", "generate.principles=principles"),
            *sets("generate.engine.name=transformers", "generate.engine.process=inline"),
            *sets("generate.engine.device=cpu", "generate.engine.threads=1"),
            *sets("generate.steering.paraphrase=false", "generate.sampling.max_tokens=96"),
            *sets("generate.filter.preset=none", "generate.filter.drop_truncated=false"),
            *sets("train.loss.base=dpo", "train.optim.compute=float32"),
            *sets("train.optim.weights=float32", "train.optim.warmup=0", "train.optim.lr=3e-4"),
            *sets("train.optim.batch_rows=3", "train.optim.max_steps=2", "train.log.plot=false"),
            *sets("stop.signal_accuracy=0", "stop.steered=0", "stop.gap=0"),
        ],
        death=Death(file="round-2/run/rows/00000.jsonl", k=4),
        content=lambda folder: iteration_content(folder / "loop"),
        keeps=("prompts.jsonl", "principles", "loop"),
    ),
    Recipe(
        name="evaluated",
        data=_for_eval,
        command=[
            *("eval", "policy", "--against", "weaker", "--prompts", "prompts.jsonl"),
            *("--out", "eval", "--principles", "principles", "--engine", "transformers"),
            *("--judge", "oracle", "--seed", "4"),
            *sets("generate.engine.process=inline", "generate.engine.device=cpu"),
            *sets("generate.engine.threads=1", "generate.sampling.max_tokens=64"),
        ],
        death=Death(file="eval/against/answers.jsonl", k=3),
        content=lambda folder: evaluation_content(folder / "eval"),
        keeps=("prompts.jsonl", "principles", "eval"),
    ),
    Recipe(
        name="augmented",
        data=_for_augment,
        command=[
            *("augment", "prompts.jsonl", "--model", "policy", "--out", "new.jsonl"),
            *("--n", "10", "--templates", "templates", "--engine", "transformers", "--seed", "2"),
            *CPU,
            *sets("answers.form=text", "answers.max_tokens=48", "answers.temperature=0.9"),
            *sets("duplicates.threshold=0.6"),
        ],
        death=Death(file="/new.jsonl", k=4),
        content=lambda folder: augmentation_content(folder / "new.jsonl"),
        keeps=(
            *("prompts.jsonl", "templates", "new.jsonl", "new.jsonl.rejected.jsonl"),
            *("new.jsonl.report.json", ".new.jsonl.waiting.jsonl"),
        ),
    ),
)


def make(recipe: Recipe, folder: Path) -> None:
    """Begin the work of a fixture, and do it without an interruption, too; keep both."""
    begun, whole = folder / "begun", folder / "whole"
    begun.mkdir(parents=True)
    shutil.copytree(POLICY, begun / "policy")
    recipe.data(begun)
    for words in recipe.before:
        _called(begun, ["sso_data", *words])
    shutil.copytree(begun, whole)
    death = recipe.death
    words = ["tests.upgrade.dying", death.file, str(death.k), *recipe.command]
    _called(begun, words, expected=-signal.SIGKILL)
    _called(whole, ["sso_data", *recipe.command], expected=None)
    kept = STORED / recipe.name
    kept.mkdir(parents=True, exist_ok=True)
    _pack(begun, recipe.keeps, kept / "begun.tar.xz")
    _write(kept / "command.json", _command(recipe))
    _write(kept / "expected.json", recipe.content(whole))


def _command(recipe: Recipe) -> dict[str, Any]:
    death = recipe.death
    return {
        "before": [list(words) for words in recipe.before],
        "command": list(recipe.command),
        "killed": f"half-way through write {death.k} to {death.file.lstrip('/')}",
    }


def _called(folder: Path, words: Sequence[str], *, expected: int | None = 0) -> None:
    """Run a module's command in a working directory; None: it may say that some prompts failed."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    wanted = (0, 3) if expected is None else (expected,)
    if done.returncode not in wanted:
        raise SystemExit(f"{words[0]}: exit code {done.returncode}\n{done.stderr[-4000:]}")


def _pack(folder: Path, names: Sequence[str], archive: Path) -> None:
    """The named files and directories in one archive, of nobody and of no time."""

    def nameless(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz", preset=9) as packed:
        for name in names:
            if (folder / name).exists():
                packed.add(folder / name, name, filter=nameless)
    archive.write_bytes(stream.getvalue())


def _write(file: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
    file.write_text(f"{text}\n", encoding="utf-8")


def _note_version() -> None:
    """Which version made what is stored, the last commit that changed it, and the libraries."""
    import torch
    import transformers

    from sso_data import __version__

    commit = subprocess.run(
        ["git", "log", "-1", "--format=%H", "--", "sso_data"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    facts = {
        "sso_data": __version__,
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    _write(STORED / "made.json", facts)


def main() -> None:
    """Make the named fixtures, or all of them."""
    from sso_data.world import policy_dir

    wanted = sys.argv[1:] or [recipe.name for recipe in RECIPES]
    STORED.mkdir(exist_ok=True)
    if not POLICY.exists():
        shutil.copytree(policy_dir(), POLICY)
    with tempfile.TemporaryDirectory(prefix="upgrade-") as folder:
        for recipe in RECIPES:
            if recipe.name in wanted:
                make(recipe, Path(folder) / recipe.name)
                size = (STORED / recipe.name / "begun.tar.xz").stat().st_size
                print(f"{recipe.name}: {size} bytes")
    _note_version()


if __name__ == "__main__":
    main()
