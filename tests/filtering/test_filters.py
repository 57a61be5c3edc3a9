"""The filter on rows a person can check by hand."""

import json
from dataclasses import replace
from typing import Any, Literal

import pytest

from sso_data.config.migration import earlier_values
from sso_data.config.run import FilterConfig
from sso_data.core.records import Cell, Row
from sso_data.filtering.filters import REASONS, Decision, decide, passing
from sso_data.runs.columns import Flag, flags_of
from tests.factories import encode_rows, make_row, strict

CLOSENESS = strict()
REFERENCE = FilterConfig(preset="reference")
STRICT = FilterConfig(preset="reference", strict_paper=True)
PRESETS = (CLOSENESS, REFERENCE)


def reasons(rows: list[Row], config: FilterConfig) -> list[str | None]:
    decision = decide(encode_rows(rows), config)
    return [decision.reason(i) for i in range(len(rows))]


@pytest.mark.parametrize("config", PRESETS, ids=lambda c: c.preset)
def test_a_perfect_row_alone_is_kept(config: FilterConfig) -> None:
    assert reasons([make_row()], config) == [None]


@pytest.mark.parametrize("config", PRESETS, ids=lambda c: c.preset)
@pytest.mark.parametrize("count", [2, 3, 4, 7, 10])
def test_identical_perfect_rows_are_all_kept(config: FilterConfig, count: int) -> None:
    # 0.1, 0.3 and 0.7 have no exact binary form: their mean is not always the number itself
    means: dict[Cell, float | None] = {("plain", "good"): -1.1, ("plain", "bad"): -1.3}
    means |= {("bad", "good"): -1.7}
    own: dict[Cell, float | None] = {("plain", "plain"): -1.1}
    assert reasons([make_row(means=means | own)] * count, config) == [None] * count


@pytest.mark.parametrize("config", [*PRESETS, STRICT])
def test_no_rows(config: FilterConfig) -> None:
    decision = decide(encode_rows([]), config)
    assert len(decision.kept) == 0
    assert {stage.left for stage in decision.funnel} == {0}
    assert decision.funnel[0].mean_gap_good is None


def test_no_rows_leave_relative_thresholds_open() -> None:
    quantiles = strict(closeness="q0.5", gap="q0.5")
    assert decide(encode_rows([]), quantiles).thresholds["closeness"] is None
    assert decide(encode_rows([]), REFERENCE).thresholds["mean_gap_good"] is None


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"texts": {"plain": "  "}}, "empty"),
        ({"tokens": {"bad": 0}}, "empty"),
        ({"finish": {"good": "length"}}, "truncated"),
        ({"finish": {"bad": "length"}}, "truncated"),
        ({"finish": {"plain": "unclosed_thinking"}}, "truncated"),
        ({"texts": {"good": "x", "bad": "x"}}, "identical_chosen_rejected"),
        ({"texts": {"good": "x", "plain": "x"}}, "identical_chosen_original"),
        ({"texts": {"bad": "x", "plain": "x"}}, "identical_rejected_original"),
        ({"texts": {"good": "As instructed, a kite is a toy."}}, "leak"),
        ({"texts": {"bad": "I AM INSTRUCTED to lie."}}, "leak"),
        ({"means": {("bad", "plain"): None}}, "incomplete_scores"),
        ({"means": {("good", "good"): float("nan")}}, "incomplete_scores"),
        ({"means": {("good", "good"): -1.0}}, "not_steered"),  # equal is not greater
        ({"means": {("bad", "good"): -1.0}}, "not_steered"),
        ({"means": {("bad", "good"): -0.9}}, "not_steered"),
        ({"means": {("bad", "bad"): -1.125}}, "not_steered"),
        ({"means": {("bad", "bad"): -1.2}}, "not_steered"),
        ({"means": {("good", "bad"): -1.125}}, "not_steered"),
    ],
)
@pytest.mark.parametrize("config", PRESETS, ids=lambda c: c.preset)
def test_what_drops_a_row(config: FilterConfig, spoilt: dict[str, Any], reason: str) -> None:
    row = make_row(**spoilt)
    assert reasons([row], config) == [reason]
    assert not passing(encode_rows([row]), config).any()


def test_a_response_that_repeats_its_principle_is_an_echo() -> None:
    """Six words in a row of its own side's text: five, or the other side's, are none."""
    asked = "Name one thing that it says of kites, and stop."
    steering = replace(make_row().steering, good=("Be right.", asked), bad=("Be dull.", "Ramble."))

    def row(good: str = "A kite.", bad: str = "A toy.") -> Row:
        return replace(make_row(texts={"good": good, "bad": bad}), steering=steering)

    six, five = "NAME one thing, that it says: a kite.", "Name one thing that it does: fly."
    assert reasons([row(good=six), row(good=five), row(bad=six)], CLOSENESS) == [
        "echo",
        None,
        None,
    ]
    kept = strict(drop_echoes=False)
    assert reasons([row(good=six)], kept) == [None]
    assert flags_of(row(good=six)) == Flag.ECHO_GOOD
    turned = replace(row(bad=six), steering=replace(steering, bad=(asked, "Ramble.")))
    assert flags_of(turned) == Flag.ECHO_BAD
    assert earlier_values("filter")["drop_echoes"] is False


def test_a_leak_in_the_original_is_no_leak() -> None:
    assert reasons([make_row(texts={"plain": "See the guidelines."})], CLOSENESS) == [None]


def test_the_ninth_log_prob_is_not_needed() -> None:
    assert ("good", "plain") not in make_row().logp
    assert reasons([make_row()], CLOSENESS) == [None]


def test_the_first_reason_counts() -> None:
    row = make_row(texts={"good": "", "bad": ""}, finish={"good": "length"})
    assert reasons([row], CLOSENESS) == ["empty"]


def test_length_bounds_hold_for_every_response() -> None:
    config = strict(min_tokens=4, max_tokens=16)
    rows = [make_row(tokens={"plain": n}) for n in (3, 4, 16, 17)]
    assert reasons(rows, config) == ["too_short", None, None, "too_long"]


def test_switches() -> None:
    cut, leak = make_row(finish={"good": "length"}), make_row(texts={"good": "As instructed."})
    assert reasons([cut, leak], strict(drop_truncated=False, drop_leaks=False)) == [None] * 2


def test_none_judges_texts_alone() -> None:
    """A row that is steered the wrong way round, and far from the policy, stays; a cut one goes."""
    wrong = make_row(means={("good", "good"): -9.0, ("bad", "bad"): -9.0, ("plain", "good"): -9.0})
    cut = make_row(finish={"good": "length"})
    assert reasons([wrong, cut], FilterConfig(preset="none")) == [None, "truncated"]
    assert reasons([wrong], strict()) == ["not_steered"]
    summary = decide(encode_rows([wrong]), FilterConfig(preset="none")).summary(
        FilterConfig(preset="none")
    )
    assert summary["thresholds"] == {"requested": {}, "resolved": {"min_tokens": 1}}


def test_strict_paper_drops_only_what_the_authors_drop() -> None:
    """Cut off, leaking or long rows stay in; equal rows can have no gap over their mean."""
    better: dict[Cell, float | None] = {("good", "good"): -0.25, ("bad", "bad"): -0.25}
    rows = [
        make_row(finish={"good": "length"}, texts={"good": "As instructed."}, means=better),
        make_row(),
        make_row(texts={"good": "x", "plain": "x"}),
    ]
    assert reasons(rows, STRICT) == [None, "gap", "identical_chosen_original"]
    assert reasons([make_row()] * 4, STRICT) == ["gap"] * 4


def test_closeness_is_one_sided_and_absolute() -> None:
    """The policy's own answer has -0.875: chosen may lie 0.3 below it, and anywhere above it."""
    rows = [make_row(means={("plain", "good"): mean}) for mean in (-1.175, -1.176, -0.6)]
    assert reasons(rows, CLOSENESS) == [None, "off_policy", None]


def test_an_offset_is_taken_off_the_whole_response() -> None:
    """Chosen lies 0.8 a token below: 6.4 nats of 8 tokens, 25.6 of 32; 4 of them do not count."""
    far: dict[Cell, float | None] = {("plain", "good"): -1.675}
    rows = [make_row(i, means=far, tokens={"good": n}) for i, n in enumerate((8, 32))]
    assert reasons(rows, CLOSENESS) == ["off_policy"] * 2
    assert reasons(rows, strict(closeness_offset=4.0)) == [None, "off_policy"]
    assert reasons(rows, strict(closeness_offset=16.0)) == [None] * 2


def test_contrast_leaves_the_plain_view_out() -> None:
    between: dict[Cell, float | None] = {("plain", "good"): -0.4, ("plain", "bad"): -2.5}
    wrong: dict[Cell, float | None] = {("good", "bad"): -0.4}
    rows = [make_row(means=between), make_row(means=between | wrong), make_row(means=wrong)]
    tests: tuple[Literal["chain", "contrast", "off"], ...] = ("chain", "contrast", "off")
    found = [reasons(rows, strict(steered=test, closeness=9.0, gap=0.0)) for test in tests]
    assert found[0] == ["not_steered"] * 3
    assert found[1] == [None, "not_steered", "not_steered"]
    assert found[2] == [None, "gap", "gap"]


def test_gap_is_absolute_for_both_sides() -> None:
    near: dict[Cell, float | None] = {("plain", "good"): -0.52, ("good", "good"): -0.5}
    rows = [make_row(means={**near, ("bad", "good"): mean}) for mean in (-0.55, -0.549)]
    assert reasons(rows, CLOSENESS) == [None, "gap"]


def test_quantiles_are_resolved_over_the_rows_left() -> None:
    """Distances 0.25 (the rejected one), 0.375, 0.5, 0.625; an unsteered row does not count."""
    rows = [make_row(means={("plain", "good"): -0.875 - d}) for d in (0.125, 0.375, 0.5, 0.625)]
    rows.append(make_row(means={("good", "good"): -9.0}))
    decision = decide(encode_rows(rows), strict(closeness="q0.5", gap="q0"))
    assert [decision.reason(i) for i in range(5)] == [
        None,
        None,
        "off_policy",
        "off_policy",
        "not_steered",
    ]
    assert decision.thresholds["closeness"] == 0.375
    assert decision.thresholds["gap"] == 1.5


def reference_rows() -> list[Row]:
    return [
        make_row(0),  # plain -1.0 and -1.125, gaps 1.5 and 1.5
        make_row(1, means={("good", "good"): -0.25, ("bad", "bad"): -0.25}),  # gaps 1.75
        make_row(2, means={("plain", "good"): -1.5}),  # less likely than the mean
        make_row(3, means={("bad", "good"): -0.75}),  # not steered, so in no mean
    ]


def test_reference_means_are_taken_over_the_rows_left() -> None:
    """Chosen: (-1 -1 -1.5)/3 = -1.1667; then gaps of rows 0 and 1: mean 1.625."""
    decision = decide(encode_rows(reference_rows()), REFERENCE)
    assert [decision.reason(i) for i in range(4)] == ["gap", None, "off_policy", "not_steered"]
    assert decision.thresholds["mean_logp_plain_chosen"] == pytest.approx(-3.5 / 3)
    assert decision.thresholds["mean_logp_plain_rejected"] == -1.125
    assert decision.thresholds["mean_gap_good"] == decision.thresholds["mean_gap_bad"] == 1.625


def test_funnel() -> None:
    rows = [*reference_rows(), make_row(4, texts={"plain": ""}, tokens={"good": 16})]
    funnel = {stage.reason: stage for stage in decide(encode_rows(rows), REFERENCE).funnel}
    left = {name: stage.left for name, stage in funnel.items() if stage.dropped}
    assert left == {"empty": 4, "not_steered": 3, "off_policy": 2, "gap": 1}
    assert funnel["rows"].left == 5 and funnel["rows"].dropped == 0
    assert funnel["rows"].mean_tokens_chosen == 9.6  # (8 + 8 + 8 + 8 + 16) / 5
    assert funnel["empty"].mean_tokens_chosen == 8
    assert funnel["empty"].mean_tokens_original == 8
    assert funnel["off_policy"].mean_logp_plain_chosen == -1.0
    assert funnel["off_policy"].mean_logp_plain_rejected == -1.125
    assert funnel["off_policy"].mean_logp_plain_pair == -1.0625
    assert funnel["off_policy"].mean_gap_good == 1.625
    assert funnel["gap"].mean_gap_bad == 1.75


def test_summary_is_json_and_adds_up() -> None:
    decision = decide(encode_rows(reference_rows()), REFERENCE)
    summary = json.loads(json.dumps(decision.summary(REFERENCE), allow_nan=False))
    assert summary["rows"] == summary["kept"] + sum(summary["dropped"].values()) == 4
    assert summary["thresholds"]["requested"] == "means"
    assert summary["config"]["preset"] == "reference"
    quantile = strict(closeness="q0.8")
    summary = decide(encode_rows(reference_rows()), quantile).summary(quantile)
    assert summary["thresholds"]["requested"] == {
        "closeness": "q0.8",
        "closeness_offset": 0.0,
        "gap": 0.05,
    }


def test_rows_that_do_not_add_up_are_refused() -> None:
    good = decide(encode_rows([make_row(), make_row(texts={"good": ""})]), CLOSENESS)
    with pytest.raises(AssertionError, match="2 rows"):
        Decision(
            reason_code=good.reason_code,
            reasons=REASONS,
            thresholds={},
            funnel=good.funnel[:1],
        )


def test_passing_leaves_out_what_needs_other_rows() -> None:
    far = encode_rows([make_row(means={("plain", "good"): -1.5}), make_row(1, texts={"bad": ""})])
    assert passing(far, CLOSENESS).tolist() == [False, False]
    assert passing(far, strict(closeness="q0.5")).tolist() == [True, False]
    assert passing(far, REFERENCE).tolist() == [True, False]


def test_of_each_prompt_the_row_with_the_largest_margin_is_kept() -> None:
    """Gaps by hand: 1.5 + 1.5, then 1.7 + 1.5; of equal margins the first sample stays."""
    best = strict(per_prompt="best")
    first, other = make_row(0), make_row(1)
    second = make_row(0, means={("bad", "good"): -2.2})
    samples = [first, *(replace(second, id=f"{first.id}.{number}") for number in (2, 3)), other]
    lost = "not_best_of_prompt"
    assert reasons(samples, best) == [lost, None, lost, None]
    assert reasons(samples[::-1], best) == [None, lost, None, lost]
    assert reasons(samples, CLOSENESS) == [None] * 4
    spoilt = [
        replace(one, responses=make_row(finish={"good": "length"}).responses) for one in samples
    ]
    assert reasons([first, spoilt[1], other], best) == [None, "truncated", None]
    assert passing(encode_rows([first]), best).all(), "it is not told from one row alone"
    dropped = decide(encode_rows(samples), best).dropped
    assert dropped[lost] == 2
