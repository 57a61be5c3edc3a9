"""Collation spelt out, and the order of rows."""

import numpy as np
import torch

from sso_data.core.records import View
from sso_data.training.batch import Collator, LengthSortedSampler, PairRows
from sso_data.training.encode import EncodedRow, Ids
from sso_data.training.loss import DRAWN, PREFERENCE_TERMS, SEEN
from tests.training.models import arrays, random_rows

N = -100


def row(prompt: Ids, chosen: Ids, rejected: Ids, *ref: float) -> EncodedRow:
    nats = np.full((3, 2), np.nan)
    nats[0] = ref
    completions: dict[View, Ids] = {"good": chosen, "bad": rejected}
    return EncodedRow(id="x", prompts={"plain": prompt}, completions=completions, ref_CS=nats)


def test_the_docstrings_tensors() -> None:
    one = row(arrays(1, 2), arrays(5, 6), arrays(8), -2.5, -1.0)
    two = row(arrays(3), arrays(7), arrays(7, 7, 9), -3.0, -4.0)
    batch = Collator(terms=("base",), pad_id=0)([(4, one), (9, two)])
    assert set(batch) == {"row", "ref_nats", "base"}
    assert batch["row"].tolist() == [4, 9]
    assert batch["ref_nats"].dtype == torch.float32
    assert batch["ref_nats"][:, 0].tolist() == [[-2.5, -1.0], [-3.0, -4.0]]
    assert batch["ref_nats"][:, 1:].isnan().all()
    assert {name: tensor.tolist() for name, tensor in batch["base"].items()} == {
        "input_ids": [[1, 2, 5, 6], [3, 7, 0, 0], [1, 2, 8, 0], [3, 7, 7, 9]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
        "labels": [[N, N, 5, 6], [N, 7, N, N], [N, N, 8, N], [N, 7, 7, 9]],
    }


def test_the_six_sequences_of_a_row() -> None:
    """base: plain + y+ over y-; good: good + y+ over y-; bad: bad + y0 over y+."""
    views: tuple[View, ...] = ("plain", "good", "bad")
    prompts = {view: arrays(10 + index) for index, view in enumerate(views)}
    completions = {view: arrays(20 + index) for index, view in enumerate(views)}
    one = EncodedRow(id="x", prompts=prompts, completions=completions, ref_CS=np.zeros((3, 2)))
    batch = Collator(terms=PREFERENCE_TERMS, pad_id=0)([(0, one)])
    assert {name: batch[name]["input_ids"].tolist() for name in PREFERENCE_TERMS} == {
        "base": [[10, 21], [10, 22]],
        "good": [[11, 21], [11, 22]],
        "bad": [[12, 20], [12, 21]],
    }
    assert [tuple((SEEN[n], drawn) for drawn in DRAWN[n]) for n in PREFERENCE_TERMS] == [
        (("plain", "good"), ("plain", "bad")),
        (("good", "good"), ("good", "bad")),
        (("bad", "plain"), ("bad", "good")),
    ]
    assert set(SEEN) == set(DRAWN) == set(PREFERENCE_TERMS)


def test_padding_is_the_widest_sequence_of_its_term_only() -> None:
    rows = PairRows(random_rows(6), PREFERENCE_TERMS)
    batch = Collator(terms=PREFERENCE_TERMS, pad_id=0)([rows[i] for i in range(6)])
    for name in PREFERENCE_TERMS:
        width = max(sum(map(len, r.sequence(name, side))) for r in rows.rows for side in (0, 1))
        assert batch[name]["input_ids"].shape == (12, width)
    assert max(batch[name]["labels"].shape[1] for name in PREFERENCE_TERMS) == max(rows.lengths)


class TestOrder:
    lengths = tuple(int(n) for n in np.random.default_rng(0).integers(1, 100, 50))

    def epoch(self, number: int, per_step: int) -> list[int]:
        sampler = LengthSortedSampler(self.lengths, per_step, seed=7)
        sampler.set_epoch(number)
        assert len(sampler) == 50
        return list(sampler)

    def test_every_row_once_and_a_new_shuffle_each_epoch(self) -> None:
        assert sorted(self.epoch(0, 8)) == list(range(50))
        assert self.epoch(0, 8) == self.epoch(0, 8)
        assert set(self.epoch(0, 8)[:8]) != set(self.epoch(1, 8)[:8])

    def test_the_longest_of_a_step_come_first(self) -> None:
        order = self.epoch(0, 8)
        for start in range(0, 50, 8):
            step = [self.lengths[i] for i in order[start : start + 8]]
            assert step == sorted(step, reverse=True)

    def test_a_steps_rows_are_those_of_the_plain_shuffle(self) -> None:
        generator = torch.Generator().manual_seed(7)
        shuffled = torch.randperm(50, generator=generator).tolist()
        for start in range(0, 50, 8):
            assert set(self.epoch(0, 8)[start : start + 8]) == set(shuffled[start : start + 8])
