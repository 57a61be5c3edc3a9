"""The study of the claims: what is declared fits together, differences are paired, verdicts add up,
and a chain really runs, is measured by the oracle and goes on where it was ended."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import claims, claims_reward, claims_rounds
from benchmarks.claims_grid import (
    PBAA,
    PRIMARY,
    PRIMARY_SEEDS,
    REWARD,
    SSO,
    STUDIES,
    Chain,
    Claim,
    chains,
    declared,
)
from benchmarks.claims_reward import Rewarding
from benchmarks.claims_rounds import Rounds, keeping, wins
from benchmarks.claims_statistics import Estimate, differences, estimate, holm, p_value, verdict
from sso_data.demo import demo_config
from sso_data.evaluation.verdicts import Comparison
from sso_data.iteration.measure import labelled_comparison
from sso_data.world import policy_dir


def line(arm: str, seed: int, trained: int, value: float, **others: Any) -> dict[str, Any]:
    metrics = ("signal_accuracy", "on_policy", "tokens_plain", "unprompted", "well_formed")
    given = {"study": "primary", "checkpoint": "shipped", "on": "held-out"} | others
    key = f"{given['study']}/{given['checkpoint']}/{arm}/{seed}"
    return {
        "chain": key,
        "arm": arm,
        "seed": seed,
        "trained": trained,
        **dict.fromkeys(metrics, value),
        **given,
    }


def claim(wants: Any = "more", margin: float = 0.1, **others: Any) -> Claim:
    given: dict[str, Any] = {"text": "t", "study": "primary", "metric": "unprompted"}
    given |= {"arm": SSO.name, "against": PBAA.name, "wants": wants, "margin": margin}
    return Claim(**given | others)


def test_every_claim_but_one_is_about_arms_that_are_run() -> None:
    """38 were declared; the arm of one was cut (docs/claims_changes.yaml)."""
    not_run = []
    for one in declared():
        arms = {arm.name for arm in STUDIES[one.study][2]} | {"start"}
        if one.study == "secondary":
            arms |= {arm.name for arm in PRIMARY}
        assert one.margin > 0
        if not {one.arm, one.against} <= arms:
            not_run.append((one.study, one.text))
    assert len(declared()) == 38
    assert not_run == [("length", "SSO's grow less with g = 1")]


def test_the_grid() -> None:
    """Four seeds on each of two checkpoints, five arms: 40 primary chains; none in both halves."""
    keys = [chain.key for half in (1, 2) for chain in chains(half)]
    assert len(keys) == len(set(keys))
    assert sum(key.startswith("primary/") for key in keys) == 40
    assert 2 * len(PRIMARY_SEEDS) == 8


def test_a_chain_is_filtered_as_declared_whatever_the_default_is() -> None:
    found = demo_config().filter.model_copy(update=keeping(PBAA))
    assert (found.steering_test, found.gap) == ("chain", 0.0)


def test_student_interval() -> None:
    """Three values 1, 2, 3: t(.975, 2) = 4.302653, s = 1, so 4.302653 / sqrt(3)."""
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert estimate([5.0]).half == math.inf


def test_statistics_against_scipy() -> None:
    """Interval and p-value of the differences against its paired t test of the two arms."""
    from scipy.stats import ttest_rel

    one, other = [0.81, 0.75, 0.92, 0.66, 0.71], [0.70, 0.78, 0.80, 0.61, 0.73]
    values = [a - b for a, b in zip(one, other, strict=True)]
    expected = ttest_rel(one, other)
    interval = expected.confidence_interval(0.95)
    found = estimate(values)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert p_value(values, 0.0) == pytest.approx(expected.pvalue)
    shifted = ttest_rel([a + 0.02 for a in one], other)
    assert p_value(values, -0.02) == pytest.approx(shifted.pvalue)


def test_p_value_by_hand() -> None:
    """Of 1, 2, 3 against 0: t = 2 sqrt(3), and for 2 degrees p = 1 - t / sqrt(t^2 + 2)."""
    t = 2 * math.sqrt(3)
    assert p_value([1.0, 2.0, 3.0], 0.0) == pytest.approx(1 - t / math.sqrt(t * t + 2))
    assert p_value([1.0, 2.0, 3.0], 2.0) == pytest.approx(1.0)
    assert p_value([1.0, 1.0], 0.0) == 0.0 and p_value([1.0, 1.0], 1.0) == p_value([7.0], 0.0) == 1


def test_holm() -> None:
    """By hand: .01 x 4, .02 x 3, .03 x 2 raised to the one before, .9; and as the closure of
    Bonferroni's test, which is what Holm's method is: the worst set that holds the hypothesis."""
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    given = [0.2, 0.004, 0.04, 0.011, 0.009]
    sets = [s for n in range(1, 6) for s in itertools.combinations(range(5), n)]
    closed = [
        min(1.0, max(len(s) * min(given[i] for i in s) for s in sets if at in s)) for at in range(5)
    ]
    assert holm(given) == pytest.approx(closed)


def test_differences_are_paired() -> None:
    lines = [line(SSO.name, seed, 3, 0.5 + seed / 10) for seed in (1, 2, 3)]
    lines += [line(PBAA.name, seed, 3, seed / 10) for seed in (2, 1)]
    lines += [line(SSO.name, 1, 0, 9.0), line(SSO.name, 1, 2, 9.0, on="round")]
    lines += [line(SSO.name, 1, 3, 9.0, study="length", checkpoint="rambling")]
    started = claim(against="start")
    assert differences(claim(), "end", lines)["shipped"] == pytest.approx([0.5, 0.5])
    assert differences(started, "end", lines)["shipped"] == pytest.approx([0.6 - 9.0])
    rows = [line(SSO.name, 1, n, n / 10, on="round") for n in (0, 1, 2)]
    assert differences(started, "data", lines[:3] + rows)["shipped"] == pytest.approx([0.2])
    growth = claim(metric="tokens_growth", against="start")
    twice = [line(SSO.name, 1, 0, 50.0), line(SSO.name, 1, 3, 100.0)]
    assert differences(growth, "end", twice)["shipped"] == pytest.approx([math.log(2)])
    others = [line(arm, 1, 3, 0.5, checkpoint="second") for arm in (SSO.name, PBAA.name)]
    assert differences(claim(), "end", lines + others)["second"] == [0.0]


@pytest.mark.parametrize(
    ("wants", "mean", "half", "word"),
    [
        ("more", 0.2, 0.1, "holds"),
        ("more", 0.2, 0.3, "not shown"),
        ("more", 0.05, 0.01, "no difference"),
        ("more", 0.08, 0.05, "not shown"),
        ("more", -0.2, 0.1, "reversed"),
        ("less", -0.2, 0.1, "holds"),
        ("less", 0.2, 0.1, "reversed"),
        ("less", 0.0, 0.05, "no difference"),
        ("kept", -0.05, 0.04, "holds"),
        ("kept", -0.05, 0.06, "not shown"),
        ("kept", -0.2, 0.05, "reversed"),
        ("more", 0.5, math.inf, "not shown"),
    ],
)
def test_verdicts(wants: str, mean: float, half: float, word: str) -> None:
    assert verdict(claim(wants), Estimate(mean=mean, half=half, n=8)) == word
    assert verdict(claim(wants), estimate([])) == "not run"


def test_a_tie_is_half_a_win() -> None:
    assert wins([(0.5, 0.4), (0.4, 0.5), (0.3, 0.3)]) == [1.0, 0.0, 0.5]


def test_torn_results_are_left_out_and_cut(tmp_path: Path) -> None:
    chain = Chain(study="primary", checkpoint="shipped", arm=SSO, seed=1)
    file = tmp_path / "results-1.jsonl"
    whole = [{"on": "held-out", "trained": n} for n in (0, 3)]
    claims.note(file, chain, whole)
    torn = json.dumps({"chain": "primary/shipped/pbaa/1", "on": "held-out", "trained": 0})
    file.write_text(file.read_text() + torn + "\n" + torn[:9])
    assert [one["chain"] for one in claims.results(tmp_path)] == [chain.key] * 2
    claims.note(file, Chain(study="primary", checkpoint="shipped", arm=PBAA, seed=1), whole)
    assert len(list(claims.results(tmp_path))) == 5


@pytest.mark.slow
def test_a_reward_model_is_trained_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its comparisons give lengths in tokens, which are more than the words."""
    for name, number in {"BASE": 12, "JUDGED": 12, "EPOCHS": 1.0}.items():
        monkeypatch.setattr(claims_reward, name, number)
    asked: list[Comparison] = []

    def heard(one: Comparison) -> Comparison:
        asked.append(one)
        return one

    monkeypatch.setattr(
        claims_reward, "labelled_comparison", lambda *given: heard(labelled_comparison(*given))
    )
    chain = Chain(study="reward", checkpoint="shipped", arm=REWARD[0], seed=1)
    policies = dict.fromkeys(("shipped", "second", "rambling"), policy_dir())
    (found,) = Rewarding(chain, tmp_path, policies).run()
    assert found["rows"] == len(asked) > 0 and 0 <= found["reward_accuracy"] <= 1
    assert all(one.a.num_tokens > len(one.a.text.split()) for one in asked)


@pytest.mark.slow
@pytest.mark.long
def test_a_chain_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small rounds; ended before the last measurement, it ends in the same numbers."""
    for name, number in {"PROMPTS": 12, "HELD_OUT": 8, "STEPS": 1, "ROUNDS": 2}.items():
        monkeypatch.setattr(claims_rounds, name, number)
    chain = Chain(study="primary", checkpoint="shipped", arm=PBAA, seed=22)
    policies = {"shipped": policy_dir()}
    expected = Rounds(chain, tmp_path / "whole", policies).run()
    assert [(one["on"], one["trained"]) for one in expected] == [
        ("held-out", 0),
        ("round", 0),
        ("round", 1),
        ("held-out", 2),
    ]
    assert all(0 <= one["unprompted"] <= 1 and one["on_policy"] < 0 for one in expected)
    ended = Rounds(chain, tmp_path / "ended", policies)
    measured = ended._held_out

    def dies(place: Path, policy: Path, trained: int) -> dict[str, Any]:
        if trained:
            raise KeyboardInterrupt
        return measured(place, policy, trained)

    monkeypatch.setattr(ended, "_held_out", dies)
    with pytest.raises(KeyboardInterrupt):
        ended.run()
    assert Rounds(chain, tmp_path / "ended", policies).run() == expected
