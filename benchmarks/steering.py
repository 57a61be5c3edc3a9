"""Which texts move a model: catalogues, numbers of features, placements, temperatures.

    python benchmarks/steering.py --model DIR --out DIR                # every arm, 32 prompts each
    python benchmarks/steering.py --model DIR --out DIR --arms "short;long, both"

Each arm is a run in `--out`, and a line of `results.jsonl` there once it is finished: the same
command goes on after an interruption. Every arm differs from `short` in what its name says.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sso_data.runs.columns import Rows

BASE: Mapping[str, Any] = {"principles": "short", "steering": {"count": 1}}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "short": {},
    "long": {"principles": "long"},
    "short, two features": {"steering": {"count": 2}},
    "long, two features": {"principles": "long", "steering": {"count": 2}},
    "short, user": {"steering": {"placement": "user"}},
    "short, both": {"steering": {"placement": "both"}},
    "long, both": {"principles": "long", "steering": {"placement": "both"}},
    "short, temperature 1": {"sampling": {"temperature": 1.0}},
    "checkable": {"principles": "checkable"},
}
COLUMNS = {
    "rows": "rows",
    "y+: g>p / p>b / g>b": "good",
    "y-: b>p / p>g / b>g": "bad",
    "chain": "chain",
    "contrast": "contrast",
    "reverse": "reverse",
    "tokens y+ / y0 / y-": "tokens",
    "ended": "ended",
    "signal by checks": "signal",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare ways of steering one model.")
    parser.add_argument("--model", required=True, help="model directory or Hub id")
    parser.add_argument("--out", type=Path, required=True, help="directory of the arms")
    parser.add_argument("--prompts", type=Path, help="prompt file (default: everyday requests)")
    parser.add_argument("--count", type=int, default=32, help="prompts of an arm")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--arms", default=";".join(ARMS), help=f"of: {'; '.join(ARMS)}")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from benchmarks.prompts import everyday

    arguments.out.mkdir(parents=True, exist_ok=True)
    results = arguments.out / "results.jsonl"
    prompts = arguments.prompts or arguments.out / "prompts.jsonl"
    if not arguments.prompts:
        lines = [json.dumps({"prompt": text}) + "\n" for text in everyday(arguments.count)]
        prompts.write_text("".join(lines))
    done = read(results)
    for arm in map(str.strip, arguments.arms.split(";")):
        if arm not in ARMS:
            raise SystemExit(f"--arms {arm}: there are {'; '.join(ARMS)}")
        if arm not in done:
            found = measured(arm, arguments, prompts)
            with results.open("a") as stream:
                stream.write(json.dumps({"arm": arm, **found}) + "\n")
            done[arm] = found
    print(table(done))


def read(results: Path) -> dict[str, dict[str, Any]]:
    lines = results.read_text().splitlines() if results.exists() else []
    return {line["arm"]: line for line in map(json.loads, lines)}


def measured(arm: str, arguments: argparse.Namespace, prompts: Path) -> dict[str, Any]:
    """Make or continue the run of an arm; return its numbers."""
    from sso_data.config.run import load_config
    from sso_data.core.yaml_files import deep_merge
    from sso_data.generation.generate import generate
    from sso_data.runs.journal import load_scores, read_rows

    own = {
        "model": arguments.model,
        "source": {"limit": arguments.count},
        "steering": {"concision_probability": 0.0},
        "sampling": {"max_tokens": arguments.max_tokens},
        "engine": {"name": arguments.engine, "threads": arguments.threads},
    }
    config = load_config(base=deep_merge(deep_merge(own, BASE), ARMS[arm]))
    run = arguments.out / arm.replace(", ", "-").replace(" ", "-")
    summary = generate(str(prompts), run, config)
    found = shares(load_scores(run, dry=True).rows)
    return {
        "rows": summary.account.rows,
        "failed": summary.account.failed,
        "kept": len(summary.decision.kept),
        **found,
        "signal": signal(list(read_rows(run)), config.principles),
    }


def shares(rows: "Rows") -> dict[str, Any]:
    """The six comparisons of means, the tests that they make up, and mean lengths in tokens."""
    import numpy as np

    from sso_data.core.records import VIEWS
    from sso_data.runs.columns import FINISH_REASONS, mean_logp, num_tokens

    mean = partial(mean_logp, rows)

    def falls(drawn: Any, *views: Any) -> list[Any]:
        first, second, third = (mean(view, drawn) for view in views)
        return [first > second, second > third, first > third]

    good, bad = falls("good", "good", "plain", "bad"), falls("bad", "bad", "plain", "good")
    tests = {
        "chain": good[0] & good[1] & bad[0] & bad[1],
        "contrast": good[2] & bad[2],
        "reverse": (mean("good", "good") < mean("bad", "good"))
        & (mean("bad", "bad") < mean("good", "bad")),
        "ended": np.all(rows["finish"] == FINISH_REASONS.index("stop"), axis=1),
    }
    return {
        "good": [round(float(one.mean()), 3) for one in good],
        "bad": [round(float(one.mean()), 3) for one in bad],
        **{name: int(one.sum()) for name, one in tests.items()},
        "tokens": [
            round(float(num_tokens(rows, view).mean()), 1)
            for view in (VIEWS[1], VIEWS[0], VIEWS[2])
        ],
    }


def signal(rows: list[Any], catalogue: Path | None) -> dict[str, Any]:
    """How often y+ follows the checks of its row better than y-, with Wilson's 95 % interval."""
    from sso_data.evaluation.judge_rule import RuleJudge
    from sso_data.evaluation.judges import Verdict, signal_comparison
    from sso_data.evaluation.statistics import rate_of

    said = RuleJudge(catalogue or Path("long")).compare([signal_comparison(row) for row in rows])
    preferences = [one.preference for one in said if isinstance(one, Verdict)]
    rate = rate_of(preferences)
    return {"judged": len(preferences), "rate": rate.value, "low": rate.low, "high": rate.high}


def table(done: Mapping[str, Mapping[str, Any]]) -> str:
    """The arms as a Markdown table."""
    lines = [f"| arm | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for arm, found in done.items():
        lines.append(f"| {arm} | {' | '.join(cell(found[key]) for key in COLUMNS.values())} |")
    return "\n".join(lines)


def cell(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(f"{one:g}" for one in value)
    if isinstance(value, dict):
        if not value["judged"]:
            return "-"
        return f"{value['rate']:.2f} [{value['low']:.2f}, {value['high']:.2f}], {value['judged']}"
    return str(value)


if __name__ == "__main__":
    main()
