"""What the first round did in every one of the study's eight primary pairs, once more with one.

After one small round of training the policy answers far better by itself, and with g = 1 its pairs
keep more of the signal than with the base loss alone. The study did not declare this comparison,
and its page does not judge it. The margins are about half of the smallest difference of a pair
(docs/claims.jsonl).
"""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims_grid import PBAA, SSO_1, Arm, Chain
from benchmarks.claims_rounds import Rounds, measured
from sso_data.world import policy_dir

pytestmark = [pytest.mark.slow, pytest.mark.long]


def after_a_round(arm: Arm, work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is measured on the first policy's rows, and on those of the one it becomes."""
    chain = Chain(study="primary", checkpoint="shipped", arm=arm, seed=1)
    rounds = Rounds(chain, work, {"shipped": policy_dir()})
    first = rounds.first_run()
    model = rounds.round(1, policy_dir(), first, rounds.here / "round-1")
    second = rounds.here / "round-2" / "run"
    rounds.generate_rows(model, second, 2)
    return measured(first), measured(second)


def test_a_round_helps_and_the_steered_terms_keep_the_signal(tmp_path: Path) -> None:
    start, pbaa = after_a_round(PBAA, tmp_path)
    _, sso = after_a_round(SSO_1, tmp_path)
    for found in (pbaa, sso):
        assert found["unprompted"] - start["unprompted"] >= 0.13  # smallest: .26
        assert found["well_formed"] >= 0.98
    assert sso["signal_accuracy"] - pbaa["signal_accuracy"] >= 0.014  # smallest: .029
    assert sso["kept"] - pbaa["kept"] >= 6  # of 192; smallest: 12
