"""The three ways of making rows that `generate.py` times, on one loaded vLLM engine.

`authors`: the published procedure, rebuilt from its description (see `AuthorsWay`).
`ours`: `sso_data.generation.generate.make_rows` as it is, journal and listener included.
`raw`: the very requests that `ours` makes, as two or three calls of `LLM.generate`, and no more.
"""

import gc
import io
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

from sso_data.cli.progress import showing_progress
from sso_data.config.run import FilterConfig
from sso_data.core.records import (
    SIDE_OF,
    VIEWS,
    Cell,
    Message,
    Prompt,
    Steering,
    View,
    content_hash,
    derive_seed,
    row_id,
)
from sso_data.engines.interface import (
    Engine,
    EngineInfo,
    Request,
    Result,
    SampleRequest,
    ScoreRequest,
)
from sso_data.filtering.filters import decide
from sso_data.generation.generate import Setup, make_rows
from sso_data.prompts import count_prompts, read_prompts
from sso_data.runs.columns import row_key
from sso_data.runs.journal import FIRST_ROWS, load_scores
from sso_data.runs.run import open_run
from sso_data.templating.chat_template import RenderedViews, with_system

Messages = tuple[Message, ...]

BATCH = 16
FEATURE_QUESTION = (
    "Features of a response: {features}.\n"
    "Which two of them matter most for the query below? Answer with their names, separated by a "
    "comma.\nQuery: {query}\nFeatures:"
)
SCORED: tuple[Cell, ...] = (
    ("good", "good"),
    ("plain", "good"),
    ("bad", "good"),
    ("bad", "bad"),
    ("plain", "bad"),
    ("good", "bad"),
)
"""The cells (seen, drawn) that the published filter reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """What decides a prompt's three responses, as the pipeline decides it."""

    prompt: Prompt
    steering: Steering
    rendered: RenderedViews
    seed: Mapping[View, int]
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every side does: a checked setup and the prompts, also as a file of prompts.

    `complete_first`: rows that are complete with `scoring.when=needed`, too. `filters`: by name,
    those whose kept pairs are looked up afterwards.
    """

    setup: Setup
    prompts: Sequence[Messages]
    source: Path
    context_tokens: int
    complete_first: int = 64
    filters: Mapping[str, FilterConfig] = field(default_factory=dict)

    def drawings(self) -> Iterator[SamplingPlan]:
        """The same plans that the pipeline makes: views, seeds, token budget."""
        config, rules = self.setup.config, self.setup.rules
        for messages in self.prompts:
            prompt = Prompt(id=row_id(content_hash(messages), 0), messages=messages)
            steered = rules.by_rule(prompt.id)
            template = self.setup.policy.template
            rendered = template.views(messages, steered.good, steered.bad)
            sampling = config.sampling
            budget = min(sampling.max_tokens, self.context_tokens - rendered.longest)
            if budget < min(sampling.min_completion, sampling.max_tokens):
                raise SystemExit("a prompt of the benchmark is too long")
            yield SamplingPlan(
                prompt=prompt,
                steering=steered.steering,
                rendered=rendered,
                seed={view: derive_seed(config.seed, prompt.id, view) for view in VIEWS},
                max_tokens=budget,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One timed pass: seconds in all and by part, and the sampled tokens.

    `cpu_seconds` are processor seconds of this process, which other programs disturb less; `kept`
    are the `row_key`s of the rows that each filter keeps, where rows were made; `peak_mib` is set
    where the work was done in another process; `cached` is the share of the prompts' tokens, those
    of scored responses among them, that vLLM took from its prefix cache; `again` counts the scores
    that were made once more, as the cached prefix reached into the response.
    """

    seconds: float
    tokens: int
    parts: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    kept: Mapping[str, frozenset[int]] = field(default_factory=dict)
    peak_mib: float | None = None
    cached: float | None = None
    again: int = 0


class Stopwatch:
    """Seconds by name, added up over many short stretches."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with the time of its calls added up under `name`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.measure(name):
                return function(*args, **kwargs)

        return timed


class Metered:
    """An engine that stays open, keeps its requests and counts the seconds inside it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.requests: list[Request] = []
        self.watch = Stopwatch()

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def submit(self, requests: Sequence[Request]) -> None:
        self.requests += requests
        with self.watch.measure("engine"):
            self._engine.submit(requests)

    def step(self) -> list[Result]:
        with self.watch.measure("engine"):
            return self._engine.step()

    def close(self) -> None:
        """Nothing: the engine is used again."""


class Bench:
    """A loaded `VllmEngine` and its inner vLLM engine, also as the `LLM` that scripts use."""

    def __init__(self, engine: Any) -> None:
        from vllm import LLM

        self.engine = engine
        self.core = engine._engine
        self.eos_ids = list(engine._facts.eos_ids)
        self.watch = Stopwatch()
        model = self.core.model_config.model
        with mock.patch("vllm.entrypoints.llm.LLMEngine.from_engine_args", lambda **_: self.core):
            self.llm = LLM(model=model)
        self._prompt_tokens = self._cached_tokens = self.finished = 0
        for name in ("step", "add_request"):
            setattr(self.core, name, self.watch.wrap("vllm", getattr(self.core, name)))
        self.core.step = self._counted(self.core.step)

    def _counted(self, step: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
        """vLLM's step, with the prompt tokens of what finished counted."""

        def counted() -> list[Any]:
            outputs = step()
            for output in outputs:
                if output.finished:
                    self.finished += 1
                    self._prompt_tokens += len(output.prompt_token_ids)
                    self._cached_tokens += output.num_cached_tokens or 0
            return outputs

        return counted

    def fresh(self) -> None:
        """Forget cached prefixes and counted seconds, so that no side profits from another."""
        if not self.core.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache")
        self.watch.seconds.clear()
        self._prompt_tokens = self._cached_tokens = self.finished = 0
        gc.collect()

    @property
    def cached_share(self) -> float | None:
        """The share of prompt tokens from the prefix cache since `fresh`; None where none came."""
        return self._cached_tokens / self._prompt_tokens if self._prompt_tokens else None

    @property
    def vllm_seconds(self) -> float:
        """Seconds inside vLLM's own `step` and `add_request` since `fresh`."""
        return self.watch.seconds["vllm"]


class AuthorsWay:
    """The published procedure, on the same warm engine.

    Rebuilt from what the published scripts do. Prompts go through in batches of 16: the policy is
    asked for two features (without a chat template; its answer split at commas and filled up at
    random), then answers under the good, the bad and the plain view in three calls one after the
    other. A second script asks for log-probs of prompt *text* + response *text* in six passes over
    all rows, one for each cell that the filter reads, with `prompt_logprobs=2`. vLLM's defaults
    hold where the scripts leave them alone: responses and log-probs are detokenized, log-probs
    come as dictionaries, scoring does not read the prefix cache. Results stay in memory.

    In its favour: the model is loaded once (the scripts start an engine for each scoring pass),
    texts are encoded without adding a second BOS, and nothing is written. Temperature, top-p,
    token limit, seeds and views are those of the other sides, so the responses are the same.
    """

    def __init__(self, bench: Bench, work: Work) -> None:
        self._bench = bench
        self._work = work
        self._watch = Stopwatch()
        self._tokens = 0

    def run(self) -> Timing:
        began = time.perf_counter()
        drawings = self._work.drawings()
        rows: list[dict[str, Any]] = []
        while batch := list(islice(drawings, BATCH)):
            rows += self._batch(batch)
        with self._watch.measure("scoring"):
            for seen, drawn in SCORED:
                prompts = [row["text"][seen] for row in rows]
                means = self._score(prompts, [row[SIDE_OF[drawn]] for row in rows])
                for row, mean in zip(rows, means, strict=True):
                    row[f"mean.{seen}.{drawn}"] = mean
        return Timing(
            seconds=time.perf_counter() - began, tokens=self._tokens, parts=self._watch.seconds
        )

    def _batch(self, batch: Sequence[SamplingPlan]) -> list[dict[str, Any]]:
        with self._watch.measure("features"):
            features = self._choose_features(batch)
        texts = {view: [self._prompt_text(plan, view) for plan in batch] for view in VIEWS}
        responses = {}
        with self._watch.measure("sampling"):
            for view in ("good", "bad", "plain"):
                responses[view] = self._sample(batch, view, texts[view])
        return [
            {
                "features": features[index],
                "text": {view: texts[view][index] for view in VIEWS},
                **{SIDE_OF[view]: responses[view][index] for view in VIEWS},
            }
            for index in range(len(batch))
        ]

    def _generate(self, texts: Sequence[str], params: Any) -> list[Any]:
        outputs: list[Any] = self._bench.llm.generate(
            [{"prompt": text} for text in texts],
            params,
            use_tqdm=False,
            tokenization_kwargs={"add_special_tokens": False},
        )
        return outputs

    def _choose_features(self, batch: Sequence[SamplingPlan]) -> list[list[str]]:
        """Two features a prompt; what the policy names and nobody knows is filled up."""
        from vllm import SamplingParams

        known = list(self._work.setup.rules.catalogue.principles)
        questions = [
            FEATURE_QUESTION.format(
                features=", ".join(known), query=plan.prompt.messages[-1].content
            )
            for plan in batch
        ]
        settings = self._work.setup.config.sampling
        params = SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop=["###"],
            max_tokens=settings.max_tokens,
            seed=0,
        )
        outputs = self._generate(questions, params)
        chosen = []
        for plan, output in zip(batch, outputs, strict=True):
            named = [name.strip() for name in output.outputs[0].text.split(",")]
            found = [name for name in named if name in known]
            chosen.append([*found, *plan.steering.features][:2])
        return chosen

    def _prompt_text(self, plan: SamplingPlan, view: View) -> str:
        messages = plan.prompt.messages
        if view != "plain":
            messages = with_system(messages, plan.rendered.system[view])
        tokenizer = self._work.setup.policy.template.tokenizer
        turns = [message.to_json() for message in messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return str(text)

    def _sample(self, batch: Sequence[SamplingPlan], view: View, texts: Sequence[str]) -> list[str]:
        from vllm import SamplingParams

        settings = self._work.setup.config.sampling
        params = [
            SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=plan.max_tokens,
                seed=plan.seed[view],
                stop_token_ids=self._bench.eos_ids,
            )
            for plan in batch
        ]
        outputs = self._generate(texts, params)
        self._tokens += sum(len(output.outputs[0].token_ids) for output in outputs)
        return [output.outputs[0].text for output in outputs]

    def _score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Mean log-probs of the responses' text: what follows the prompt's own tokens."""
        from vllm import SamplingParams

        tokenizer = self._work.setup.policy.template.tokenizer
        whole = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        params = SamplingParams(max_tokens=1, prompt_logprobs=2, seed=0)
        means = []
        outputs = self._generate(whole, params)
        for prompt, output in zip(prompts, outputs, strict=True):
            start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            ids = output.prompt_token_ids
            places = range(start, len(ids))
            nats = [output.prompt_logprobs[place][ids[place]].logprob for place in places]
            means.append(sum(nats) / max(1, len(nats)))
        return means


def run_ours(work: Work, engine: Metered, *, bench: Bench | None) -> Timing:
    """The product: prompts from a file to a run directory; `bench` where vLLM is in this process.

    Parts: `vllm` is vLLM's own time, `adapter` the rest of our engine's, `pipeline` what is left.
    """
    engine.watch.seconds.clear()
    engine.requests.clear()
    with tempfile.TemporaryDirectory(prefix="sso-data-bench-") as folder:
        patched = mock.patch("sso_data.generation.generate.start_engine", lambda *_, **__: engine)
        with patched, redirect_stderr(io.StringIO()):
            began = time.perf_counter()
            total = count_prompts(str(work.source), work.setup.config.source)
            identity, details = work.setup.identity, work.setup.details
            with (
                showing_progress() as progress,
                open_run(Path(folder) / "run", identity=identity, details=details) as run,
            ):
                prompts = read_prompts(str(work.source), work.setup.config.source)
                run.set(**{FIRST_ROWS: first_keys(work)})
                counts = make_rows(prompts, work.setup, run, run, progress, total=total)
                account = run.account()
                account.check()
            seconds = time.perf_counter() - began
            rows = load_scores(Path(folder) / "run", dry=True).rows
            kept = {
                name: frozenset(rows["key"][decide(rows, test).kept].tolist())
                for name, test in work.filters.items()
            }
    if account.rows != len(work.prompts):
        raise RuntimeError(f"{account.rows} rows of {len(work.prompts)} prompts")
    inside = engine.watch.seconds["engine"]
    parts = {"engine": inside, "pipeline": seconds - inside}
    again = 0
    if bench is not None:
        vllm, again = bench.vllm_seconds, bench.finished - len(engine.requests)
        parts = {"vllm": vllm, "adapter": inside - vllm, "pipeline": seconds - inside}
    return Timing(seconds=seconds, tokens=counts.tokens, parts=parts, kept=kept, again=again)


def first_keys(work: Work) -> list[str]:
    """The first rows, which are complete whatever `scoring.when` is, as run.json has them."""
    ids = (row_id(content_hash(messages), 0) for messages in work.prompts[: work.complete_first])
    return [f"{row_key(identity):016x}" for identity in ids]


class RawEngine:
    """Requests that were made before, prepared for calls of `LLM.generate`: samples, then scores.

    A score whose cached prefix reaches into its response lacks log-probs, so that a last call makes
    it once more without the cache.
    """

    def __init__(self, bench: Bench, requests: Sequence[Request]) -> None:
        from sso_data.engines.vllm import _sampling_params, _scoring_params

        self._bench = bench
        samples = [request for request in requests if isinstance(request, SampleRequest)]
        scores = [request for request in requests if isinstance(request, ScoreRequest)]
        eos_ids = tuple(bench.eos_ids)
        self._sampling = (
            [{"prompt_token_ids": list(request.prompt_ids)} for request in samples],
            [_sampling_params(request, eos_ids) for request in samples],
        )
        self._scoring = (
            [
                {"prompt_token_ids": [*request.prompt_ids, *request.completion_ids]}
                for request in scores
            ],
            [_scoring_params(cache_unread=request.was_sampled) for request in scores],
        )
        self._starts = [len(request.prompt_ids) for request in scores]
        self._uncached = _scoring_params(cache_unread=True)

    def run(self) -> Timing:
        watch = Stopwatch()
        began = time.perf_counter()
        with watch.measure("sampling"):
            outputs = self._bench.llm.generate(*self._sampling, use_tqdm=False)
        with watch.measure("scoring"):
            scored = self._bench.llm.generate(*self._scoring, use_tqdm=False)
            again = [
                prompt
                for prompt, start, output in zip(
                    self._scoring[0], self._starts, scored, strict=True
                )
                if (output.num_cached_tokens or 0) >= start
            ]
            if again:
                self._bench.llm.generate(again, self._uncached, use_tqdm=False)
        seconds = time.perf_counter() - began
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        return Timing(seconds=seconds, tokens=tokens, parts=watch.seconds, again=len(again))


def write_source(prompts: Sequence[Messages], path: Path) -> Path:
    """The prompts as the JSONL file that the product reads."""
    lines = [
        json.dumps({"prompt": [message.to_json() for message in messages]}) for messages in prompts
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def reset_peak() -> None:
    """Start the process's peak of resident memory anew (Linux; nothing happens elsewhere)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mib(process: int | str = "self") -> float | None:
    """The peak of resident memory since `reset_peak`, in MiB; None where it cannot be read."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) / 1024 if lines else None
