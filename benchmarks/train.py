"""How fast and in how much memory a step trains: ours, the published trainer's, TRL's.

    python benchmarks/train.py                          # vocabulary 150k, 1k tokens, CPU
    python benchmarks/train.py --device cuda --rows 2 --hidden 2048 --layers 16
    python benchmarks/train.py --model DIR --repeat 1   # a real model, such as SmolLM2
    python benchmarks/train.py --sides ours,ours-two-pairs,ours-joint,ours-one-pair
    python benchmarks/train.py --rows 12 --micro 2 --shortest 0.1 --sides ours,ours-unsorted

Each side is a process of its own with the same model, by default a small random one that is built
in memory; they take turns, step by step. `docs/benchmarks.md` says what is compared and why.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SIDES = (
    "authors",
    "ours",
    "trl",
    "authors-recorded",
    "ours-two-pairs",
    "ours-joint",
    "ours-one-pair",
    "ours-unsorted",
    "ours-eager",
    "ours-fused",
)
AIMS = {
    "authors / ours, seconds": 1.3,
    "authors / ours, peak memory": 4.0,
    "trl / ours, peak memory": 1.0,
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and weigh one training step.")
    parser.add_argument("--model", default="", help="model directory (default: a random Llama)")
    parser.add_argument("--vocab", type=int, default=150_000)
    parser.add_argument("--length", type=int, default=1024, help="tokens of the longest sequence")
    parser.add_argument("--prompt-share", type=float, default=0.25, help="of them, the prompt's")
    parser.add_argument("--rows", type=int, default=1, help="rows a step; ours trains 3 pairs each")
    parser.add_argument(
        "--micro", type=int, default=0, help="rows of a micro-batch of ours (0: all)"
    )
    parser.add_argument(
        "--shortest", type=float, default=1.0, help="shortest row, as a share of the longest"
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5, help="steps that count")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before, which do not count")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", help="number format (default: float32, on cuda bfloat16)")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--optimizer", choices=("adamw", "adamw-fused", "sgd"), default="adamw")
    parser.add_argument("--attention", choices=("sdpa", "eager", "flash_attention_2"))
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    parser.add_argument(
        "--sides", default="authors,ours,trl", help=f"comma-separated, of {', '.join(SIDES)}"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.sides.split(",")) - set(SIDES):
        parser.error(f"unknown side {sorted(unknown)[0]!r}; sides are {', '.join(SIDES)}")
    if arguments.model:
        config = json.loads(Path(arguments.model, "config.json").read_text())
        arguments.vocab, arguments.hidden = config["vocab_size"], config["hidden_size"]
        arguments.layers = config["num_hidden_layers"]
    if arguments.dtype is None:
        arguments.dtype = "bfloat16" if arguments.device.startswith("cuda") else "float32"
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.serve:
        sys.path.insert(0, str(ROOT))
        from training import serve

        serve(arguments.serve, work_of(arguments))
        return
    report = benchmark(arguments)
    print(json.dumps(report, indent=2) if arguments.json else as_text(report))


def work_of(arguments: argparse.Namespace) -> Any:
    from training import Work

    return Work(**{name: getattr(arguments, name) for name in Work.__dataclass_fields__})


class Served:
    """One side in a process of its own."""

    def __init__(self, name: str, warm_up: int) -> None:
        quiet = {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | quiet,
        )
        self.start = self._answer()
        self.warm = [self.step() for _ in range(warm_up)]
        self.steps: list[dict[str, float]] = []

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def step(self) -> dict[str, float]:
        """Ask for a step and wait for it."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            advice = "; was the memory full? try a smaller --length" if code == -9 else ""
            raise SystemExit(f"{self.name}: ended with exit code {code}{advice}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def to_json(self) -> dict[str, Any]:
        """Medians and every step; memory in MiB, on top of the policy's weights and the imports."""
        seconds = [step["seconds"] for step in self.steps]
        return {
            "seconds": statistics.median(seconds),
            "steps": seconds,
            "cpu_seconds": statistics.median(step["cpu_seconds"] for step in self.steps),
            "peak_mib": max(step["peak"] for step in self.steps) / 2**20,
            "base_mib": self.start["base"] / 2**20,
            "first_loss": [*self.warm, *self.steps][0]["loss"],
            "padding": self.start["padding"],
        }


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start every side, let them take turns `--repeat` times, and sum up."""
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        names, warm_up = arguments.sides.split(","), arguments.warm_up
        served = [stack.enter_context(Served(name, warm_up)) for name in names]
        for turn in range(arguments.repeat):
            shift = turn % len(served)
            for side in served[shift:] + served[:shift]:
                side.steps.append(side.step())
                print(f"{side.name}: {side.steps[-1]['seconds']:.2f} s", file=sys.stderr)
    sides = {side.name: side.to_json() for side in served}
    settings = vars(arguments).keys() - {"json", "serve", "sides"}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": {"before": load_before, "after": os.getloadavg()[0]},
        **{name: getattr(arguments, name) for name in sorted(settings)},
        "sides": sides,
        "ratios": ratios_of(sides),
        "aims": AIMS,
    }


def ratios_of(sides: Mapping[str, Any]) -> dict[str, float]:
    """Ratios of the other sides to ours; above 1 means that ours wins."""
    ratios = {}
    for other in sides:
        if other == "ours" or "ours" not in sides:
            continue
        for key, label in (
            ("seconds", "seconds"),
            ("cpu_seconds", "processor seconds"),
            ("peak_mib", "peak memory"),
        ):
            ratios[f"{other} / ours, {label}"] = sides[other][key] / sides["ours"][key]
    return ratios


def aim(report: Mapping[str, Any], label: str) -> str:
    wanted = None if report["model"] else report["aims"].get(label)
    return f"   (aim: at least {wanted:g})" if wanted else ""


def as_text(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    lines = [
        f"{label}: {ratio:.2f}{aim(report, label)}" for label, ratio in report["ratios"].items()
    ]
    lines += [
        f"{report['model'] or 'random Llama'}, vocabulary {report['vocab']}, "
        f"{report['length']} tokens, {report['rows']} row(s), "
        f"{report['layers']} layers of {report['hidden']}, {report['dtype']} on "
        f"{report['device']}, {report['optimizer']}; medians of {report['repeat']} steps",
        f"{'side':<18}{'seconds':>9}{'cpu s':>9}{'peak MiB':>10}{'first loss':>12}{'padding':>9}",
    ]
    for name, side in report["sides"].items():
        padding = "-" if side["padding"] is None else f"{side['padding']:.1%}"
        lines.append(
            f"{name:<18}{side['seconds']:>9.2f}{side['cpu_seconds']:>9.2f}"
            f"{side['peak_mib']:>10.0f}{side['first_loss']:>12.4f}{padding:>9}"
        )
    load = report["load"]
    lines.append(
        f"{report['machine']}; peak: on top of the policy's weights and the imports; "
        f"load of the machine {load['before']:.1f} before, {load['after']:.1f} after"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
