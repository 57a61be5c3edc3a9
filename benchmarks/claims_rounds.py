"""One chain of the study: three rounds, each step measured by the oracle of the tiny world."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.claims_grid import HELD_OUT, PROMPTS, ROUNDS, STEP_ROWS, STEPS, Arm, Chain
from sso_data.config.loading import load
from sso_data.config.run import RunConfig
from sso_data.config.training import TrainConfig
from sso_data.core.records import Row
from sso_data.demo import demo_config
from sso_data.filtering.refilter import refilter
from sso_data.generation.generate import generate
from sso_data.runs.journal import read_rows
from sso_data.world import queries, score

MAX_TOKENS = {"rambling": 384}
"""Room for responses; elsewhere the demo's 192, which the grammar does not fill."""


class Quiet:
    """A listener that hears nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


QUIET = Quiet()


class Rounds:
    """Runs a chain in `work`; `policies` are the directories of the checkpoints.

    Every step continues where an earlier process was ended. What arms have in common (the first
    policy's rows, and its answers to the held-out prompts) is made once for each seed.
    """

    def __init__(self, chain: Chain, work: Path, policies: dict[str, Path]) -> None:
        self.chain, self.policies = chain, policies
        self.here = work / "chains" / chain.key.replace("/", "-").replace(" ", "_")
        hot = f"-T{chain.arm.temperature}"
        self.shared = work / "shared" / f"{chain.checkpoint}-{chain.seed}{hot}"

    def run(self) -> list[dict[str, Any]]:
        """The measurements: before the first round, on each round's rows, and after the last."""
        policy = self.policies[self.chain.checkpoint]
        found = [self._held_out(self.shared / "start", policy, 0)]
        for number in range(1, ROUNDS + 1):
            place = self.here / f"round-{number}"
            shared = number == 1 and self.chain.arm.pairs == "own"
            run = (self.shared if shared else place) / "run"
            policy = self.round(number, policy, run, place)
            found.append({"on": "round", "trained": number - 1, **measured(run)})
        found.append(self._held_out(self.here / "end", policy, ROUNDS))
        shutil.rmtree(self.here)
        return found

    def first_run(self) -> Path:
        """The rows of the chain's first policy, which its arms share."""
        self.generate_rows(self.policies[self.chain.checkpoint], self.shared / "run", 1)
        return self.shared / "run"

    def round(self, number: int, policy: Path, run: Path, place: Path) -> Path:
        """Rows of the policy (whatever it is trained on, they are measured), then the training."""
        arm, model = self.chain.arm, place / "model"
        self.generate_rows(policy, run, number)
        source = run
        if arm.pairs == "generator":
            generator = place / "generator"
            self._train(policy, run, generator, {"objective": "sso-generator"})
            source = place / "generated"
            self.generate_rows(generator, source, number)
        elif arm.pairs == "labelled":
            source = place / "labelled.jsonl"
            write_labelled(source, self.policies["second"], self._texts(number), self._seed(number))
        self._train(policy, source, model, arm.loss)
        return model

    def _seed(self, number: int) -> int:
        return 1000 * self.chain.seed + number

    def _texts(self, number: int) -> list[str]:
        return queries(PROMPTS, seed=self._seed(number))

    def generate_rows(self, policy: Path, run: Path, number: int) -> None:
        config = self._config(policy, self._seed(number))
        generate_run(self._texts(number), run, config)
        refilter(run, config)

    def _config(self, policy: Path, seed: int) -> RunConfig:
        config, arm = demo_config(), self.chain.arm
        sampling = {"temperature": arm.temperature}
        if self.chain.checkpoint in MAX_TOKENS:
            sampling["max_tokens"] = MAX_TOKENS[self.chain.checkpoint]
        changed = {
            "model": str(policy),
            "seed": seed,
            "engine": config.engine.model_copy(update={"batch_tokens": 2048}),  # a core's cache
            "filter": config.filter.model_copy(update=keeping(arm)),
            "sampling": config.sampling.model_copy(update=sampling),
        }
        return config.model_copy(update=changed)

    def _train(self, policy: Path, source: Path, out: Path, loss: dict[str, Any]) -> None:
        from sso_data.training.run import train

        config = load(
            TrainConfig,
            model=str(policy),
            seed=self.chain.seed,
            loss=loss,
            optim={
                "lr": self.chain.arm.lr,
                "max_steps": STEPS,
                "batch_size": STEP_ROWS,
                "micro_batch_rows": 8,
                "schedule": "constant",
                "warmup_steps": 0.0,
            },
            checkpoints={"every": STEPS},
            stop={"chosen_drop": None},
            log={"plot": False},
        )
        train(str(source), out, config, QUIET)

    def _held_out(self, place: Path, policy: Path, trained: int) -> dict[str, Any]:
        """The policy on prompts that no round has; steered as rows are."""
        texts = queries(HELD_OUT, seed=9000 + self.chain.seed, held_out=True)
        generate_run(texts, place, self._config(policy, 9000 + self.chain.seed))
        return {"on": "held-out", "trained": trained, **measured(place)}


def generate_run(texts: Sequence[str], run: Path, config: RunConfig) -> None:
    """A finished run of these prompts."""
    prompts = run.with_suffix(".prompts.jsonl")
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    generate(str(prompts), run, config, QUIET)


def keeping(arm: Arm) -> dict[str, Any]:
    """The filter's settings: the chain alone, or no test but for what was cut off."""
    if arm.keeps == "steered":
        return {"steered": "chain", "closeness": "q1.0", "gap": 0.0}
    return {"preset": "none"}


def write_labelled(file: Path, policy: Path, texts: Sequence[str], seed: int) -> None:
    """Two plain answers of another policy to each prompt, ranked by the oracle; ties left out."""
    from tools.tiny_world.sampling import Policy, sample

    other = Policy.load(policy)
    prompts = [[{"role": "user", "content": text}] for text in texts]
    answers = [sample(other, prompts, seed=2 * seed + which) for which in (0, 1)]
    lines = []
    for prompt, text, one, two in zip(prompts, texts, *answers, strict=True):
        better, worse = sorted((one, two), key=lambda answer: -score(text, answer.text).total)
        if score(text, better.text).total > score(text, worse.text).total:
            sides = {"chosen": better, "rejected": worse}
            turns = {
                side: [{"role": "assistant", "content": answer.text}]
                for side, answer in sides.items()
            }
            lines.append(json.dumps({"prompt": prompt, **turns}) + "\n")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines))


def measured(run: Path) -> dict[str, Any]:
    """What the oracle, the log-probs and the lengths say of a run's rows."""
    rows = list(read_rows(run))
    kept_ids = kept_of(run)
    kept = [row for row in rows if row.id in kept_ids]
    totals = [totals_of(row) for row in rows]
    plain = [score(row.messages[-1].content, row.responses["plain"].text) for row in rows]
    return {
        "rows": len(rows),
        "kept": len(kept),
        "signal_accuracy": fmean(wins(totals)),
        "kept_accuracy": fmean(wins([totals_of(row) for row in kept])) if kept else math.nan,
        "unprompted": fmean(one.total for one in plain),
        "well_formed": fmean(one.well_formed for one in plain),
        "on_policy": fmean(
            (row.mean("plain", "good") + row.mean("plain", "bad")) / 2 for row in kept or rows
        ),
        "below_good": fmean(row.mean("plain", "plain") - row.mean("plain", "good") for row in rows),
        "below_bad": fmean(row.mean("plain", "plain") - row.mean("plain", "bad") for row in rows),
        "gap_good": fmean(row.mean("good", "good") - row.mean("bad", "good") for row in rows),
        "gap_bad": fmean(row.mean("bad", "bad") - row.mean("good", "bad") for row in rows),
        **{
            f"tokens_{view}": fmean(row.responses[view].num_tokens for row in rows)
            for view in ("plain", "good", "bad")
        },
        "cut_off": float(
            np.mean([row.responses["plain"].finish_reason == "length" for row in rows])
        ),
    }


def kept_of(run: Path) -> set[str]:
    """The ids of the pairs that the filter kept."""
    lines = (run / "pairs" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return {json.loads(line)["id"] for line in lines}


def totals_of(row: Row) -> tuple[float, float]:
    """The oracle's scores of y+ and y-."""
    text = row.messages[-1].content
    return (
        score(text, row.responses["good"].text).total,
        score(text, row.responses["bad"].text).total,
    )


def wins(totals: Sequence[tuple[float, float]]) -> list[float]:
    """1 where y+ is better than y-, 0.5 where they tie."""
    return [float(good > bad) + 0.5 * (good == bad) for good, bad in totals]
