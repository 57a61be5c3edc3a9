"""When the signal is gone: each limit, what to change, and which policy is the last good one."""

from pathlib import Path
from typing import Any

import pytest

from sso_data.config.iteration import IterateConfig
from sso_data.config.loading import validated
from sso_data.iteration.report import Iterated
from sso_data.iteration.state import PolicyAt
from sso_data.iteration.stopping import Stop, after_training, before_training
from sso_data.iteration.table import remarks, shown, totals

GOOD: dict[str, Any] = {
    "prompts": 10,
    "rows": 9,
    "failed": 1,
    "kept": 5,
    "dropped": {"gap": 4},
    "kept_share": 5 / 9,
    "steered": 0.8,
    "accuracy_kept": 0.9,
    "gap": 0.1,
    "tokens_original": 100.0,
    "train_steps": 3,
}


def rounds(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [GOOD | {"round": number} | one for number, one in enumerate(changes, start=1)]


def stop_of(*changes: dict[str, Any], **limits: Any) -> Stop | None:
    return before_training(rounds(*changes), validated(IterateConfig, {"stop": limits}).stop)


def test_a_good_round_goes_on() -> None:
    assert stop_of({}, {}) is None
    assert stop_of({"accuracy_kept": None, "steered": None, "gap": None}) is None, "not measured"


@pytest.mark.parametrize(
    ("rule", "bad", "advice"),
    [
        ("signal_accuracy", {"accuracy_kept": 0.55}, "train.loss.g"),
        ("steered", {"steered": 0.1}, "preview"),
        ("gap", {"gap": 0.005}, "train.loss.g"),
        ("nothing_kept", {"kept": 0, "to_keep": "`--set a=b` keeps 9"}, "`--set a=b` keeps 9"),
        ("nothing_kept", {"kept": 0, "dropped": {"gap": 3, "off_policy": 6}}, "--dry-run"),
        ("length_growth", {"tokens_original": 301.0}, "concision_probability"),
    ],
)
def test_each_limit(rule: str, bad: dict[str, Any], advice: str) -> None:
    stop = stop_of({}, {}, bad)
    assert stop is not None and stop.rule == rule
    assert "round 3" in stop.reason
    assert any(advice in text for text in stop.advice)
    assert stop.good_until == (1 if rule == "length_growth" else 2)


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        ({"signal_accuracy": 0.5}, {"accuracy_kept": 0.55}),
        ({"steered": 0.05}, {"steered": 0.1}),
        ({"gap": 0}, {"gap": 0.005}),
        ({"length_growth": 4}, {"tokens_original": 301.0}),
    ],
)
def test_looser_limits_go_on(limits: dict[str, float], line: dict[str, Any]) -> None:
    assert stop_of({}, line, **limits) is None


def test_answers_that_grow_in_the_second_round_leave_the_first_policy() -> None:
    stop = stop_of({}, {"tokens_original": 900.0})
    assert stop is not None and stop.good_until == 0 and "9.0 times" in stop.reason


def test_a_training_that_ended_early() -> None:
    line = GOOD | {"round": 2, "train_stopped": "step 4: fell by 1.3 nats/token"}
    stop = after_training(line, validated(IterateConfig, {}))
    assert stop is not None and stop.good_until == 1 and "fell by 1.3" in stop.reason
    unlimited = {"train": {"stop": {"chosen_drop": None}}}
    assert after_training(line, validated(IterateConfig, unlimited)) is None
    assert after_training(GOOD | {"round": 2}, validated(IterateConfig, {})) is None


def test_the_books_over_all_rounds() -> None:
    assert totals(rounds({}, {})) == {
        **{"prompts": 20, "samples": 20, "rows": 18, "failed": 2, "kept": 10},
        "dropped.gap": 8,
    }
    with pytest.raises(AssertionError, match="failed"):
        totals(rounds({}, {"failed": 0}))
    with pytest.raises(AssertionError, match="dropped"):
        totals(rounds({}, {"kept": 4}))


def test_rows_that_were_not_asked_for_everything_are_counted_among_the_dropped() -> None:
    """A column and a sum of their own, where any round has such rows."""
    some = rounds({"not_asked": 3}, {"not_asked": None})
    assert totals(some)["not_asked"] == 3 and totals(some)["dropped.gap"] == 8
    policy = PolicyAt(path="model", fingerprint="f")
    told = Iterated(out=Path("out"), lines=some, policy=policy, stop=None, new_rounds=2, seconds=1)
    assert told.account.endswith(
        "rows 18 = kept 10 + 8 gap; of the dropped rows 3 were not asked for everything"
    )
    assert dict(shown(some))["dropped rows not asked for everything"] == ["3", "-"]
    assert not any("asked" in name for name, _ in shown(rounds({}, {})))
    with pytest.raises(AssertionError, match="not asked for everything"):
        totals(rounds({"not_asked": 5}))


def test_the_table_shows_what_is_there() -> None:
    table = dict(shown(rounds({}, {"accuracy_kept": None})))
    assert table["signal accuracy: kept / all rows"] == ["0.900 / -", "-"]
    assert table["kept share"] == ["55.6%", "55.6%"]
    assert not any("held out" in name for name in table)


INTERVALS = {
    "unprompted_interval": [0.55, 0.65],
    "accuracy_kept_interval": [0.85, 0.93],
    "tokens_original_interval": [90.0, 110.0],
}


def test_remarks_say_what_changed_and_what_to_do() -> None:
    """0.6 +- 0.05 and 0.4 +- 0.05 are sqrt(2) * 0.05 = 0.0707 around -0.2 apart."""
    worse: dict[str, Any] = {"accuracy_kept": 0.7, "tokens_original": 180.0}
    worse |= {"kept_share": 0.1, "unprompted": 0.4}
    worse |= {"accuracy_kept_interval": [0.6, 0.78], "unprompted_interval": [0.35, 0.45]}
    worse |= {"tokens_original_interval": [165.0, 195.0]}
    found = "\n".join(remarks(rounds({"unprompted": 0.6} | INTERVALS, worse)))
    for part in (
        "100.0 to 180.0, rose (+80 ",
        "concision",
        "0.900 to 0.700, fell (-0.2 ",
        "0.600 to 0.400, fell (-0.2 [-0.271, -0.129])",
        "kept 10%",
    ):
        assert part in found
    calm = "\n".join(remarks(rounds(INTERVALS, INTERVALS)))
    assert "concision" not in calm and "docs/filter.md" not in calm
    assert remarks(rounds({})) == []


def test_a_difference_that_is_none_is_not_told_as_one() -> None:
    """Two rounds that trained nothing were told as "rose: 0.630 to 0.633"."""
    same = [{"unprompted": value} | INTERVALS for value in (0.630, 0.633)]
    same[0]["unprompted_interval"], same[1]["unprompted_interval"] = [0.59, 0.67], [0.593, 0.673]
    (told,) = (text for text in remarks(rounds(*same)) if "score" in text)
    assert "0.630 to 0.633, no difference shown (+0.003 [-0.0536, +0.0596])" in told
    earlier = [{"unprompted": value} for value in (0.5, 0.9)]
    assert any("0.900, no interval is known" in text for text in remarks(rounds(*earlier)))


def test_held_out_differences_are_those_of_pairs() -> None:
    line = {"win_rate": 0.6, "win_rate_interval": [0.51, 0.68]}
    line |= {"held_out_score_difference": [0.003, -0.02, 0.026]}
    win, score = remarks(rounds(line))
    assert win.startswith("held out, against the first policy on the same prompts: win rate 0.600")
    assert "rose (+0.1 [+0.01, +0.18])" in win and "no difference shown (+0.003" in score


def test_a_round_that_trained_nothing_ends_the_iteration() -> None:
    stop = after_training(
        GOOD | {"round": 2, "train_changed_saved": 0.0}, validated(IterateConfig, {})
    )
    assert stop is not None and (stop.rule, stop.good_until) == ("nothing_trained", 1)
    assert "carry_float32" in stop.advice[1]
    moved = GOOD | {"round": 2, "train_changed_saved": 1e-6}
    assert after_training(moved, validated(IterateConfig, {})) is None
