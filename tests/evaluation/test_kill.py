"""`eval` killed in each of its three parts; going on, it comes to what it would have come to."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sso_data.world import policy_dir
from tests.chat.server import Reply, said, serving
from tests.evaluation.conftest import SETTINGS, Eval, done, lines_of
from tests.evaluation.test_eval import same
from tests.waiting import bytes_under, until


def verdict(body: dict[str, Any], attempt: int) -> Reply:
    """Whoever wrote more is better; it takes the server a moment."""
    parts = body["messages"][-1]["content"].split("\n=====\n")
    better = "first" if len(parts[3]) > len(parts[5]) else "second"
    reply = said(json.dumps({"reason": "", "better": better}))
    return Reply(status=reply.status, body=reply.body, delay=0.05)


def killed_at(command: list[str], out: Path, pattern: str, lines: int) -> None:
    """Start the command, and SIGKILL it as soon as a file of this name holds so many lines."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def is_there() -> bool:
        assert process.poll() is None, f"ended before {pattern} had {lines} lines"
        return sum(file.read_bytes().count(b"\n") for file in out.glob(pattern)) >= lines

    try:
        until(is_there, progress=lambda: bytes_under(out))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_three_times_it_ends_as_if_it_had_not_been(
    evaluated: Eval, spoilt: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "eval"
    with serving(verdict) as server:
        judge = ("--judge=llm:big", f"--judge-endpoint={server.url}")
        slow = ("--set=judge.endpoint_in_flight=1", "--set=generate.engine.batch_tokens=256")
        options = ["--prompts", str(prompts), *judge, *slow]
        command = [sys.executable, "-m", "sso_data", "eval", str(policy_dir())]
        command += ["--against", str(spoilt), *SETTINGS, *options, "--out", str(out)]
        killed_at(command, out, "model/rows/*.jsonl", 2)
        killed_at(command, out, "against/answers.jsonl", 2)
        killed_at(command, out, "judges/*/verdicts.jsonl", 6)
        before = len(server.bodies)
        done(evaluated(*options, "--out", out))
        assert len(server.bodies) - before <= 2 * (24 - 5) + 2
        done(evaluated(*options, "--out", tmp_path / "whole"))
    results = [
        json.loads((tmp_path / name / "eval.json").read_text()) for name in ("eval", "whole")
    ]
    steering = [result.pop("steering") for result in results]
    assert same(*results)
    effects = [one.pop("effect") for one in steering]
    assert abs(effects[0]["contrast"] - effects[1]["contrast"]) <= 1, "log-probs of other batches"
    assert steering[0] == pytest.approx(steering[1], abs=1e-5), "log-probs of other batch shapes"
    assert results[0]["judged"] == 12
    for file in (out / "against/answers.jsonl", *out.glob("judges/*/verdicts.jsonl")):
        found = [line.get("id") or line["key"] for line in lines_of(file)]
        assert len(found) == len(set(found))
