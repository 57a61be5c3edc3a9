"""`demo`: generate, filter and train on the embedded tiny policy.

The exact oracle of its world judges the pairs, and the policy's own answers before and after.
"""

import json
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sso_data.config.loading import load
from sso_data.config.run import RunConfig, load_config
from sso_data.config.training import TrainConfig
from sso_data.core.progress import Progress
from sso_data.core.records import SIDE_OF, Message, Row
from sso_data.engines import start_engine
from sso_data.engines.interface import Sampled, SampleRequest
from sso_data.generation.generate import Summary, generate
from sso_data.runs.journal import read_rows
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer, today
from sso_data.world import catalogue_dir, policy_dir, queries, score

_SEED = 1
_EXAMPLES = 3
_HELD_OUT, _HELD_OUT_SEED = 200, 77
_STEPS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Share of rows in which the oracle scores *chosen* above *rejected*.

    `accuracy` counts a tie as half; `chosen`, `rejected`, `original` are mean scores, 0 to 1.
    """

    rows: int
    accuracy: float
    chosen: float
    rejected: float
    original: float

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.3f} over {self.rows} rows (mean score: chosen {self.chosen:.2f}, "
            f"original {self.original:.2f}, rejected {self.rejected:.2f})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The oracle's mean score (0 to 1) of answers without any principle, before and after training.

    The same held-out queries and random numbers both times; `gain_error` is the standard error of
    the mean gain over queries.
    """

    queries: int
    before: float
    after: float
    gain_error: float
    steps: int

    def __str__(self) -> str:
        gain = f"{self.after - self.before:+.3f} +- {self.gain_error:.3f}"
        return (
            f"{self.before:.3f} before, {self.after:.3f} after {self.steps} steps "
            f"({gain}, {self.queries} held-out queries)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The result of `run_demo`; `examples` are kept rows."""

    summary: Summary
    all_rows: Signal
    kept: Signal | None
    trained: Round | None
    examples: tuple[Row, ...]

    @property
    def verdict(self) -> str:
        """The signal accuracy, and the gain by a round of training, in three lines."""
        nothing = "no row was kept"
        return (
            f"signal accuracy by the oracle, all rows:   {self.all_rows}\n"
            f"signal accuracy by the oracle, kept pairs: {self.kept or nothing}\n"
            f"unprompted score by the oracle:            {self.trained or nothing}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "account": asdict(self.summary.account),
            "seconds": round(self.summary.seconds, 2),
            "kept": len(self.summary.decision.kept),
            "dropped": self.summary.decision.dropped,
            "signal_all": asdict(self.all_rows),
            "signal_kept": asdict(self.kept) if self.kept else None,
            "unprompted": asdict(self.trained) if self.trained else None,
        }


def run_demo(out: Path | None, number: int, progress: Progress) -> DemoResult:
    """Generate, filter and train with the tiny policy. Raises SsoDataError.

    The run goes to `out`, the trained policy to `out`/trained; without `out` both are thrown away.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sso-data-demo-")))
        prompts = scratch / "prompts.jsonl"
        lines = [json.dumps({"prompt": text}) for text in queries(number, seed=_SEED)]
        prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        run = out or scratch / "run"
        summary = generate(str(prompts), run, demo_config(), progress)
        rows = list(read_rows(run))
        pairs = [rows[position] for position in summary.decision.kept]
        return DemoResult(
            summary=summary,
            all_rows=signal(rows),
            kept=signal(pairs) if pairs else None,
            trained=one_round(run, run / "trained", progress) if pairs else None,
            examples=tuple(pairs[:_EXAMPLES]),
        )


def demo_config() -> RunConfig:
    """Return the demo's settings: the tiny policy in this process, its short catalogue."""
    return load_config(
        model=str(policy_dir()),
        seed=_SEED,
        principles=catalogue_dir(),
        steering={"paraphrase": False},  # it obeys the main wordings best
        engine={"name": "transformers", "isolation": "inline", "dtype": "float32", "threads": 1},
        sampling={"max_tokens": 192},
    )


def demo_training() -> TrainConfig:
    """Return the settings of one round of SSO: a dozen steps for 0.6 million parameters."""
    return load(
        TrainConfig,
        model=str(policy_dir()),
        seed=_SEED,
        optim={
            "lr": 5e-4,
            "max_steps": _STEPS,
            "micro_batch_rows": 16,
            "schedule": "constant",
            "warmup_steps": 0.0,
        },
        checkpoints={"every": _STEPS},
        log={"plot": False},
    )


def one_round(run: Path, out: Path, progress: Progress) -> Round:
    """Train the tiny policy on the kept pairs of `run`; compare its answers before and after."""
    from sso_data.training.run import train

    summary = train(str(run), out, demo_training(), progress, overwrite=True)
    progress.phase("measuring the policy before and after training")
    before, after = unprompted(policy_dir()), unprompted(out)
    gains = [new - old for old, new in zip(before, after, strict=True)]
    return Round(
        queries=len(gains),
        before=statistics.fmean(before),
        after=statistics.fmean(after),
        gain_error=statistics.stdev(gains) / len(gains) ** 0.5,
        steps=summary.manifest["steps"],
    )


def unprompted(model: Path) -> list[float]:
    """Return the oracle's scores of a model's plain answers to held-out queries."""
    config = demo_config()
    texts = queries(_HELD_OUT, seed=_HELD_OUT_SEED, held_out=True)
    template = ChatTemplate(load_tokenizer(model), config.views, today=today())
    requests = [
        SampleRequest(
            key=str(place),
            prompt_ids=template.ids((Message(role="user", content=text),)),
            max_tokens=config.sampling.max_tokens,
            seed=place,
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
        )
        for place, text in enumerate(texts)
    ]
    totals = [0.0] * len(texts)
    with closing(start_engine(model, config.engine)) as engine:
        engine.submit(requests)
        answered = 0
        while answered < len(requests):
            for result in engine.step():
                assert isinstance(result, Sampled), result
                place = int(result.key)
                totals[place] = score(texts[place], template.text(result.token_ids)).total
                answered += 1
    return totals


def signal(rows: Sequence[Row]) -> Signal:
    """Return the oracle's scores of rows whose prompts are queries of the tiny world."""
    totals = {
        side: [score(row.messages[-1].content, row.responses[view].text).total for row in rows]
        for view, side in SIDE_OF.items()
    }
    wins = [
        float(chosen > rejected) + 0.5 * float(chosen == rejected)
        for chosen, rejected in zip(totals["chosen"], totals["rejected"], strict=True)
    ]
    means = {side: sum(values) / len(rows) for side, values in totals.items()}
    return Signal(rows=len(rows), accuracy=sum(wins) / len(rows), **means)
