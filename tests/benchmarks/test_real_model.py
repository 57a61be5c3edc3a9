"""The study on a real model: every arm is a valid iteration, the table is made of its numbers."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import real_model
from benchmarks.real_model import ARMS, read, settings, table
from sso_data.config.iteration import IterateConfig
from sso_data.config.loading import validated
from sso_data.config.run import FilterConfig

ARGUMENTS = Namespace(prompts=96, max_tokens=128, steps=12, engine="auto", threads=2)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_an_iteration(arm: str) -> None:
    config = validated(IterateConfig, settings(arm, ARGUMENTS, Path("h.jsonl")), origin="arm")
    assert config.generate.steering.features == (arm.split(", ")[0],)
    assert config.generate.filter == FilterConfig(), "what users get is what is measured"
    assert config.train.loss.objective == ("sso" if arm.endswith("sso") else "pairs")


def test_it_goes_on_with_the_arms_that_are_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(arm: str, arguments: Namespace) -> dict[str, Any]:
        asked.append(arm)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return {"rounds": [{"kept": 1, "rows": 2}]}

    results = tmp_path / "results.jsonl"
    words = ["real_model", "--work", str(tmp_path), "--results", str(results)]
    monkeypatch.setattr(real_model, "measured", measured)
    monkeypatch.setattr(sys, "argv", [*words, "--threads", "1"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(KeyboardInterrupt):
        real_model.main()
    assert list(read(results)) == ARMS[:1]
    real_model.main()
    assert list(read(results)) == ARMS and asked == [*ARMS[:2], *ARMS[1:]]


def test_the_table_holds_differences_with_intervals() -> None:
    first = {"kept": 5, "rows": 96, "accuracy_all": 0.75}
    last = {
        **{"kept": 7, "rows": 95, "accuracy_all": None},
        **{"held_out_score_first": 0.25, "held_out_score": 0.5},
        **{"held_out_score_difference": [0.25, -0.125, 0.625], "held_out_tokens_difference": None},
    }
    row = table({"Question, sso": {"rounds": [first, last]}}).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        *("Question, sso", "5 of 96, 7 of 95", "0.750, -", "0.250", "0.500"),
        *("+0.25 [-0.125, +0.625]", "-"),
    ]
