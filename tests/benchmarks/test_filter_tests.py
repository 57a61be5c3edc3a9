"""benchmarks/filter_tests.py on real runs: one training for each set of rows, other questions."""

from pathlib import Path

from benchmarks.filter_tests import CONTRAST, FIRST, measured, real_story, round_after, rule
from sso_data.config.run import FilterConfig
from sso_data.core.records import Message
from tests.exporting.making import make_run
from tests.factories import make_row


def test_tests_that_keep_the_same_rows_share_a_training(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [make_row(index) for index in range(4)])
    chain, contrast = (
        {
            "where": "run: shorter",
            **measured(run, FilterConfig.model_validate(one), rule("shorter")),
        }
        for one in (FIRST, FIRST | CONTRAST)
    )
    assert chain["kept"] == 4 and chain["pairs"] == contrast["pairs"]
    after = {"before": 0.0, "after": 1.0, "error": 0.5}
    assert round_after(contrast, [chain]) is None, "not trained"
    assert round_after(contrast, [chain | after]) == after
    assert round_after(contrast | {"where": "other"}, [chain | after]) is None
    none = measured(run, FilterConfig.model_validate(FIRST | {"max_tokens": 1}), rule("shorter"))
    assert round_after(none | {"where": "run: shorter"}, [chain | after]) is None


def test_a_real_round_is_judged_by_the_rule_on_questions_that_were_not_asked(
    tmp_path: Path,
) -> None:
    question = "Why is the sky blue?"
    run = make_run(
        tmp_path / "run",
        [make_row(0, messages=(Message(role="user", content=question),)), make_row(1)],
    )
    story = real_story(run, "Question")
    assert question not in story.held_out and len(set(story.held_out)) == 32
    assert [story.measure("", text) for text in ("Is it?", "It is.")] == [1.0, 0.0]
    assert story.training.model == story.run.model and story.training.lora.enabled
    assert real_story(run, "shorter").measure("", "two words") == -2
