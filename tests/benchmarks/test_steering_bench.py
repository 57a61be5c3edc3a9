"""benchmarks/steering.py on the tiny policy: a finished arm is not made again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sso_data.world import policy_dir, queries

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_arms_become_lines_of_a_table_and_are_made_once(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": text}) + "\n" for text in queries(3, seed=5)]
    prompts.write_text("".join(lines))
    words = ["--model", policy_dir(), "--out", tmp_path / "out", "--prompts", prompts]
    words += ["--engine", "transformers", "--max-tokens", "24", "--threads", "1"]
    command = [sys.executable, ROOT / "benchmarks" / "steering.py", *words, "--arms"]
    results = tmp_path / "out" / "results.jsonl"
    for arms in ("short;short, user", "short, user"):
        done = subprocess.run(
            [*map(str, command), arms], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert [line.split("|")[1].strip() for line in done.stdout.splitlines()] == [
            *("arm", "---", "short", "short, user"),
        ]
        found = [json.loads(line) for line in results.read_text().splitlines()]
        assert [(one["arm"], one["rows"], one["failed"]) for one in found] == [
            ("short", 3, 0),
            ("short, user", 3, 0),
        ]
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [
        *("results.jsonl", "short", "short-user"),
    ]
