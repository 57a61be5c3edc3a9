"""The transformers engine against `generate()` of transformers and vLLM: sampling, then scoring.

    python benchmarks/transformers_engine.py                    # the embedded tiny policy
    python benchmarks/transformers_engine.py --model DIR --prompts-count 8 --max-tokens 128

All sides hold the same weights in this process, get the same prompts (three views of each) and
score the same responses (five cells a row); they take turns. `docs/benchmarks.md` says more.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from benchmarks.generation import Work
    from sso_data.core.records import View
    from sso_data.engines.interface import SampleRequest, ScoreRequest

SIDES = ("ours", "generate", "vllm")
CELLS: tuple[tuple["View", "View"], ...] = (
    ("good", "plain"),
    ("bad", "plain"),
    ("good", "bad"),
    ("bad", "good"),
    ("plain", "good"),
)
"""(view whose response is scored, view under which it is)."""


class Side(Protocol):
    """One way of sampling and scoring."""

    def sample(self, requests: Sequence["SampleRequest"]) -> dict[str, tuple[int, ...]]:
        """Token ids by request key."""
        ...

    def score(self, requests: Sequence["ScoreRequest"]) -> dict[str, float]:
        """Total nats by request key."""
        ...


class OurEngine:
    """An engine of this package: the transformers engine or vLLM's, in this process."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def _answers(self, requests: Sequence[Any]) -> list[Any]:
        self._engine.submit(requests)
        found: list[Any] = []
        while len(found) < len(requests):
            found += self._engine.step()
        return found

    def sample(self, requests: Sequence["SampleRequest"]) -> dict[str, tuple[int, ...]]:
        return {result.key: result.token_ids for result in self._answers(requests)}

    def score(self, requests: Sequence["ScoreRequest"]) -> dict[str, float]:
        return {result.key: result.total_nats for result in self._answers(requests)}


class Vllm(OurEngine):
    """Starts every pass with an empty prefix cache."""

    def sample(self, requests: Sequence["SampleRequest"]) -> dict[str, tuple[int, ...]]:
        self._engine._engine.reset_prefix_cache()
        return super().sample(requests)


class Generate:
    """Scripts with plain transformers: `generate()`, and log-softmax over all logits.

    Batches of `batch` requests, the longest prompts first as ours have them; padded on the left for
    `generate()`, on the right for scoring.
    """

    def __init__(self, model: Any, eos_ids: Sequence[int], batch: int) -> None:
        self._model, self._eos_ids, self._batch = model, list(eos_ids), batch

    def _groups(self, requests: Sequence[Any]) -> Iterator[Sequence[Any]]:
        for start in range(0, len(requests), self._batch):
            yield requests[start : start + self._batch]

    def sample(self, requests: Sequence["SampleRequest"]) -> dict[str, tuple[int, ...]]:
        import torch

        found = {}
        longest = sorted(requests, key=lambda request: -len(request.prompt_ids))
        for group in self._groups(longest):
            width, how = len(group[0].prompt_ids), group[0]
            ids = torch.zeros(len(group), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, request in enumerate(group):
                ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
                mask[row, width - len(request.prompt_ids) :] = 1
            with torch.inference_mode():
                drawn = self._model.generate(
                    ids.to(self._model.device),
                    attention_mask=mask.to(self._model.device),
                    do_sample=True,
                    temperature=how.temperature,
                    top_p=how.top_p,
                    top_k=0,
                    max_new_tokens=max(request.max_tokens for request in group),
                    eos_token_id=self._eos_ids,
                    pad_token_id=self._eos_ids[0],
                )[:, width:].tolist()
            for request, tokens in zip(group, drawn, strict=True):
                ends = [place for place, token in enumerate(tokens) if token in self._eos_ids]
                found[request.key] = tuple(tokens[: ends[0] + 1] if ends else tokens)
        return found

    def score(self, requests: Sequence["ScoreRequest"]) -> dict[str, float]:
        import torch

        found = {}
        for group in self._groups(requests):
            rows = [torch.tensor((*one.prompt_ids, *one.completion_ids)) for one in group]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self._model.device)
            mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
            with torch.inference_mode():
                nats = self._model(
                    input_ids=ids, attention_mask=mask.long().to(ids.device), use_cache=False
                ).logits
                nats = nats[:, :-1].float().log_softmax(-1)
                nats = nats.gather(-1, ids[:, 1:, None]).squeeze(-1).cpu()
            for request, row, values in zip(group, rows, nats, strict=True):
                start = len(request.prompt_ids) - 1
                found[request.key] = float(values[start : len(row) - 1].double().sum())
        return found


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the transformers engine's two tasks.")
    parser.add_argument("--model", type=Path, help="model directory (default: the tiny policy)")
    parser.add_argument("--principles", type=Path, help="catalogue (default: the model's own)")
    parser.add_argument("--prompts", type=Path, help="JSONL with a `prompt` column")
    parser.add_argument("--prompts-count", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="sequences at once, of every side")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--sides", default=",".join(SIDES), help="comma-separated")
    parser.add_argument("--attention", default="auto", help="engine.attention of ours")
    parser.add_argument("--device", default="auto", help="of ours and generate")
    parser.add_argument("--dtype", default="auto", help="of all sides")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--compile", action="store_true", help="leave vLLM's torch.compile on")
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.sides.split(",")) - set(SIDES):
        parser.error(f"unknown side {sorted(unknown)[0]!r}; sides are {', '.join(SIDES)}")
    arguments.settings = []
    return arguments


def main() -> None:
    arguments = parse()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    if not arguments.compile:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    report = benchmark(arguments)
    print(json.dumps(report, indent=2) if arguments.json else as_text(report))


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the sides, let them take turns, and sum up."""
    from benchmarks.generate import load_prompts, make_config
    from benchmarks.generation import Work
    from sso_data.generation.generate import prepare

    setup = prepare(make_config(arguments))
    sides = make_sides(arguments, setup)
    prompts = load_prompts(arguments, setup.config, count=arguments.prompts_count)
    work = Work(setup=setup, prompts=prompts, source=Path(), context_tokens=4096)
    samples, scores = requests_of(work, sides[next(iter(sides))])
    for side in sides.values():  # a warm-up: the work of two rows
        side.sample(samples[:6])
        side.score(scores[:10])
    passes: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(arguments.repeat):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            passes[name].append(one_pass(sides[name], samples, scores))
            print(f"{name}: {passes[name][-1]['sampling']['seconds']:.2f} s", file=sys.stderr)
    nats = {name: done[0].pop("nats") for name, done in passes.items()}
    found = {name: medians(done) for name, done in passes.items()}
    return {
        "ratios": ratios_of(found),
        "agreement": agreement(nats, scores),
        "model": setup.config.model,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        **{key: getattr(arguments, key) for key in KEYS},
        "samples": len(samples),
        "scores": len(scores),
        "prompt_tokens": sum(len(one.prompt_ids) for one in samples),
        "sides": found,
    }


KEYS = ("prompts_count", "max_tokens", "batch", "repeat", "attention", "dtype", "threads")


def make_sides(arguments: argparse.Namespace, setup: Any) -> dict[str, Side]:
    """The sides that were asked for, their weights loaded."""
    import torch
    import transformers

    from sso_data.config.run import EngineConfig
    from sso_data.engines.environment import prepare_vllm
    from sso_data.engines.inline import start_inline
    from sso_data.models.facts import read_model_facts
    from sso_data.models.loading import pick_device, pick_dtype

    torch.set_num_threads(arguments.threads)
    common = {"isolation": "inline", "max_num_seqs": arguments.batch, "dtype": arguments.dtype}
    common |= {"threads": arguments.threads, "max_model_len": 4096}
    ours = {"name": "transformers", "device": arguments.device, "attention": arguments.attention}
    config = EngineConfig.model_validate(common | ours)
    folder, wanted = setup.model_dir, arguments.sides.split(",")
    sides: dict[str, Side] = {}
    if "ours" in wanted:
        sides["ours"] = OurEngine(start_inline(folder, config))
    if "generate" in wanted:
        device = pick_device(config.device)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=pick_dtype(config, device)
        ).to(device)
        eos_ids = read_model_facts(folder, config).eos_ids
        sides["generate"] = Generate(model.eval(), eos_ids, arguments.batch)
    if "vllm" in wanted:
        config = EngineConfig.model_validate(common | {"name": "vllm"})
        prepare_vllm(folder, config)
        sides["vllm"] = Vllm(start_inline(folder, config))
    return sides


def requests_of(work: "Work", side: Side) -> tuple[list["SampleRequest"], list["ScoreRequest"]]:
    """All samples, and scores of what `side` draws for them."""
    from sso_data.core.records import VIEWS
    from sso_data.engines.interface import SampleRequest, ScoreRequest

    sampling, plans = work.setup.config.sampling, list(work.drawings())
    samples = [
        SampleRequest(
            key=f"{number}/{view}",
            prompt_ids=tuple(plan.rendered.ids[view]),
            max_tokens=plan.max_tokens,
            seed=plan.seed[view],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        for number, plan in enumerate(plans)
        for view in VIEWS
    ]
    drawn = side.sample(samples)
    scores = [
        ScoreRequest(
            key=f"{number}/{of}/{under}",
            prompt_ids=tuple(plan.rendered.ids[under]),
            completion_ids=drawn[f"{number}/{of}"],
        )
        for number, plan in enumerate(plans)
        for of, under in CELLS
    ]
    return samples, scores


def one_pass(
    side: Side, samples: Sequence["SampleRequest"], scores: Sequence["ScoreRequest"]
) -> dict[str, Any]:
    """Both tasks once: seconds, processor seconds, response tokens, peak memory; the scores."""
    drawn, sampling = timed(lambda: side.sample(samples))
    nats, scoring = timed(lambda: side.score(scores))
    sampling["tokens"] = sum(map(len, drawn.values()))
    scoring["tokens"] = sum(len(request.completion_ids) for request in scores)
    return {"sampling": sampling, "scoring": scoring, "nats": nats}


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    from generation import peak_mib, reset_peak

    reset_peak()
    began, processor = time.perf_counter(), time.process_time()
    result = work()
    found = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - processor,
        "peak_mib": peak_mib(),
    }
    return result, found


def medians(passes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By task: medians, and tokens a second and a processor second."""
    found = {}
    for task in ("sampling", "scoring"):
        every = [done[task] for done in passes]
        found[task] = {key: statistics.median(one[key] or 0 for one in every) for key in every[0]}
        for name in ("seconds", "cpu_seconds"):
            rates = [one["tokens"] / one[name] for one in every]
            found[task][f"tokens_per_{name.removesuffix('s')}"] = statistics.median(rates)
    return found


def ratios_of(sides: Mapping[str, Any]) -> dict[str, float]:
    """Tokens a second, ours over another side's: above 1 means that ours is faster."""
    return {
        f"ours / {other}, {task} tokens per {unit}": sides["ours"][task][key] / found[task][key]
        for other, found in sides.items()
        if other != "ours" and "ours" in sides
        for task in ("sampling", "scoring")
        for unit, key in (
            ("second", "tokens_per_second"),
            ("CPU second", "tokens_per_cpu_second"),
        )
    }


def agreement(
    nats: Mapping[str, Mapping[str, float]], scores: Sequence["ScoreRequest"]
) -> dict[str, float]:
    """The largest difference of a score from ours, in nats a token."""
    if "ours" not in nats:
        return {}
    return {
        name: max(
            abs(found[one.key] - nats["ours"][one.key]) / len(one.completion_ids) for one in scores
        )
        for name, found in nats.items()
        if name != "ours"
    }


def as_text(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    lines = [f"{label}: {ratio:.2f}" for label, ratio in report["ratios"].items()]
    lines += [
        f"largest difference, ours and {name}: {worst:.1e} nats/token"
        for name, worst in report["agreement"].items()
    ]
    lines += [
        f"{report['model']}, {report['samples']} samples, {report['scores']} scores, at most "
        f"{report['max_tokens']} tokens, batch {report['batch']}, {report['threads']} thread(s), "
        f"{report['machine']}, load {report['load']:.1f}; medians of {report['repeat']}",
        f"{'side':<10}{'task':<10}{'seconds':>9}{'cpu s':>9}{'tokens':>9}"
        f"{'tokens/s':>10}{'/cpu s':>9}{'peak MiB':>10}",
    ]
    for name, tasks in report["sides"].items():
        for task, one in tasks.items():
            lines.append(
                f"{name:<10}{task:<10}{one['seconds']:>9.2f}{one['cpu_seconds']:>9.2f}"
                f"{one['tokens']:>9.0f}{one['tokens_per_second']:>10.0f}"
                f"{one['tokens_per_cpu_second']:>9.0f}{one['peak_mib']:>10.0f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
