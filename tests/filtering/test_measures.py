"""What `show` says of a row is what the filter decided: the numbers miss the limits it missed."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sso_data.config.run import FilterConfig
from sso_data.core.records import STEERED_VIEWS, Cell, Row
from sso_data.filtering.filters import decide
from sso_data.filtering.measures import Measure, outcomes_of
from tests.factories import encode_rows, make_row, strict
from tests.filtering.test_against_naive import CONFIGS, rows

NUMBERS = ("not_steered", "off_policy", "gap", "too_short", "too_long")
TEXTS = ("empty", "truncated", "leak", "echo")


@settings(max_examples=150, deadline=None)
@given(some=st.lists(rows(), min_size=1, max_size=8), config=CONFIGS)
def test_the_reason_is_the_first_check_that_misses(some: list[Row], config: FilterConfig) -> None:
    records = encode_rows(some)
    decision = decide(records, config)
    for place in range(len(some)):
        reason, passed = decision.reason(place), True
        for test in outcomes_of(records[place : place + 1], config, decision.thresholds):
            missed = any(one.short != 0 for one in test.measures)
            if test.reason == reason:
                passed = False
                assert test.fails is not False
                if reason in NUMBERS:
                    assert test.why and any(one.short > 0 for one in test.measures)
                if reason in TEXTS:
                    assert test.sides and test.why
            elif passed:
                assert not test.fails and not missed and not test.sides, test


def test_by_how_much_it_missed() -> None:
    """m.bad.bad - m.good.bad = -0.5 + 0.53 = 0.03: 0.02 under the threshold of 0.05."""
    row = make_row(means={("good", "bad"): -0.53})
    config = strict(steered="off")
    found = {test.reason: test for test in outcomes_of(row, config, {})}
    assert found["gap"].fails and not found["off_policy"].fails
    chosen, rejected = found["gap"].measures
    assert (chosen.side, chosen.short) == ("chosen", 0)
    assert rejected.value == pytest.approx(0.03) and rejected.short == pytest.approx(0.02)
    assert found["gap"].why == "gap of rejected is 0.03, must be >= 0.05: 0.02 short"


def test_what_was_not_asked_for_neither_passes_nor_fails() -> None:
    row = make_row(means={("good", "good"): -2.5})
    known = {view: row.responses[view] for view in STEERED_VIEWS}
    logp: dict[Cell, float] = {("good", "good"): -20.0, ("bad", "good"): -8.0}
    early = replace(row, responses=known, logp=logp, rest_not_asked="not_steered")
    fails = {test.reason: test.fails for test in outcomes_of(early, strict(), {})}
    assert fails["not_steered"] is True and fails["gap"] is True
    assert fails["off_policy"] is None and fails["too_short"] is None
    assert fails["leak"] is False and fails["identical_chosen_rejected"] is False
    for reason in ("empty", "truncated", "identical_chosen_original", "incomplete_scores"):
        assert fails[reason] is None
    shorter = replace(early, responses={"bad": row.responses["bad"]}, logp={("bad", "bad"): -4.0})
    fails = {test.reason: test.fails for test in outcomes_of(shorter, strict(), {})}
    assert set(fails.values()) == {None}, "y+ could leak"


@pytest.mark.parametrize(
    ("value", "relation", "limit", "short"),
    [
        (0.0, ">", 0.0, 1e-9),
        (1e-12, ">", 0.0, 0.0),
        (0.05 - 1e-12, ">=", 0.05, 0.0),
        (0.31, "<=", 0.3, 0.01),
        (0.3, "<=", math.inf, 0.0),
    ],
)
def test_limits_are_met_as_the_filter_meets_them(
    value: float, relation: str, limit: float, short: float
) -> None:
    measure = Measure(what="", side="", value=value, relation=relation, limit=limit)  # type: ignore[arg-type]
    assert measure.short == pytest.approx(short)


def test_a_missing_number_is_no_number() -> None:
    row = make_row(means={("good", "bad"): None})
    found = outcomes_of(row, strict(), {})[-1].to_json()
    assert (found["reason"], found["fails"]) == ("gap", False), "a check before it drops the row"
    assert found["measures"][1]["value"] is None and found["measures"][1]["short"] is None


@pytest.mark.parametrize(
    ("value", "limit", "said"),
    [
        (11.32, 11.35, "11.32 <= 11.35"),
        (11.3501, 11.35, "11.3501 <= 11.35"),
        (11.35, 11.35, "11.35 <= 11.35"),
        (1.5134, 0.7, "1.51 <= 0.7"),
        (math.nan, 0.7, "- <= 0.7"),
        (0.5, math.nan, "0.5 <= -"),
        (200.0, 512.0, "200 <= 512"),
    ],
)
def test_a_number_and_its_limit_differ_as_they_do(value: float, limit: float, said: str) -> None:
    one = Measure(what="closeness", side="chosen", value=value, relation="<=", limit=limit)
    assert str(one) == said
