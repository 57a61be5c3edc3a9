"""The generation benchmark runs to its end and says what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.long]

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "generate.py"
ALONE = {"ours_alone": 0, "needed_alone": 0}
STEPS = ("needed (contrast)", "needed (chain)")


def test_a_small_run_reports_every_side_with_the_same_tokens() -> None:
    command = [sys.executable, str(SCRIPT), "--prompts-count", "4", "--repeat", "1"]
    command += ["--sides=authors,raw,ours,needed", "--complete-first=0"]
    command += ["--filter=contrast:steered=contrast", "--filter=chain:steered=chain,closeness=9"]
    done = subprocess.run(
        [*command, "--max-tokens", "24", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)

    assert report["prompts"] == 4
    assert set(report["sides"]) == {"authors", "ours", "raw", *STEPS}
    for side in report["sides"].values():
        assert side["seconds"] > 0
        assert side["seconds"] == side["passes"][0]
    assert set(report["sides"]["authors"]["parts"]) == {"features", "sampling", "scoring"}
    assert set(report["sides"]["ours"]["parts"]) == {"vllm", "adapter", "pipeline"}
    assert set(report["sides"]["raw"]["parts"]) == {"sampling", "scoring"}
    assert {"authors / ours", "ours / raw"} <= set(report["ratios"])
    tokens = {name: side["tokens"] for name, side in report["sides"].items()}
    assert tokens["authors"] == tokens["ours"] == tokens["raw"]
    for test, name in zip(("contrast", "chain"), STEPS, strict=True):
        assert tokens[name] <= tokens["ours"]
        kept = report["sides"]["ours"]["kept"][test]
        assert report["sides"][name]["kept"] == {test: kept}
        assert report["pairs"][name] == {test: {"both": kept} | ALONE}
        assert report["ratios"][f"kept pairs per CPU second, {name} / raw"] > 0
    assert 0 < report["outside_engine"] < 1
    assert report["peak_rss_mib"] > 0
