"""The training benchmark runs to its end, and its sides compute the same loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.long]

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train.py"
SMALL = ("--vocab", "8000", "--length", "96", "--rows", "2", "--hidden", "64", "--repeat", "1")


def test_a_small_run_reports_every_side_with_the_same_loss() -> None:
    command = [sys.executable, str(SCRIPT), *SMALL, "--threads", "1", "--json"]
    sides = ["authors", "ours", "trl", "ours-one-pair"]
    done = subprocess.run(
        [*command, "--sides", ",".join(sides)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)

    assert list(report["sides"]) == sides
    for side in report["sides"].values():
        assert side["seconds"] > 0
        assert len(side["steps"]) == 1
        assert side["peak_mib"] > 0
    first = {name: side["first_loss"] for name, side in report["sides"].items()}
    assert first["authors"] == pytest.approx(first["ours"], rel=1e-4)
    assert first["trl"] == pytest.approx(first["ours-one-pair"], rel=1e-4)
    assert set(report["aims"]) <= set(report["ratios"])


def test_rows_sorted_by_length_have_less_padding_and_the_same_loss() -> None:
    command = [sys.executable, str(SCRIPT), *SMALL[:4], "--hidden", "64", "--threads", "1"]
    command += ["--rows", "8", "--micro", "2", "--shortest", "0.1", "--repeat", "1"]
    command += ["--warm-up", "0", "--sides", "ours,ours-unsorted,ours-eager", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    sides = json.loads(done.stdout)["sides"]
    assert 0 < sides["ours"]["padding"] < sides["ours-unsorted"]["padding"] < 1
    losses = [side["first_loss"] for side in sides.values()]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


def test_an_unknown_side_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--sides", "ours,theirs"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "unknown side 'theirs'" in done.stderr
