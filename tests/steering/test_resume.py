"""SIGKILL while principles are being written: the same command goes on, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from sso_data.world import catalogue_dir, policy_dir, queries
from tests.chat.server import Reply, ScriptedServer, said, serving
from tests.steering.scripted import GOOD_PAIR
from tests.waiting import CHILD_SECONDS, until

PROMPTS = 12
SAME = (
    "principles",
    "principles_good",
    "principles_bad",
    "system_good",
    "prompt_hash_bad",
    *("chosen_by", "written_by", "seed_good", "system_template"),
)


def slow_pair(body: dict[str, Any], attempt: int) -> Reply:
    """Of no use for every third seed; else a pair that depends on it."""
    if body["seed"] % 3 == 0:
        return Reply(body=said("Hm.").body, delay=0.1)
    text = GOOD_PAIR.replace("likely", f"{body['seed'] % 997} likely")
    return Reply(body=said(text).body, delay=0.1)


def start(server: ScriptedServer, prompts: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "sso_data", "generate", str(prompts), "--out", str(out)),
        *("--model", str(policy_dir()), "--principles", str(catalogue_dir())),
        *("--engine", "transformers", "--set", "engine.isolation=inline"),
        *("--set", "engine.dtype=float32", "--set", "sampling.max_tokens=8"),
        *("--principle-model", "big", "--set", f"steering.endpoint={server.url}"),
        *("--set", "steering.endpoint_in_flight=2"),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines_of(out: Path) -> list[bytes]:
    file = out / "steering.jsonl"
    return file.read_bytes().splitlines(keepends=True) if file.exists() else []


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "rows" / "00000.jsonl").read_text().splitlines()]
    return {row["id"]: {key: row[key] for key in SAME} for row in rows}


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=CHILD_SECONDS)
    assert process.returncode == 0, errors.decode()


def kill_after(process: subprocess.Popen[bytes], out: Path, lines: int) -> None:
    until(lambda: len(lines_of(out)) >= lines or process.poll() is not None, every=0.005)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_killed_while_it_steers_it_goes_on(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": q}) + "\n" for q in queries(PROMPTS, seed=3)))
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    with serving(slow_pair) as server:
        kill_after(start(server, prompts, broken), broken, 3)
        kept = lines_of(broken)
        assert 3 <= len(kept) < PROMPTS
        finish(start(server, prompts, broken))
        asked = Counter(body["seed"] for body in server.bodies)
    assert lines_of(broken)[: len(kept)] == kept
    known = {
        attempt["seed"] % 2**31
        for line in kept
        for told in json.loads(line)["written"].values()
        for attempt in told["attempts"]
    }
    assert {asked[seed] for seed in known} == {1}, "what was kept is not asked again"
    with serving(slow_pair) as server:
        finish(start(server, prompts, whole))
    assert rows_of(broken) == rows_of(whole)
    assert len(rows_of(broken)) == PROMPTS
    assert max(Counter(json.loads(line)["id"] for line in lines_of(broken)).values()) == 1
