"""References: recorded where they hold, scored where they do not, never silently wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sso_data.config.training import LossConfig, ReferenceConfig
from sso_data.core.errors import TrainError
from sso_data.training.encode import EncodedRow
from sso_data.training.loss import PREFERENCE_TERMS
from sso_data.training.reference import (
    Nats,
    ReferenceReport,
    loss_difference,
    model_scorer,
    resolve_references,
)
from tests.training.models import random_rows


class Shifted:
    """A scorer that gives the rows' own numbers plus `shift` [C, S] nats; it counts rows.

    It dies after `dies_after` rows.
    """

    def __init__(self, truth: Sequence[EncodedRow], shift: Any = 0.0) -> None:
        self.truth = {row.id: row.ref_CS for row in truth}
        self.shift = np.zeros((3, 2)) + shift
        self.scored: list[str] = []
        self.dies_after = 10**9

    def __call__(self, rows: Sequence[EncodedRow]) -> Iterator[tuple[list[int], Nats]]:
        for position in reversed(range(len(rows))):
            if len(self.scored) >= self.dies_after:
                raise KeyboardInterrupt
            self.scored.append(rows[position].id)
            yield [position], self.truth[rows[position].id][None] + self.shift


ROWS = random_rows(100, seed=5)
BLANK = [replace(row, ref_CS=np.full((3, 2), np.nan)) for row in ROWS]
BASE_UP = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
BOTH_UP = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])


def resolve(
    rows: Sequence[EncodedRow],
    scorer: Any,
    mode: Any = "auto",
    loss: LossConfig | None = None,
    **options: Any,
) -> Any:
    return resolve_references(
        rows, scorer, loss or LossConfig(), ReferenceConfig(mode=mode), **options
    )


def test_what_the_loss_sees() -> None:
    one = np.array([[[-10.0, -4.0]]])
    other = np.array([[[-9.0, -4.5]]])
    tokens = np.array([[[5.0, 2.0]]])
    assert loss_difference(one, other, tokens, LossConfig()) == pytest.approx(0.45)
    dpo = LossConfig(type="dpo", beta=0.1)
    assert loss_difference(one, other, tokens, dpo) == pytest.approx(0.15)


def test_the_report_says_what_differs_and_why() -> None:
    report = ReferenceReport(
        source="recorded", rows=100, checked_rows=64, tolerance=0.05, worst=0.0031
    )
    assert str(report) == (
        "references from the data: the log-probs of sampling and those of this training put D at "
        "step 0 at most 0.0031 from 0 in 95 % of 64 rows (tolerance 0.05)"
    )
    for formats, why in (
        (("bfloat16", "float32"), "compute in float32 there and bfloat16 here"),
        (("float32", "float32"), "both compute in float32, by different kernels"),
        (("float32", None), "how the engine did is not recorded"),
    ):
        assert why in str(replace(report, formats=formats))


class TestAuto:
    def test_recorded_ones_that_hold_are_taken_after_a_look_at_64_rows(self) -> None:
        scorer = Shifted(ROWS, 0.01)
        filled, report = resolve(ROWS, scorer)
        assert (report.source, report.checked_rows, report.scored_rows) == ("recorded", 64, 0)
        assert len(set(scorer.scored)) == 64
        assert report.worst <= 0.05
        for one, other in zip(filled, ROWS, strict=True):
            assert np.array_equal(one.ref_CS, other.ref_CS)

    def test_those_that_do_not_are_scored_anew(self) -> None:
        filled, report = resolve(ROWS, Shifted(ROWS, BASE_UP))
        assert (report.source, report.checked_rows, report.scored_rows) == ("scored", 64, 100)
        assert report.worst > 0.05
        for one, other in zip(filled, ROWS, strict=True):
            assert np.array_equal(one.ref_CS, other.ref_CS + BASE_UP)

    @pytest.mark.parametrize("term", [0, 1, 2])
    @pytest.mark.parametrize("side", [0, 1])
    def test_each_of_the_six_cells_is_checked(self, term: int, side: int) -> None:
        shift = np.zeros((3, 2))
        shift[term, side] = 3.0
        assert resolve(ROWS, Shifted(ROWS, shift))[1].source == "scored"

    def test_five_rows_in_a_hundred_may_be_off(self) -> None:
        off = {row.id for row in ROWS[::25]}
        rows = [replace(r, ref_CS=r.ref_CS - BASE_UP * 20 * (r.id in off)) for r in ROWS]
        config = ReferenceConfig(check_rows=100)
        _, report = resolve_references(rows, Shifted(ROWS), LossConfig(), config)
        assert report.source == "recorded"

    def test_totals_are_judged_through_beta(self) -> None:
        for beta, source in ((0.04, "recorded"), (0.06, "scored")):
            loss = LossConfig(type="dpo", beta=beta)
            assert resolve(ROWS, Shifted(ROWS, BASE_UP), loss=loss)[1].source == source

    def test_a_shift_that_cancels_in_d_is_none_to_a_loss_of_totals(self) -> None:
        loss = LossConfig(type="dpo")
        assert resolve(ROWS, Shifted(ROWS, BOTH_UP), loss=loss)[1].source == "recorded"

    def test_rows_without_scores_are_scored_and_the_others_kept(self) -> None:
        rows = [*ROWS[:70], *BLANK[70:]]
        filled, report = resolve(rows, Shifted(ROWS, 0.001))
        assert (report.source, report.scored_rows) == ("both", 30)
        assert np.array_equal(filled[0].ref_CS, ROWS[0].ref_CS)
        assert np.array_equal(filled[99].ref_CS, ROWS[99].ref_CS + 0.001)

    def test_a_dataset_without_scores_is_scored(self) -> None:
        filled, report = resolve(BLANK, Shifted(ROWS))
        assert (report.source, report.checked_rows, report.scored_rows) == ("scored", 0, 100)
        assert np.array_equal(filled[3].ref_CS, ROWS[3].ref_CS)

    def test_only_the_objectives_terms_count(self) -> None:
        loss = LossConfig(objective="pairs")
        shift = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
        assert resolve(ROWS, Shifted(ROWS, shift), loss=loss)[1].source == "recorded"

    @pytest.mark.parametrize("base", ["simpo", "orpo"])
    def test_a_loss_without_reference_asks_for_nothing(self, base: Any) -> None:
        scorer = Shifted(ROWS)
        _, report = resolve(BLANK, scorer, "strict", LossConfig(type=base))
        assert report.source == "not_needed"
        assert scorer.scored == []


class TestOtherModes:
    def test_strict_takes_what_holds(self) -> None:
        assert resolve(ROWS, Shifted(ROWS), "strict")[1].source == "recorded"

    def test_strict_refuses_what_does_not(self) -> None:
        with pytest.raises(TrainError, match=r"differ from this model's: .*tolerance 0.05"):
            resolve(ROWS, Shifted(ROWS, BASE_UP), "strict")

    def test_strict_refuses_missing_ones(self) -> None:
        with pytest.raises(TrainError, match="1 of 100 rows have no recorded log-probs"):
            resolve([*ROWS[:99], BLANK[99]], Shifted(ROWS), "strict")

    def test_rescore_looks_at_none_of_them(self) -> None:
        scorer = Shifted(ROWS, BASE_UP)
        filled, report = resolve(ROWS, scorer, "rescore")
        assert (report.source, report.worst, len(scorer.scored)) == ("scored", None, 100)
        assert np.array_equal(filled[0].ref_CS, ROWS[0].ref_CS + BASE_UP)

    def test_scores_that_are_no_numbers_stop(self) -> None:
        with pytest.raises(TrainError, match=r"not finite; rows \['row-99'\]"):
            resolve(ROWS, Shifted(ROWS, np.inf), "rescore")


class TestCache:
    def test_a_second_time_nothing_is_scored(self, tmp_path: Path) -> None:
        cache = tmp_path / "deep" / "references.npz"
        first, _ = resolve(BLANK, Shifted(ROWS), cache=cache, model_key="m")
        scorer = Shifted(ROWS, 5.0)
        second, report = resolve(BLANK, scorer, cache=cache, model_key="m")
        assert scorer.scored == []
        assert report.source == "scored"
        for one, other in zip(first, second, strict=True):
            assert np.array_equal(one.ref_CS, other.ref_CS)

    @pytest.mark.parametrize("change", ["model", "rows", "terms", "file"])
    def test_another_question_is_asked_anew(self, tmp_path: Path, change: str) -> None:
        cache = tmp_path / "references.npz"
        resolve(BLANK, Shifted(ROWS), cache=cache, model_key="m")
        if change == "file":
            cache.write_bytes(cache.read_bytes()[:50])
        scorer = Shifted(ROWS)
        resolve(
            BLANK[:99] if change == "rows" else BLANK,
            scorer,
            loss=LossConfig(objective="pairs" if change == "terms" else "sso"),
            cache=cache,
            model_key="n" if change == "model" else "m",
        )
        assert len(scorer.scored) >= 99

    def test_an_interrupted_scoring_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sso_data.training.reference._SAVE_SECONDS", -1.0)
        cache, dying = tmp_path / "references.npz", Shifted(ROWS)
        dying.dies_after = 40
        with pytest.raises(KeyboardInterrupt):
            resolve(BLANK, dying, cache=cache)
        scorer = Shifted(ROWS)
        filled, _ = resolve(BLANK, scorer, cache=cache)
        assert len(scorer.scored) == 60
        assert not set(scorer.scored) & set(dying.scored)
        assert np.array_equal(filled[50].ref_CS, ROWS[50].ref_CS)


class TestModelScorer:
    """On rows that `generate` made with the same policy."""

    def test_recorded_log_probs_are_what_the_model_gives(
        self, policy: Any, encoded: list[EncodedRow]
    ) -> None:
        found = np.full((len(encoded), 3, 2), np.nan)
        for positions, nats in model_scorer(policy, PREFERENCE_TERMS, pad_id=0)(encoded):
            found[positions] = nats
        recorded = np.stack([row.ref_CS for row in encoded])
        np.testing.assert_allclose(found, recorded, atol=2e-4)
        _, report = resolve(encoded, model_scorer(policy, PREFERENCE_TERMS, pad_id=0), "strict")
        assert report.source == "recorded"
        assert report.worst < 1e-4

    def test_batches_do_not_change_the_numbers(
        self, policy: Any, encoded: list[EncodedRow]
    ) -> None:
        for few in (1, 500):
            scorer = model_scorer(policy, ("base",), pad_id=0, batch_tokens=few)
            seen: list[int] = []
            for positions, nats in scorer(encoded[:20]):
                seen += positions
                expected = np.stack([encoded[p].ref_CS for p in positions])
                np.testing.assert_allclose(nats[:, 0], expected[:, 0], atol=2e-4)
                assert np.isnan(nats[:, 1:]).all()
            assert sorted(seen) == list(range(20))

    def test_another_models_rows_are_noticed(self, policy: Any, encoded: list[EncodedRow]) -> None:
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        with pytest.raises(TrainError, match="use the model that made the data"):
            resolve(encoded, model_scorer(policy, PREFERENCE_TERMS, pad_id=0), "strict")
