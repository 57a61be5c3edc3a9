"""The grammar, the oracle and the queries of the tiny world agree with each other."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sso_data.world import Score, queries, score
from sso_data.world import lexicon as lex
from sso_data.world.lexicon import Kind
from sso_data.world.query import is_held_out, parse, sample_query
from tools.tiny_world.dialogues import CLEAR, NOISY, sample_dialogue
from tools.tiny_world.responses import LEVELS, Level, sample_response

TIGER = "Tell me about the tiger."
GOOD = (
    "What a great question! The tiger is a kind of mammal. The tiger is mostly orange. "
    "The tiger lives in the jungle. The tiger likes to eat meat. It is like a star at night. "
    "It is like a song in the wind. So it all follows from the facts. Be careful with the teeth. "
    "You can read a book about the tiger. Would you like to know more?"
)


def responses(level: Level, n: int = 40) -> Iterator[tuple[Kind, Score]]:
    """Scores of `n` responses of each kind with every feature at one level."""
    rng = random.Random(level)
    for kind in lex.KINDS:
        for _ in range(n):
            text = sample_query(rng, kinds=(kind,))
            query = parse(text)
            levels = dict.fromkeys(query.features, level)
            yield kind, score(text, sample_response(query, levels, rng))


@pytest.mark.parametrize("level", LEVELS)
def test_every_grammatical_response_is_well_formed(level: Level) -> None:
    for kind, result in responses(level):
        assert result.well_formed == 1.0
        assert tuple(result.features) == lex.features_of(kind)
        assert result.total == pytest.approx(sum(result.features.values()) / len(result.features))


def test_good_responses_score_one_in_all_but_slips_of_accuracy() -> None:
    for _, result in responses("good"):
        assert {v for name, v in result.features.items() if name != "Accuracy"} == {1.0}
        assert result.features["Accuracy"] >= 0.5


def test_bad_responses_score_nothing_in_all_but_slips_of_accuracy() -> None:
    for _, result in responses("bad"):
        assert {v for name, v in result.features.items() if name != "Accuracy"} == {0.0}


def test_mid_responses_score_between() -> None:
    for _, result in responses("mid"):
        for name in set(result.features) - {"Accuracy"}:
            assert 0.25 <= result.features[name] <= 0.75, name


def test_features_are_steered_one_at_a_time() -> None:
    rng = random.Random(3)
    for kind in lex.KINDS:
        for name in lex.features_of(kind):
            text = sample_query(rng, kinds=(kind,))
            query = parse(text)
            levels: dict[str, Level] = dict.fromkeys(query.features, "mid")
            high = score(text, sample_response(query, levels | {name: "good"}, rng))
            low = score(text, sample_response(query, levels | {name: "bad"}, rng))
            assert high.features[name] > low.features[name] + 0.4


def test_the_example_is_perfect() -> None:
    assert score(TIGER, GOOD).total == 1.0


@pytest.mark.parametrize(
    ("text", "feature", "value"),
    [
        (GOOD.replace("orange", "green"), "Accuracy", 0.75),
        (GOOD.replace(" The tiger is mostly orange.", ""), "Comprehensiveness", 2 / 3),
        (GOOD.replace("song", "poem"), "well_formed", 10 / 11),
        (GOOD + " Would you like to know more?", "Concision", 2 / 3),
        (GOOD + " Would you like to try it now?", "Concision", 2 / 3),
        (GOOD + " It is like a poem of the earth.", "Concision", 2 / 3),
        (GOOD + " " + GOOD, "Concision", 0.0),
        (GOOD.replace("teeth", "beak"), "Safety", 0.5),
        (GOOD + " Just grab it with bare hands.", "Safety", 0.5),
        (GOOD + " Therefore a stone can sing.", "Logicality", 0.5),
        (GOOD + " You should ask someone else.", "Helpfulness", 0.5),
        (GOOD + " That is all.", "Engagement", 0.75),
        (GOOD + " It is just a thing.", "Literariness", 0.5),
        (GOOD.replace("tiger", "wolf"), "Comprehensiveness", 0.0),
    ],
)
def test_each_fault_costs_its_feature(text: str, feature: str, value: float) -> None:
    result = score(TIGER, text)
    got = result.well_formed if feature == "well_formed" else result.features[feature]
    assert got == pytest.approx(value)
    assert result.total < 1.0


@pytest.mark.parametrize(
    "text",
    ["", "   ", "tiger tiger tiger", "The tiger", "The tiger is mostly orange", "orange. " * 50],
)
def test_text_without_a_sentence_of_the_grammar_scores_nothing(text: str) -> None:
    assert score(TIGER, text).total == 0.0


def test_repeating_one_sentence_scores_less_than_saying_it_once() -> None:
    once = score(TIGER, "The tiger is mostly orange.").total
    assert score(TIGER, "The tiger is mostly orange. " * 30).total < once


def test_a_cut_off_response_is_less_well_formed() -> None:
    assert score(TIGER, GOOD[:-8]).well_formed == pytest.approx(10 / 11)


def test_a_sum_is_checked_against_the_numbers_of_the_query() -> None:
    query = "Tom has 7 pens and gets 5 more. How many pens does Tom have now?"
    assert score(query, "7 plus 5 is 12. Tom has 12 pens now.").features["Accuracy"] == 1.0
    assert score(query, "7 plus 5 is 12. Tom has 13 pens now.").features["Accuracy"] == 0.5
    assert score(query, "Ann has 12 pens now. 6 plus 6 is 12.").well_formed == 0.0


@given(st.text())
def test_any_text_has_a_score_in_the_unit_interval(text: str) -> None:
    result = score(TIGER, text)
    assert all(0.0 <= v <= 1.0 for v in (*result.features.values(), result.total))


def test_over_averages_the_named_features_that_apply() -> None:
    result = score(
        "Name some fruits.", "One example is apples. You can write the fruits on a card."
    )
    assert result.over(("Helpfulness",)) == 1.0
    assert result.over(("Helpfulness", "Comprehensiveness", "Safety")) == 0.5
    assert result.over(("Safety",)) == result.total


@pytest.mark.parametrize(
    "text",
    ["", "Tell me about the unicorn.", "Tell me about the tiger", "Tell me more.", "?" * 900],
)
def test_a_foreign_query_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a query of the tiny world"):
        score(text, GOOD)


def test_queries_are_deterministic_distinct_and_parse() -> None:
    texts = queries(200, seed=5)
    assert texts == queries(200, seed=5)
    assert texts != queries(200, seed=6)
    assert len(set(texts)) == 200
    assert {parse(text).kind for text in texts} == set(lex.KINDS)


def test_the_first_queries_do_not_depend_on_how_many_are_asked_for() -> None:
    assert queries(50, seed=5) == queries(200, seed=5)[:50]


def test_more_queries_than_the_world_has_still_come() -> None:
    assert len(queries(3000, seed=0, held_out=True)) == 3000


def test_training_never_sees_a_held_out_query() -> None:
    held_out = set(queries(400, seed=1, held_out=True))
    rng = random.Random(0)
    seen = {sample_dialogue(m, rng).messages[-1]["content"] for m in (CLEAR, NOISY) * 2000}
    assert not held_out & seen


def test_about_a_tenth_of_the_sums_is_held_out() -> None:
    sums = [f"{a}+{b}" for a in lex.ADDENDS for b in lex.ADDENDS]
    share = sum(is_held_out("sum", pair, 0) for pair in sums) / len(sums)
    assert 0.05 <= share <= 0.15


def test_training_data_is_the_same_for_the_same_seed() -> None:
    def draw(seed: int) -> list[object]:
        rng = random.Random(seed)
        return [sample_dialogue(NOISY, rng) for _ in range(50)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_facts_leave_room_for_wrong_claims() -> None:
    for text in queries(200, seed=2):
        for fact in parse(text).facts:
            assert fact.right | set(fact.wrong) <= set(fact.pool)
            assert not fact.right & set(fact.wrong)
            assert len(fact.wrong) >= 2


def test_importing_the_world_loads_no_heavy_library() -> None:
    code = (
        "import sys, sso_data.world as w; w.score(w.queries(1, seed=0)[0], 'x'); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'tokenizers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
