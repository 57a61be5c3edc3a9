"""benchmarks/steering.py: its table, and on the tiny policy: a finished arm is not made again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.steering import part
from sso_data.config.run import RunConfig
from sso_data.core.statistics import sign_test, wilson
from sso_data.world import policy_dir, queries

ROOT = Path(__file__).parents[2]


def test_the_table_has_an_interval_and_an_exact_test() -> None:
    """3 against 1 of 4: Wilson's interval of .75, and p = 2 (1 + 4) / 16."""
    found = {
        **{"arm": "short, user", "machine": "CPU", "rows": 4, "contrast": 3, "reverse": 1},
        **{"chain": 0, "ended": 2, "good": [0.5, 0.25, 1], "bad": [0, 1, 1]},
        **{"tokens": [40, 90.5, 120], "signal": {"judged": 0}},
        "given": {"model": "llm", "prompts": "p.jsonl", "count": 4, "max_tokens": 24},
    }
    text = part([found, found | {"arm": "short", "signal": {"judged": 4, **RATE}}])
    assert "llm, 4 prompts an arm, at most 24 tokens an answer; CPU. 2 of 9 arms are" in text
    assert "; not yet: long; short, two features; " in text
    start = (
        "3 of 4: 0.75 [0.30, 0.95] | 1 | 0.62 | 0 | 0.5 / 0.25 / 1 | 0 / 1 / 1 | 40 / 90.5 / 120"
    )
    assert text.splitlines()[-2:] == [
        f"| short | {start} | 2 | 0.50 [0.15, 0.85], 4 |",
        f"| short, user | {start} | 2 | - |",
    ]
    assert part([]) == ""


def test_the_pages_say_what_the_grid_of_smollm2_shows() -> None:
    """docs/principles.md, few_pairs.md: which levers matter, and the one arm without an effect."""
    lines = (ROOT / "docs" / "steering.jsonl").read_text().splitlines()
    arms = {one["arm"]: one for one in map(json.loads, lines)}
    effects = {name: (one["contrast"], one["reverse"]) for name, one in arms.items()}
    assert effects["short, two features"] == (10, 4) and effects["long, two features"] == (15, 1)
    shown = {name for name, counts in effects.items() if sign_test(*counts) < 0.05}
    assert len(arms) == 9 and arms.keys() - shown == {"short, two features"}
    (_, system), (user, _) = (
        wilson(effects[name][0] / 32, 32) for name in ("short", "short, user")
    )
    assert user > system, "the intervals are apart"
    page = (ROOT / "docs" / "principles.md").read_text()
    assert "contrast in 15 of 32 rows, reverse in 1, two features each |" in page
    assert "no effect was shown on SmolLM2-135M (10 rows, reverse in 4) |" in page
    few = (ROOT / "docs" / "few_pairs.md").read_text()
    assert "of nine arms only the short texts with two features, the default" in few
    assert RunConfig().steering.count == 2


RATE = {"rate": 0.5, "low": 0.15, "high": 0.85}


@pytest.mark.long
def test_arms_become_lines_of_a_table_and_are_made_once(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": text}) + "\n" for text in queries(3, seed=5)]
    prompts.write_text("".join(lines))
    words = ["--model", policy_dir(), "--out", tmp_path / "out", "--prompts", prompts]
    words += ["--engine", "transformers", "--max-tokens", "24", "--threads", "1"]
    results = tmp_path / "results.jsonl"
    words += ["--results", results]
    command = [sys.executable, "-m", "benchmarks.steering", *words, "--arms"]
    for arms in ("short;short, user", "short, user"):
        done = subprocess.run(
            [*map(str, command), arms], capture_output=True, text=True, check=True, cwd=ROOT
        )
        table = [line for line in done.stdout.splitlines() if line.startswith("|")]
        assert [line.split("|")[1].strip() for line in table] == [
            *("arm", "---", "short", "short, user"),
        ]
        found = [json.loads(line) for line in results.read_text().splitlines()]
        assert [(one["arm"], one["rows"], one["failed"]) for one in found] == [
            ("short", 3, 0),
            ("short, user", 3, 0),
        ]
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [
        *("short", "short-user"),
    ]
