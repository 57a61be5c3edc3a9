"""The oracle, the judge's settings, and the pairs of a run before a judge."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from sso_data.config.evaluation import JudgeConfig, judge_tree
from sso_data.core.errors import ConfigError, ModelError
from sso_data.core.records import Message, Row
from sso_data.evaluation.judges import Oracle, judge_identity, open_judge
from sso_data.evaluation.statistics import mean_score, rate_of, tied
from sso_data.evaluation.verdicts import NoVerdict, Verdict, signal_comparison
from sso_data.world import lexicon, queries, score
from tests.evaluation.sides import compared, judged, verdicts_of
from tests.factories import make_row

ORACLE = JudgeConfig(kind="oracle")
QUERY = queries(1, seed=3)[0]


def world_row(index: int, good: str, bad: str, plain: str = "") -> Row:
    row = make_row(index, texts={"good": good, "bad": bad, "plain": plain})
    return replace(row, messages=(Message(role="user", content=QUERY),))


def best_and_worst() -> tuple[str, str]:
    """A warm sentence and a refusal: the first is better in Engagement and in Helpfulness."""
    return lexicon.WARM[0], lexicon.REFUSAL[0]


def test_the_oracle_scores_the_last_user_turn() -> None:
    good, bad = best_and_worst()
    better, worse = score(QUERY, good).total, score(QUERY, bad).total
    asked = [compared(good, bad, QUERY), compared(bad, good, QUERY), compared(good, good, QUERY)]
    found = verdicts_of(open_judge(ORACLE), asked)
    assert better > worse
    assert [one.preference for one in found] == [1, 0, 0.5]
    assert found[0].scores == (better, worse)


def test_each_verdict_comes_before_the_next_comparison_is_judged() -> None:
    """What an interruption loses is at most the comparison that was being judged."""
    asked = (compared("a", "b", QUERY, key=str(number)) for number in range(3))
    found = Oracle().compare(asked)  # type: ignore[arg-type]
    assert next(found).key == "0"
    assert next(asked).key == "1"


def test_foreign_prompts_are_refused_with_a_reason() -> None:
    ours = compared("a", "b", QUERY, key="ours")
    foreign = compared("a", "b", "Why is the sky blue?", key="foreign")
    first, second = judged(open_judge(ORACLE), [ours, foreign])
    assert isinstance(first, Verdict)
    assert isinstance(second, NoVerdict)
    assert second.reason == "foreign_prompt"
    assert "choose another judge" in second.detail


def test_the_signal_of_pairs() -> None:
    good, bad = best_and_worst()
    rows = [
        world_row(0, good, bad, plain=good),
        world_row(1, bad, good, plain=good),
        world_row(2, good, good, plain=bad),
        world_row(3, good, bad, plain=good),
        make_row(4),
    ]
    results = judged(open_judge(ORACLE), [signal_comparison(row) for row in rows])
    verdicts = [one for one in results if isinstance(one, Verdict)]
    high, low = score(QUERY, good).total, score(QUERY, bad).total
    assert [one.reason for one in results if isinstance(one, NoVerdict)] == ["foreign_prompt"]
    assert rate_of([one.preference for one in verdicts]).value == pytest.approx(2.5 / 4)
    assert tied(verdicts) == 1
    assert mean_score(verdicts, 0) == pytest.approx((3 * high + low) / 4)
    assert mean_score(verdicts, 1) == pytest.approx((2 * high + 2 * low) / 4)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("oracle", {"kind": "oracle"}),
        ("none", {"kind": "none"}),
        ("reward:org/rm", {"kind": "reward", "model": "org/rm"}),
        ("llm:org/big:free", {"kind": "llm", "model": "org/big:free"}),
        ("python:a.b:judge", {"kind": "python", "callable": "a.b:judge"}),
        ("python:dir/file.py:judge", {"kind": "python", "callable": "dir/file.py:judge"}),
    ],
)
def test_the_short_form(text: str, tree: dict[str, str]) -> None:
    assert judge_tree(text) == tree
    assert JudgeConfig.model_validate(judge_tree(text)).kind == tree["kind"]


@pytest.mark.parametrize("text", ["", "oracel", "oracle:x", "reward", "reward:", "llm", "python:a"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write it as oracle, rule, rule:CATALOGUE, reward:MODEL"):
        judge_tree(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "reward"},
        {"kind": "llm"},
        {"kind": "python"},
        {"kind": "reward", "model": "m", "endpoint": "http://host/v1"},
        {"kind": "llm", "model": "m", "endpoint": "http://user:key@host/v1"},
        {"kind": "llm", "model": "m", "temprature": 0},
    ],
    ids=str,
)
def test_settings_that_have_no_meaning(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        JudgeConfig.model_validate(wrong)


def test_an_identity_is_what_decides_verdicts() -> None:
    here = {"kind": "llm", "model": "big", "endpoint": "http://host:1/v1"}
    one = judge_identity(JudgeConfig.model_validate(here))
    assert one["model"] == "big@http://host:1/v1"
    assert one == judge_identity(JudgeConfig.model_validate(here | {"endpoint_in_flight": 2}))
    for other in ({"temperature": 1.0}, {"model": "small"}, {"structured": False}):
        assert one != judge_identity(JudgeConfig.model_validate(here | other))
    assert judge_identity(ORACLE) == {"kind": "oracle"}


def test_a_judge_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="no such model directory"):
        judge_identity(JudgeConfig(kind="reward", model="/nowhere/at/all"))
    with pytest.raises(ConfigError, match="no judge given: add --judge oracle"):
        open_judge(JudgeConfig())
