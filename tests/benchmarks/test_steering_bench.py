"""benchmarks/steering.py: its table, and on the tiny policy: a finished arm is not made again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.steering import part
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
