"""What two rounds do to a real language model: two checkable principles, SSO and the base loss.

    python -m benchmarks.real_model --work DIR            # SmolLM2, about two hours a principle
    python -m benchmarks.real_model --work DIR --arms "Question, sso"    # one of the four arms

An arm is an `iterate` of two rounds. When it ends it leaves its numbers in `docs/real_model.jsonl`,
and the same command goes on with the next arm; an arm that was interrupted is continued.
"""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "real_model.jsonl"
PRINCIPLES = ("One sentence", "Question")
OBJECTIVES = {"sso": "sso", "base": "pairs"}
ARMS = [f"{principle}, {objective}" for principle in PRINCIPLES for objective in OBJECTIVES]
ROUNDS = 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Two rounds on a real model, arm by arm.")
    parser.add_argument("--work", type=Path, required=True, help="directory of the arms")
    parser.add_argument("--model", help="directory or Hub id (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--arms", default=";".join(ARMS), help=f"of: {'; '.join(ARMS)}")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--prompts", type=int, default=96, help="prompts of a round")
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12, help="training steps of a round")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    for arm in map(str.strip, arguments.arms.split(";")):
        if arm not in ARMS:
            raise SystemExit(f"--arms {arm}: there are {'; '.join(ARMS)}")
        if arm not in read(arguments.results):
            line = {"arm": arm, **measured(arm, arguments)}
            with arguments.results.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
    print(table(read(arguments.results)))


def read(results: Path) -> dict[str, dict[str, Any]]:
    """Finished arms by name."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {line["arm"]: line for line in map(json.loads, lines)}


def settings(arm: str, arguments: argparse.Namespace, held_out: Path) -> dict[str, Any]:
    """The configuration of an arm's iteration."""
    principle, objective = arm.split(", ")
    return {
        "rounds": ROUNDS,
        "slices": {"prompts": arguments.prompts},
        "generate": {
            "principles": "checkable",
            "steering": {
                "choose": "fixed",
                "features": [principle],
                "concision_probability": 0.0,
            },
            "sampling": {"max_tokens": arguments.max_tokens},
            "engine": {"name": arguments.engine, "threads": arguments.threads},
        },
        "train": {
            "loss": {"objective": OBJECTIVES[objective]},
            "lora": {"enabled": True},
            "optim": {"lr": 2e-4, "batch_size": 8, "max_steps": arguments.steps},
        },
        "held_out": {"judge": {"kind": "rule"}, "prompts": str(held_out)},
        "stop": {"signal_accuracy": 0.0, "steered": 0.0, "gap": 0.0, "length_growth": 100.0},
    }


def measured(arm: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make or continue the iteration of an arm; return its numbers."""
    from benchmarks.prompts import everyday
    from sso_data import iterate
    from sso_data.core.paths import public_name
    from sso_data.models.smollm2 import find_smollm2

    count = ROUNDS * arguments.prompts
    texts = everyday(count + arguments.held_out)
    arguments.work.mkdir(parents=True, exist_ok=True)
    files = {"prompts": texts[:count], "held_out": texts[count:]}
    for name, part in files.items():
        lines = [json.dumps({"prompt": text}) + "\n" for text in part]
        (arguments.work / f"{name}.jsonl").write_text("".join(lines))
    model = arguments.model or str(find_smollm2())
    config = settings(arm, arguments, arguments.work / "held_out.jsonl")
    prompts = arguments.work / "prompts.jsonl"
    done = iterate(prompts, arguments.work / arm.replace(", ", "-"), model=model, config=config)
    keys = ("model", "prompts", "held_out", "max_tokens", "steps")
    given = {key: getattr(arguments, key) for key in keys} | {"model": public_name(model)}
    return {"given": given, "seconds": round(done.seconds), "rounds": [*map(dict, done.lines)]}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A line an arm, as Markdown; differences are those on the same held-out prompts."""
    heads = ["arm", "kept of rows", "signal accuracy, all rows", "held out: before", "after"]
    heads += ["difference", "tokens: difference"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---|" * (len(heads) - 1)]
    for arm, found in results.items():
        rounds = found["rounds"]
        last = rounds[-1]
        kept = ", ".join(f"{one['kept']} of {one['rows']}" for one in rounds)
        signal = ", ".join(_number(one.get("accuracy_all")) for one in rounds)
        before, after = last.get("held_out_score_first"), last.get("held_out_score")
        score, tokens = (
            _difference(last.get(f"held_out_{key}_difference")) for key in ("score", "tokens")
        )
        cells = [arm, kept, signal, _number(before), _number(after), score, tokens]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _difference(value: list[float] | None) -> str:
    """A difference with its 95 % interval."""
    return "-" if value is None else f"{value[0]:+.3g} [{value[1]:+.3g}, {value[2]:+.3g}]"


if __name__ == "__main__":
    main()
