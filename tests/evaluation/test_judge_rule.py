"""The judge by rule: checks of the row's own principles, ties, and rows that it cannot judge."""

from dataclasses import replace
from pathlib import Path

import pytest

from sso_data.config.evaluation import JudgeConfig, judge_tree
from sso_data.core.errors import InputError
from sso_data.core.records import Row
from sso_data.evaluation.judges import judge_identity, open_judge
from sso_data.evaluation.verdicts import NoVerdict, Verdict, signal_comparison
from tests.evaluation.sides import judged
from tests.factories import make_row

RULE = JudgeConfig(kind="rule")


def steered_row(good: str, bad: str, *features: str) -> Row:
    row = make_row(texts={"good": good, "bad": bad})
    return replace(row, steering=replace(row.steering, features=features))


def verdict(good: str, bad: str, *features: str, config: JudgeConfig = RULE) -> Verdict | NoVerdict:
    (found,) = judged(open_judge(config), [signal_comparison(steered_row(good, bad, *features))])
    return found


@pytest.mark.parametrize(
    ("good", "bad", "features", "preference", "scores"),
    [
        ("One.", "One. Two.", ("One sentence",), 1.0, (1.0, 0.5)),
        ("One. Two.", "One.", ("One sentence",), 0.0, (0.5, 1.0)),
        ("Yes.", "No.", ("Question",), 0.5, (0.0, 0.0)),
        ("A? B?", "No.", ("One sentence", "Question", "Safety"), 0.0 + 1.0, (0.75, 0.5)),
    ],
)
def test_the_answer_that_follows_the_good_sides_better_is_better(
    good: str, bad: str, features: tuple[str, ...], preference: float, scores: tuple[float, float]
) -> None:
    """Of several principles the mean counts; one without a check does not."""
    found = verdict(good, bad, *features)
    assert isinstance(found, Verdict)
    assert (found.preference, found.scores) == (preference, scores)


@pytest.mark.parametrize("features", [("Safety",), ()])
def test_without_a_check_there_is_no_verdict(features: tuple[str, ...]) -> None:
    found = verdict("a", "b", *features)
    assert isinstance(found, NoVerdict)
    assert found.reason == "no_check"


def test_another_catalogue_is_named_after_a_colon_and_decides_the_identity(tmp_path: Path) -> None:
    assert judge_tree("rule") == {"kind": "rule"}
    assert judge_tree("rule:short") == {"kind": "rule", "principles": "short"}
    short = JudgeConfig(**judge_tree("rule:short"))
    found = verdict("Why?", "No.", "Engagement", config=short)
    assert isinstance(found, Verdict)
    assert found.preference == 1.0
    assert judge_identity(short)["checks"] != judge_identity(RULE)["checks"]
    with pytest.raises(InputError, match="no such directory"):
        judge_identity(JudgeConfig(kind="rule", principles=tmp_path / "none"))
    with pytest.raises(ValueError, match="only a judge of kind rule"):
        JudgeConfig(kind="oracle", principles=tmp_path)
