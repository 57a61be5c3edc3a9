"""The benchmarks of engine, GPU and scale run to their end, in small."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long]

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *options: str) -> Any:
    """The script's stdout, as JSON where it is any."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout) if done.stdout.strip() else None


def test_the_transformers_engine_scores_what_full_logits_do() -> None:
    small = ("--prompts-count", "3", "--max-tokens", "16", "--batch", "4", "--repeat", "1")
    report = run("transformers_engine.py", *small, "--sides", "ours,generate", "--json")
    assert next(iter(report)) == "ratios"
    assert report["agreement"]["generate"] < 1e-5
    for side in report["sides"].values():
        assert side["scoring"]["tokens"] == report["sides"]["ours"]["scoring"]["tokens"] > 0
        assert side["sampling"]["tokens_per_cpu_second"] > 0


def test_the_script_for_a_gpu_measures_every_part_in_small(tmp_path: Path) -> None:
    for package in ("peft", "trl", "vllm"):
        pytest.importorskip(package)
    out = tmp_path / "results.json"
    run("gpu.py", "--tiny", "--out", str(out))
    found = json.loads(out.read_text())
    parts = {name: part for name, part in found.items() if ", " in name}
    assert len(parts) == 10
    assert not [(name, part) for name, part in parts.items() if "not measured" in part]
    assert parts["head, tiny"]["largest difference, nats"] < 1e-4
    for engine in ("transformers", "vllm"):
        agree = parts[f"agree, tiny {engine}"]
        assert agree["sampled - scored"]["worst"] < 0.05
        assert agree["scored, cache read - scored"]["worst"] < 0.05
    checked = parts["references, policy transformers"]
    assert checked["source"] == "recorded" and checked["worst"] < 1e-3, checked["text"]
    assert parts["rows, vllm"]["rows"] == 8 and parts["rows, vllm"]["logprob_check"]["agreed"]
    assert parts["vllm, tiny 4096 V1"]["tokens"] > 0
    del found["head, tiny"]
    out.write_text(json.dumps(found))
    run("gpu.py", "--tiny", "--out", str(out))
    again = json.loads(out.read_text())
    assert again.pop("head, tiny")["positions"] and again == found, "only what was missing is run"


def test_what_there_is_no_time_for_says_so(tmp_path: Path) -> None:
    run("gpu.py", "--seconds", "1", "--parts", "head,vllm", "--out", str(tmp_path / "results.json"))
    found = json.loads((tmp_path / "results.json").read_text())
    del found["machine"]
    assert found.keys() >= {"vllm, 0.5B 2048", "vllm, 0.5B 8192 V1", "head, 0.5B"}
    assert all("s were left" in part["not measured"] for part in found.values())


def test_every_step_runs_at_two_sizes(tmp_path: Path) -> None:
    report = run("scale.py", "--dir", str(tmp_path / "runs"), "--rows", "200", "--json")
    few, many = (report["steps"][rows] for rows in ("40", "200"))
    assert list(few) == list(many)
    assert all(step["peak_mb"] > 0 for step in many.values())
