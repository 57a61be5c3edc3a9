"""`demo`: generate, filter and train on the embedded tiny policy, or on a small real model.

The exact oracle of the tiny world judges the pairs, and the policy's own answers before and after;
on the real model, which is told to be brief, the words of its answers are counted.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sso_data.config.loading import load
from sso_data.config.run import FilterConfig, RunConfig, load_config
from sso_data.config.training import TrainConfig
from sso_data.core.paths import examples_dir
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import SIDE_OF, Message, Row
from sso_data.engines import start_engine
from sso_data.engines.interface import Sampled, SampleRequest
from sso_data.generation.generate import Summary, generate
from sso_data.models.smollm2 import find_smollm2
from sso_data.runs.journal import read_rows
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer, today
from sso_data.world import catalogue_dir, policy_dir, queries, score

_SEED = 1
_EXAMPLES = 3
_HELD_OUT, _HELD_OUT_SEED = 200, 77
_STEPS = 12
_REAL_HELD_OUT = 16
_REAL_STEPS = 12
_WARM_UP = 4
"""Prompts on which the time of a demo on the real model is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What a demo runs on, and the number by which an answer to a prompt is judged.

    `signal` and `unprompted` name, in the report, what is measured of pairs and of answers.
    """

    run: RunConfig
    training: TrainConfig
    prompts: Sequence[str]
    held_out: Sequence[str]
    measure: Callable[[str, str], float]
    less_is_better: bool
    unit: str
    signal: str
    unprompted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Share of rows in which *chosen* is better than *rejected* by the story's measure.

    `accuracy` counts a tie as half; `chosen`, `rejected`, `original` are means, in `unit`.
    """

    rows: int
    accuracy: float
    chosen: float
    rejected: float
    original: float
    unit: str = "score"

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.3f} over {self.rows} rows (mean {self.unit}: chosen "
            f"{self.chosen:.2f}, original {self.original:.2f}, rejected {self.rejected:.2f})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The mean measure of answers without any principle, before and after training.

    The same held-out queries and random numbers both times; `gain_error` is the standard error of
    the mean difference over queries.
    """

    queries: int
    before: float
    after: float
    gain_error: float
    steps: int

    def __str__(self) -> str:
        gain = self.after - self.before
        shown = "" if abs(gain) > 2 * self.gain_error else "; no difference shown"
        return (
            f"{self.before:.3f} before, {self.after:.3f} after {self.steps} steps "
            f"({gain:+.3f} +- {self.gain_error:.3f}, {self.queries} held-out queries{shown})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The result of `run_demo`; `examples` are kept rows."""

    story: Story
    summary: Summary
    all_rows: Signal
    kept: Signal | None
    trained: Round | None
    examples: tuple[Row, ...]

    @property
    def verdict(self) -> str:
        """The signal accuracy, and the difference by a round of training, in three lines."""
        shown = {
            f"{self.story.signal}, all rows:": self.all_rows,
            f"{self.story.signal}, kept pairs:": self.kept or "no row was kept",
            f"{self.story.unprompted}:": self.trained or "no row was kept",
        }
        width = max(map(len, shown))
        return "\n".join(f"{name:{width}} {value}" for name, value in shown.items())

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


def run_demo(
    out: Path | None, number: int | None, progress: Progress, *, real: bool = False
) -> DemoResult:
    """Generate, filter and train with the tiny policy, or with the real model. Raises SsoDataError.

    The run goes to `out`, the trained policy to `out`/trained; without `out` both are thrown away.
    `number` of prompts: by default 288, and 48 of the real model, which has no more. Raises
    ModelError where the real model cannot be had.
    """
    story = real_story(number, progress) if real else tiny_story(number or 288)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sso-data-demo-")))
        run = out or scratch / "run"
        if real:
            progress.note(estimate(story, scratch, progress))
        prompts = _prompt_file(scratch, story.prompts)
        summary = generate(str(prompts), run, story.run, progress)
        rows = list(read_rows(run))
        pairs = [rows[position] for position in summary.decision.kept]
        return DemoResult(
            story=story,
            summary=summary,
            all_rows=signal(rows, story),
            kept=signal(pairs, story) if pairs else None,
            trained=one_round(story, run, run / "trained", progress) if pairs else None,
            examples=tuple(pairs[:_EXAMPLES]),
        )


def tiny_story(number: int) -> Story:
    """Return the story of the tiny policy, judged by its world's oracle."""
    return Story(
        run=demo_config(),
        training=demo_training(),
        prompts=queries(number, seed=_SEED),
        held_out=queries(_HELD_OUT, seed=_HELD_OUT_SEED, held_out=True),
        measure=lambda prompt, text: score(prompt, text).total,
        less_is_better=False,
        unit="score",
        signal="signal accuracy by the oracle",
        unprompted="unprompted score by the oracle",
    )


def real_story(number: int | None, progress: Progress) -> Story:
    """Return the story of SmolLM2-135M-Instruct: one short principle, which word counts can check.

    Raises ModelError where neither the Hub nor a package index gives the model.
    """
    progress.phase("looking for the model")
    model = str(find_smollm2(progress))
    examples = examples_dir() / "demo"
    questions = (examples / "questions.txt").read_text(encoding="utf-8").splitlines()
    return Story(
        run=load_config(
            model=model,
            seed=_SEED,
            principles=examples / "principles",
            steering={"choose": "fixed", "features": ("Concision",), "concision_probability": 0.0},
            sampling={"max_tokens": 128},
            engine=_REAL_ENGINE,
            filter={"drop_truncated": False},
        ),
        training=load(
            TrainConfig,
            model=model,
            seed=_SEED,
            optim={"lr": 2e-4, "max_steps": _REAL_STEPS, "batch_size": 8, "warmup_steps": 1.0},
            lora={"enabled": True},
            checkpoints={"every": _REAL_STEPS},
            log={"plot": False},
        ),
        prompts=questions[:-_REAL_HELD_OUT][:number],
        held_out=questions[-_REAL_HELD_OUT:],
        measure=lambda prompt, text: len(text.split()),
        less_is_better=True,
        unit="words",
        signal="chosen shorter than rejected",
        unprompted="words of an unprompted answer",
    )


_REAL_ENGINE: dict[str, Any] = {"max_model_len": 1024, "max_num_seqs": 32}
"""The engine of the demo on the real model."""


class _Stopwatch(NullProgress):
    """Takes the time of every count."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        """Note the time."""
        self.times.append(time.monotonic())


def estimate(story: Story, scratch: Path, progress: Progress) -> str:
    """Return how long the story will take here, measured on its first prompts and one step.

    A few prompts are less work at once than many, so that the time is an upper estimate.
    """
    from sso_data.training.run import train

    progress.phase(f"measuring the time of {_WARM_UP} prompts and of a step")
    started = time.monotonic()
    start_engine(Path(story.run.model), story.run.engine).close()
    loading = time.monotonic() - started
    prompts = _prompt_file(scratch, story.prompts[:_WARM_UP])
    every_row = FilterConfig(preset="none", drop_truncated=False)
    config = story.run.model_copy(update={"filter": every_row})
    summary = generate(str(prompts), scratch / "warm-up", config)
    each = max(0.0, summary.seconds - loading) / _WARM_UP
    watch = _Stopwatch()
    step = {"optim": story.training.optim.model_copy(update={"max_steps": 1})}
    trained = train(
        str(scratch / "warm-up"),
        scratch / "warm-up" / "trained",
        story.training.model_copy(update=step),
        watch,
    )
    one = watch.times[-1] - watch.times[0]
    steps = one * story.training.optim.batch_size / len(summary.decision.kept)
    parts = {
        "generating": loading + each * len(story.prompts),
        "training": trained.seconds - one + steps * (story.training.optim.max_steps or 0),
        "asking before and after": 2 * (loading + each * len(story.held_out) / len(SIDE_OF)),
    }
    minutes = ", ".join(f"{part} {seconds / 60:.1f}" for part, seconds in parts.items())
    return f"at most about {sum(parts.values()) / 60:.0f} minutes from here on ({minutes})"


def _prompt_file(folder: Path, prompts: Sequence[str]) -> Path:
    """Write prompts into a file, and return it."""
    file = folder / "prompts.jsonl"
    lines = [json.dumps({"prompt": text}) for text in prompts]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


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


def one_round(story: Story, run: Path, out: Path, progress: Progress) -> Round:
    """Train on the kept pairs of `run`; compare the model's answers before and after."""
    from sso_data.training.run import train

    summary = train(str(run), out, story.training, progress, overwrite=True)
    progress.phase("measuring the policy before and after training")
    before, after = unprompted(story), unprompted(story, out)
    gains = [new - old for old, new in zip(before, after, strict=True)]
    return Round(
        queries=len(gains),
        before=statistics.fmean(before),
        after=statistics.fmean(after),
        gain_error=statistics.stdev(gains) / len(gains) ** 0.5,
        steps=summary.manifest["steps"],
    )


def unprompted(story: Story, trained: Path | None = None) -> list[float]:
    """Return the measures of plain answers to held-out queries, by the model or a trained one."""
    model, engine_config = Path(story.run.model), story.run.engine
    if trained and story.training.lora.enabled:
        engine_config = engine_config.model_copy(update={"adapter": trained})
    elif trained:
        model = trained
    sampling = story.run.sampling
    template = ChatTemplate(load_tokenizer(model), story.run.views, today=today())
    requests = [
        SampleRequest(
            key=str(place),
            prompt_ids=template.ids((Message(role="user", content=text),)),
            max_tokens=sampling.max_tokens,
            seed=place,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        for place, text in enumerate(story.held_out)
    ]
    found = [0.0] * len(requests)
    with closing(start_engine(model, engine_config)) as engine:
        engine.submit(requests)
        answered = 0
        while answered < len(requests):
            for result in engine.step():
                assert isinstance(result, Sampled), result
                place = int(result.key)
                found[place] = story.measure(story.held_out[place], template.text(result.token_ids))
                answered += 1
    return found


def signal(rows: Sequence[Row], story: Story) -> Signal:
    """Return the measures of rows, and how often *chosen* is the better answer."""
    measured = {
        side: [story.measure(row.messages[-1].content, row.responses[view].text) for row in rows]
        for view, side in SIDE_OF.items()
    }
    accuracy = share_better(measured["chosen"], measured["rejected"], less=story.less_is_better)
    means = {side: statistics.fmean(values) for side, values in measured.items()}
    return Signal(rows=len(rows), accuracy=accuracy, unit=story.unit, **means)


def share_better(chosen: Sequence[float], rejected: Sequence[float], *, less: bool) -> float:
    """Return the share of rows in which *chosen* is better: more, or `less`; a tie is a half."""
    pairs = zip(chosen, rejected, strict=True)
    return statistics.fmean(0.5 if a == b else float((a < b) == less) for a, b in pairs)
