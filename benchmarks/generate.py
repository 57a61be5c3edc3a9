"""How fast rows are made: the published procedure, this package, and the bare engine, in one run.

    python benchmarks/generate.py                           # the embedded tiny policy
    python benchmarks/models.py --kind qwen-36m --out DIR   # once
    python benchmarks/generate.py --model DIR --threads 2 --compile --prompts-count 48

One engine is loaded, warmed up and shared by all sides; they take turns, each starting with an
empty prefix cache. `docs/benchmarks.md` says what is compared and why.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.generation import Bench, Messages, Metered, Timing, Work
    from benchmarks.mixed_step import Variant
    from sso_data.config.run import FilterConfig, RunConfig

WARM_UP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All passes of one side, and the highest peak of resident memory during them (MiB)."""

    passes: Sequence["Timing"]
    peak_mib: float | None

    def to_json(self) -> dict[str, Any]:
        """Medians, with the seconds of every pass."""
        seconds = [timing.seconds for timing in self.passes]
        names = self.passes[0].parts
        parts = {name: statistics.median(t.parts[name] for t in self.passes) for name in names}
        median = statistics.median(seconds)
        return {
            "seconds": median,
            "cpu_seconds": statistics.median(timing.cpu_seconds for timing in self.passes),
            "passes": seconds,
            "tokens": self.passes[0].tokens,
            "tokens_per_second": self.passes[0].tokens / median,
            "kept": {name: len(keys) for name, keys in self.passes[0].kept.items()},
            "parts": parts,
            "cached": self.passes[0].cached,
            "scored_again": self.passes[0].again,
            "peak_mib": self.peak_mib,
        }


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time three ways of making rows on one engine.")
    parser.add_argument("--model", type=Path, help="model directory (default: the tiny policy)")
    parser.add_argument("--principles", type=Path, help="catalogue (default: the model's own)")
    parser.add_argument("--prompts", type=Path, help="JSONL with a `prompt` column")
    parser.add_argument("--prompts-count", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--sides",
        default="authors,ours,raw",
        help="which of them, comma-separated; `needed` is ours with scoring.when=needed",
    )
    parser.add_argument(
        "--complete-first",
        type=int,
        default=64,
        help="first rows that `needed` makes whole; 0 is what they amount to in a long run",
    )
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], help="KEY=VALUE of a run, for all"
    )
    parser.add_argument(
        "--filter",
        dest="filters",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="a `needed` side under the run's filter with these keys of it; repeat it for several",
    )
    parser.add_argument(
        "--variant",
        dest="variants",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="`ours` with vLLM's steps filled in another way: wait, slots, samples, scores "
        "(benchmarks/mixed_step.py); repeat it for several",
    )
    parser.add_argument("--child", action="store_true", help="ours also with a child engine")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engine")
    parser.add_argument("--compile", action="store_true", help="leave torch.compile switched on")
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    if not arguments.compile:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    report = benchmark(arguments)
    print(json.dumps(report, indent=2) if arguments.json else as_text(report))


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the engine, run every side `--repeat` times in turn, and sum up."""
    from benchmarks.generation import Bench, Work, write_source
    from sso_data.engines.environment import prepare_vllm
    from sso_data.engines.inline import start_inline
    from sso_data.generation.generate import prepare

    variants_of(arguments)  # ends here where one is none
    setup = prepare(make_config(arguments))
    filters = make_filters(arguments)
    prompts = load_prompts(arguments, setup.config, count=arguments.prompts_count + WARM_UP)
    timed, spare = prompts[: arguments.prompts_count], prompts[arguments.prompts_count :]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sso-data-bench-"))
        prepare_vllm(setup.model_dir, setup.config.engine)
        import vllm  # noqa: F401 - so that the start is timed without it

        began = time.perf_counter()
        engine = start_inline(setup.model_dir, setup.config.engine)
        start_seconds = time.perf_counter() - began
        stack.callback(engine.close)
        bench = Bench(engine)
        work, warm = (
            Work(
                setup=setup,
                prompts=part,
                source=write_source(part, Path(folder) / name),
                context_tokens=engine.info.context_tokens,
                complete_first=arguments.complete_first,
                filters=filters,
            )
            for part, name in ((timed, "prompts.jsonl"), (spare or timed, "warm-up.jsonl"))
        )
        measured = take_turns(make_sides(arguments, bench, work, warm), bench, arguments.repeat)
        facts = {
            "model": setup.config.model,
            "engine": asdict(engine.info),
            "prompts": len(timed),
            "engine_start_seconds": start_seconds,
        }
        return summary(arguments, measured, facts)


def make_config(arguments: argparse.Namespace, *more: str) -> "RunConfig":
    """The run's configuration: the authors' sampling settings, `more`, all else as shipped."""
    from sso_data.config.run import load_config

    world = Path(__file__).resolve().parent.parent / "sso_data" / "world"
    tiny = arguments.model is None
    principles = arguments.principles or (world / "principles" if tiny else None)
    return load_config(
        settings=[*arguments.settings, *more],
        model=str(world / "policy" if tiny else arguments.model),
        principles=str(principles) if principles else None,
        sampling__max_tokens=arguments.max_tokens,
        engine__name="vllm",
        engine__isolation="inline",
        engine__threads=arguments.threads,
    )


def make_filters(arguments: argparse.Namespace) -> dict[str, "FilterConfig"]:
    """The run's filter as "the run's", or those of `--filter` by their names."""
    tests = {}
    for text in arguments.filters or ["the run's:"]:
        name, _, keys = text.partition(":")
        settings = [f"filter.{key}" for key in keys.split(",") if key]
        tests[name] = make_config(arguments, *settings).filter
    return tests


def load_prompts(
    arguments: argparse.Namespace, config: "RunConfig", *, count: int
) -> list["Messages"]:
    """Distinct prompts: of the file, or everyday ones."""
    from benchmarks.prompts import everyday
    from sso_data.core.records import Message
    from sso_data.prompts import BadRow, read_prompts

    if arguments.prompts is not None:
        rows = read_prompts(str(arguments.prompts), config.source)
        found = dict.fromkeys(row.messages for row in rows if not isinstance(row, BadRow))
        return list(found)[:count]
    return [(Message(role="user", content=text),) for text in dict.fromkeys(everyday(count))]


def make_sides(
    arguments: argparse.Namespace, bench: "Bench", work: "Work", warm: "Work"
) -> Mapping[str, Callable[[], "Timing"]]:
    """The sides by name; `raw` repeats what an untimed pass of `ours`, which warms up, asked."""
    from benchmarks.generation import AuthorsWay, Metered, RawEngine, run_ours

    wanted = arguments.sides.split(",")
    metered = Metered(bench.engine)
    run_ours(warm if wanted == ["authors"] else work, metered, bench=bench)
    raw = RawEngine(bench, metered.requests)
    sides: dict[str, Callable[[], Timing]] = {}
    if "authors" in wanted:
        AuthorsWay(bench, warm).run()
        sides["authors"] = lambda: AuthorsWay(bench, work).run()
    if "ours" in wanted:
        sides["ours"] = lambda: run_ours(work, metered, bench=bench)
    for name, variant in variants_of(arguments).items():
        filled = partial(run_variant, variant, work, metered, bench)
        sides[f"ours ({name})"] = filled
    if "needed" in wanted:
        for name, test in work.filters.items():
            steps = partial(run_ours, stepwise(work, name, test), metered, bench=bench)
            sides[f"needed ({name})" if arguments.filters else "needed"] = steps
    if "raw" in wanted:
        sides["raw"] = raw.run
    if arguments.child:
        sides["child"] = lambda: run_in_child(work, warm)
    return sides


def variants_of(arguments: argparse.Namespace) -> dict[str, "Variant"]:
    """Those of `--variant` by their names. Raises SystemExit for what is none."""
    from benchmarks.mixed_step import Variant

    found = {}
    for text in arguments.variants:
        name, colon, keys = text.partition(":")
        try:
            if not colon:
                raise ValueError("a name, a colon and settings")
            found[name] = Variant.parse(keys)
        except (TypeError, ValueError) as error:
            raise SystemExit(f"--variant {text}: {error}") from None
    return found


def run_variant(variant: "Variant", work: "Work", metered: "Metered", bench: "Bench") -> "Timing":
    """`ours` with the engine's steps filled as the variant says."""
    from benchmarks.generation import run_ours
    from benchmarks.mixed_step import Ordered

    with variant.applied(bench.engine):
        return run_ours(work, Ordered(metered, variant), bench=bench)


def stepwise(work: "Work", name: str, test: "FilterConfig") -> "Work":
    """The same work with `scoring.when=needed` under one filter."""
    config = work.setup.config
    scoring = config.scoring.model_copy(update={"when": "needed"})
    config = config.model_copy(update={"scoring": scoring, "filter": test})
    return replace(work, setup=replace(work.setup, config=config), filters={name: test})


def run_in_child(work: "Work", warm: "Work") -> "Timing":
    """`ours` with a new engine in a process of its own; its start and warm-up are not timed.

    A new one for every pass, because another process's prefix cache cannot be emptied from here.
    """
    from benchmarks.generation import Metered, peak_mib, run_ours
    from sso_data.engines.child import ChildEngine

    engine = ChildEngine(work.setup.model_dir, work.setup.config.engine)
    try:
        metered = Metered(engine)
        run_ours(warm, metered, bench=None)
        timing: Timing = run_ours(work, metered, bench=None)
        return replace(timing, peak_mib=peak_mib(engine.pid or "self"))
    finally:
        engine.close()


def take_turns(
    sides: Mapping[str, Callable[[], "Timing"]], bench: "Bench", repeat: int
) -> dict[str, Measured]:
    """Every side `repeat` times; each round starts with another side."""
    from benchmarks.generation import peak_mib, reset_peak

    passes: dict[str, list[Timing]] = {name: [] for name in sides}
    peaks: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(repeat):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            bench.fresh()
            reset_peak()
            began = time.process_time()
            timing = sides[name]()
            spent = time.process_time() - began
            timing = replace(timing, cpu_seconds=spent, cached=bench.cached_share)
            peak = timing.peak_mib or peak_mib()
            passes[name].append(timing)
            if peak is not None:
                peaks[name].append(peak)
            print(f"{name}: {timing.seconds:.2f} s", file=sys.stderr, flush=True)
    return {
        name: Measured(passes=passes[name], peak_mib=max(peaks[name], default=None))
        for name in names
    }


def summary(
    arguments: argparse.Namespace, measured: Mapping[str, Measured], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The report: settings, each side, and the ratios of their median seconds."""
    sides = {side: values.to_json() for side, values in measured.items()}
    settings = ("repeat", "max_tokens", "threads", "compile")
    return {
        **facts,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: getattr(arguments, name) for name in settings},
        "sides": sides,
        "ratios": ratios_of(sides, start=facts["engine_start_seconds"]),
        "pairs": pairs_compared(measured),
        "outside_engine": outside_engine(sides),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def ratios_of(sides: Mapping[str, Any], *, start: float) -> dict[str, float]:
    """Ratios of median seconds, for the sides that were run; above 1 means that the second wins.

    The one with engine starts is summed, not run: the published code starts an engine for sampling
    and one for each scoring pass, ours one in all. `start` leaves imports out.
    """
    seconds = {name: side["seconds"] for name, side in sides.items()}
    ratios = {}
    if {"authors", "ours"} <= seconds.keys():
        authors, ours = seconds["authors"], seconds["ours"]
        features = sides["authors"]["parts"]["features"]
        ratios["authors / ours"] = authors / ours
        ratios["authors without their feature call / ours"] = (authors - features) / ours
        ratios["authors with 7 engine starts / ours with 1 (summed)"] = (authors + 7 * start) / (
            ours + start
        )
    steps = [name for name in seconds if name.startswith("needed")]
    for above, below in (
        *(("ours", "raw"), ("child", "ours"), ("authors", "child")),
        *((name, other) for name in steps for other in ("ours", "raw")),
    ):
        if {above, below} <= seconds.keys():
            ratios[f"{above} / {below}"] = seconds[above] / seconds[below]
    cpu = {name: side["cpu_seconds"] for name, side in sides.items() if name != "child"}
    variants = [name for name in seconds if name.startswith("ours (")]
    for above, below in (
        *(("authors", "ours"), ("ours", "raw")),
        *((name, "raw") for name in variants),
        *((name, "ours") for name in steps),
    ):
        if {above, below} <= cpu.keys():
            ratios[f"{above} / {below}, CPU seconds"] = cpu[above] / cpu[below]
    if "raw" in cpu:  # the raw engine makes the rows of all of ours
        ratios |= {
            f"kept pairs per CPU second, {name} / raw": cpu["raw"] / cpu[name] for name in steps
        }
    return ratios


def pairs_compared(measured: Mapping[str, Measured]) -> dict[str, dict[str, dict[str, int]]]:
    """By `needed` side and filter: how many pairs it and `ours` both keep, and one of them alone.

    The rows kept in the first passes are compared by their keys. The log-probs of two passes differ
    by rounding, so that a row within rounding of a limit may be kept by one of them.
    """
    if "ours" not in measured:
        return {}
    ours = measured["ours"].passes[0].kept
    return {
        name: {
            test: {
                "both": len(kept & ours[test]),
                "ours_alone": len(ours[test] - kept),
                "needed_alone": len(kept - ours[test]),
            }
            for test, kept in side.passes[0].kept.items()
        }
        for name, side in measured.items()
        if name.startswith("needed")
    }


def outside_engine(sides: Mapping[str, Any]) -> float | None:
    """The share of our side's time that is spent outside the engine (neither submit nor step)."""
    if "ours" not in sides:
        return None
    return float(sides["ours"]["parts"]["pipeline"] / sides["ours"]["seconds"])


def as_text(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    wide = 2 + max(map(len, report["sides"]))
    lines = [
        f"{report['model']}, {report['prompts']} prompts, at most {report['max_tokens']} tokens, "
        f"{report['threads']} thread(s), compile {'on' if report['compile'] else 'off'}; "
        f"medians of {report['repeat']}",
        f"{'side':<{wide}}{'seconds':>9}{'cpu s':>8}{'tokens':>9}"
        f"{'tokens/s':>10}{'peak MiB':>10}{'cached':>8}{'again':>7}  parts",
    ]
    for name, side in report["sides"].items():
        parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in side["parts"].items())
        peak = f"{side['peak_mib']:.0f}" if side["peak_mib"] else "-"
        cached = "-" if side["cached"] is None else f"{side['cached']:.1%}"
        prefix = f"{cached:>8}{side['scored_again']:>7}"
        lines.append(
            f"{name:<{wide}}{side['seconds']:>9.2f}{side['cpu_seconds']:>8.2f}{side['tokens']:>9}"
            f"{side['tokens_per_second']:>10.0f}{peak:>10}{prefix}  {parts}"
        )
        for test, kept in side["kept"].items():
            per_second = kept / side["cpu_seconds"]
            lines.append(f"{'':<{wide}}{test}: {kept} kept pairs, {per_second:.3f} per CPU second")
    lines += [f"{label}: {ratio:.2f}" for label, ratio in report["ratios"].items()]
    for name, tests in report["pairs"].items():
        for test, pairs in tests.items():
            both, ours, needed = pairs["both"], pairs["ours_alone"], pairs["needed_alone"]
            same = f"other pairs: {both} of both, {ours} of ours alone, {needed} of {name} alone"
            if not ours and not needed:
                same = f"the same {both} pairs"
            lines.append(f"{name} and ours keep, {test}: {same}")
    if report["outside_engine"] is not None:
        lines.append(f"ours, outside the engine: {report['outside_engine']:.1%} of the time")
    lines.append(f"engine start, imports excluded: {report['engine_start_seconds']:.1f} s")
    lines.append(f"peak memory of the process: {report['peak_rss_mib']:.0f} MiB")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
