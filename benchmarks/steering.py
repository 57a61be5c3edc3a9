"""Which texts move a model: catalogues, numbers of features, placements, temperatures.

    python -m benchmarks.steering --model DIR --out DIR                # every arm, 32 prompts each
    python -m benchmarks.steering --model DIR --out DIR --arms "short;long, both"

Each arm is a run in `--out`, and a line of `docs/steering.jsonl` once it is finished: the same
command goes on after an interruption. Every arm differs from `short` in what its name says. With
another model or other numbers it is another arm. `make docs` puts the file into `principles.md`.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.real_model import NAMES, Line, comparisons, machine, read
from sso_data.core.paths import public_name
from sso_data.core.statistics import sign_test, wilson

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
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "steering.jsonl"
HEADS = (
    *("arm", "contrast", "reverse", "p", "chain", "y+: g>p / p>b / g>b", "y-: b>p / p>g / b>g"),
    *("tokens y+ / y0 / y-", "ended", "signal by checks"),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare ways of steering one model.")
    parser.add_argument("--model", required=True, help="model directory or Hub id")
    parser.add_argument("--out", type=Path, required=True, help="directory of the arms")
    parser.add_argument("--prompts", type=Path, help="prompt file (default: everyday requests)")
    parser.add_argument("--count", type=int, default=32, help="prompts of an arm")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--arms", default=";".join(ARMS), help=f"of: {'; '.join(ARMS)}")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from benchmarks.prompts import everyday

    arguments.out.mkdir(parents=True, exist_ok=True)
    prompts = arguments.prompts or arguments.out / "prompts.jsonl"
    if not arguments.prompts:
        lines = [json.dumps({"prompt": text}) + "\n" for text in everyday(arguments.count)]
        prompts.write_text("".join(lines))
    keys = {key: getattr(arguments, key) for key in ("count", "max_tokens")}
    given = {"model": public_name(arguments.model), "prompts": prompts.name, **keys}
    for arm in map(str.strip, arguments.arms.split(";")):
        if arm not in ARMS:
            raise SystemExit(f"--arms {arm}: there are {'; '.join(ARMS)}")
        if (arm, given) not in [(line["arm"], line["given"]) for line in read(arguments.results)]:
            found = {"machine": machine(arguments.threads), **measured(arm, arguments, prompts)}
            with arguments.results.open("a") as stream:
                stream.write(json.dumps({"arm": arm, "given": given, **found}) + "\n")
    print(part(read(arguments.results)))


def measured(arm: str, arguments: argparse.Namespace, prompts: Path) -> dict[str, Any]:
    """Make or continue the run of an arm; return its numbers."""
    from sso_data.config.run import load_config
    from sso_data.core.trees import deep_merge
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
    from sso_data.evaluation.statistics import rate_of
    from sso_data.evaluation.verdicts import Verdict, signal_comparison

    said = RuleJudge(catalogue or Path("long")).compare([signal_comparison(row) for row in rows])
    preferences = [one.preference for one in said if isinstance(one, Verdict)]
    rate = rate_of(preferences)
    return {"judged": len(preferences), "rate": rate.value, "low": rate.low, "high": rate.high}


def part(lines: Sequence[Line]) -> str:
    """Markdown of the finished arms, one model after the other; what is not finished is named."""
    return "\n".join(text for found in comparisons(lines) for text in _comparison(found))


def _comparison(found: Mapping[str, Line]) -> Iterator[str]:
    """Yield a paragraph and a table of arms that were made with the same model and numbers."""
    arms = [arm for arm in ARMS if arm in found]
    given, missing = found[arms[0]]["given"], "; ".join(arm for arm in ARMS if arm not in found)
    name = NAMES.get(given["model"], given["model"])
    yield (
        f"{name}, {given['count']} prompts an arm, at most {given['max_tokens']} tokens an answer; "
        f"{found[arms[0]]['machine']}. {len(arms)} of {len(ARMS)} arms are finished"
        f"{missing and f'; not yet: {missing}'}.\n"
    )
    yield f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|"
    for arm in arms:
        yield f"| {arm} | {' | '.join(cells(found[arm]))} |"
    yield ""


def cells(found: Line) -> Iterator[str]:
    """Yield the cells of an arm: shares with Wilson's 95 % interval, and an exact sign test."""
    rows, contrast, reverse = (found[key] for key in ("rows", "contrast", "reverse"))
    low, high = wilson(contrast / rows, rows)
    yield f"{contrast} of {rows}: {contrast / rows:.2f} [{low:.2f}, {high:.2f}]"
    yield f"{reverse}"
    yield f"{sign_test(contrast, reverse):.2g}"
    yield f"{found['chain']}"
    for key in ("good", "bad", "tokens"):
        yield " / ".join(f"{one:g}" for one in found[key])
    yield f"{found['ended']}"
    signal = found["signal"]
    yield (
        "-"
        if not signal["judged"]
        else (
            f"{signal['rate']:.2f} [{signal['low']:.2f}, {signal['high']:.2f}], {signal['judged']}"
        )
    )


if __name__ == "__main__":
    main()
