"""Two engines make the rows that one makes; killed at two, a run goes on with one."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.test_engine_deaths import engines_of
from tests.reliability.test_kill import command, journal_size, left_alone, rows_of
from tests.waiting import CHILD_SECONDS, until

PROMPTS = 60
ENGINES = ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)]


def worst(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest difference of a response's log-probs, nats; asserts ids, seeds and tokens."""
    assert found.keys() == expected.keys() and len(found) == PROMPTS
    largest = 0.0
    for name, row in expected.items():
        for key, value in row.items():
            if key.startswith("logp_") and value is not None:
                largest = max(largest, abs(found[name][key] - value))
            elif key.endswith("token_ids") or key.startswith("seed_"):
                assert found[name][key] == value, (name, key)
    return largest


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("engine", ENGINES)
def test_the_number_of_engines_changes_no_row(
    engine: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prompts, one = left_alone(tmp_path_factory, engine, PROMPTS)
    two = [*command(engine, prompts, tmp_path / "two"), "--engines", "2"]
    subprocess.run(two, check=True, capture_output=True)
    difference = worst(rows_of(tmp_path / "two"), rows_of(one))
    print(f"{engine}: largest difference {difference:.2g} nats a response")
    assert difference <= 1e-4
    manifest = json.loads((tmp_path / "two" / "run.json").read_text())
    assert manifest["engine"]["engines"] == 2

    killed = tmp_path / "killed"
    at_two = [*command(engine, prompts, killed), "--engines", "2"]
    process = subprocess.Popen(at_two, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: journal_size(killed) > 0 or process.poll() is not None)
    children = engines_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(CHILD_SECONDS)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    subprocess.run(
        [*command(engine, prompts, killed), "--engines", "1"], check=True, capture_output=True
    )
    assert worst(rows_of(killed), rows_of(one)) <= 1e-4
