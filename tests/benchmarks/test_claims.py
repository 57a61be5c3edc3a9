"""The study of the claims: what is declared fits together, differences are paired, verdicts add up,
and a chain really runs, is measured by the oracle and goes on where it was ended."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import claims, claims_rounds
from benchmarks.claims_grid import (
    PBAA,
    PRIMARY,
    PRIMARY_SEEDS,
    SSO,
    STUDIES,
    Chain,
    Claim,
    chains,
    declared,
)
from benchmarks.claims_report import (
    END,
    START,
    Estimate,
    differences,
    estimate,
    verdict,
    write_page,
)
from benchmarks.claims_rounds import Rounds, wins
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
    given |= {"arm": SSO.name, "against": PBAA.name, "wants": wants, "margin": margin, "at": "end"}
    return Claim(**given | others)


def test_every_claim_is_about_arms_that_are_run() -> None:
    assert len({one.text for one in declared() if one.study == "primary"}) == 22
    for one in declared():
        arms = {arm.name for arm in STUDIES[one.study][2]} | {"start"}
        if one.study == "secondary":
            arms |= {arm.name for arm in PRIMARY}
        assert {one.arm, one.against} <= arms and one.margin > 0


def test_the_grid() -> None:
    """Four seeds on each of two checkpoints, five arms: 40 primary chains; none in both halves."""
    keys = [chain.key for half in (1, 2) for chain in chains(half)]
    assert len(keys) == len(set(keys))
    assert sum(key.startswith("primary/") for key in keys) == 40
    assert 2 * len(PRIMARY_SEEDS) == 8


def test_student_interval() -> None:
    """Three values 1, 2, 3: t(.975, 2) = 4.302653, s = 1, so 4.302653 / sqrt(3)."""
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert estimate([5.0]).half == math.inf


def test_differences_are_paired() -> None:
    lines = [line(SSO.name, seed, 3, 0.5 + seed / 10) for seed in (1, 2, 3)]
    lines += [line(PBAA.name, seed, 3, seed / 10) for seed in (2, 1)]
    lines += [line(SSO.name, 1, 0, 9.0), line(SSO.name, 1, 2, 9.0, on="round")]
    lines += [line(SSO.name, 1, 3, 9.0, study="length", checkpoint="rambling")]
    assert differences(claim(), lines) == pytest.approx([0.5, 0.5])
    assert differences(claim(against="start"), lines) == pytest.approx([0.6 - 9.0])
    rows = [line(SSO.name, 1, n, n / 10, on="round") for n in (0, 1, 2)]
    assert differences(claim(against="start", at="data"), lines[:3] + rows) == pytest.approx([0.2])
    growth = claim(metric="tokens_growth", against="start")
    twice = [line(SSO.name, 1, 0, 50.0), line(SSO.name, 1, 3, 100.0)]
    assert differences(growth, twice) == pytest.approx([math.log(2)])


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


def test_the_page_keeps_what_people_wrote(tmp_path: Path) -> None:
    page = tmp_path / "claims.md"
    page.write_text(f"# Claims\n\nBy hand.\n\n{START}\nthe table before\n{END}\n\nAlso by hand.\n")
    lines = [line(SSO.name, seed, 3, 0.9 + seed / 1000) for seed in PRIMARY_SEEDS]
    lines += [line(PBAA.name, seed, 3, 0.5) for seed in PRIMARY_SEEDS]
    lines += [line(PBAA.name, seed, 0, 0.6) for seed in PRIMARY_SEEDS]
    write_page(lines, page)
    text = page.read_text()
    assert text.startswith("# Claims\n\nBy hand.\n") and text.endswith("\nAlso by hand.\n")
    assert "the table before" not in text and "| shipped | pbaa | 0.500 ± 0.000 |" in text
    kept = next(row for row in text.splitlines() if "better than PBAA, after the last" in row)
    assert "+0.405" in kept and "**holds**" in kept
    assert (tmp_path / "claims.png").stat().st_size > 1000
    assert len((tmp_path / "claims.jsonl").read_text().splitlines()) == len(lines)
    assert not (tmp_path / "claims_length.png").exists()


@pytest.mark.slow
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
