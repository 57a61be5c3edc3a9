"""Encoded rows to padded tensors, and the order in which rows come: shuffled, then by length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from sso_data.models.head import IGNORED
from sso_data.training.encode import EncodedRow, Ids
from sso_data.training.loss import PreferenceTerm

Batch = dict[str, Any]


class PairRows(Dataset[tuple[int, EncodedRow]]):
    """Encoded rows with their positions."""

    def __init__(self, rows: Sequence[EncodedRow], terms: Sequence[PreferenceTerm]) -> None:
        self.rows = rows
        self.terms = tuple(terms)
        self.lengths = [row.length(terms) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[int, EncodedRow]:
        return position, self.rows[position]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collator:
    """B rows to one batch: per term 2B right-padded sequences, the B preferred ones first.

    Two rows at positions 4 and 9 whose plain prompts are [1, 2] and [3], y+ [5, 6] and [7], and
    y- [8] and [7, 7, 9] become, with pad id 0 and the base term alone:

        row                      [4, 9]                     int64 [B]
        ref_nats                 [[[-2.5, -1.0], ...], ...]  float32 [B, C, S], nan: none recorded
        base.input_ids           [[1, 2, 5, 6],             int64 [2B, T]
                                  [3, 7, 0, 0],
                                  [1, 2, 8, 0],
                                  [3, 7, 7, 9]]
        base.attention_mask      [[1, 1, 1, 1],             int64 [2B, T]
                                  [1, 1, 0, 0],
                                  [1, 1, 1, 0],
                                  [1, 1, 1, 1]]
        base.labels              [[-100, -100, 5, 6],       int64 [2B, T], at their own positions
                                  [-100, 7, -100, -100],
                                  [-100, -100, 8, -100],
                                  [-100, 7, 7, 9]]
    """

    terms: tuple[PreferenceTerm, ...]
    pad_id: int

    def __call__(self, items: Sequence[tuple[int, EncodedRow]]) -> Batch:
        positions, rows = zip(*items, strict=True)
        ref = np.stack([row.ref_CS for row in rows])
        batch: Batch = {
            "row": torch.tensor(positions, dtype=torch.long),
            "ref_nats": torch.from_numpy(ref).float(),
        }
        for name in self.terms:
            pairs = [row.sequence(name, side) for side in (0, 1) for row in rows]
            batch[name] = pad_sequences(pairs, self.pad_id)
        return batch


def pad_sequences(pairs: Sequence[tuple[Ids, Ids]], pad_id: int) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels, int64 [N, T], of N (prompt, completion) pairs."""
    shape = (len(pairs), max(len(prompt) + len(completion) for prompt, completion in pairs))
    ids, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    for index, (prompt, completion) in enumerate(pairs):
        start, end = len(prompt), len(prompt) + len(completion)
        ids[index, :start], ids[index, start:end] = prompt, completion
        mask[index, :end] = 1
        labels[index, start:end] = completion
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def response_tokens(block: Mapping[str, Tensor]) -> Tensor:
    """Tokens of each response of one term's 2B sequences, [B, S]."""
    counts: Tensor = (block["labels"] != IGNORED).sum(-1)
    return counts.view(2, -1).T


class LengthSortedSampler(Sampler[int]):
    """A new shuffle each epoch; within the rows of one optimizer step the longest come first.

    Sorting inside a step saves padding and changes no step's rows, so neither the loss nor the
    weights depend on how a step is cut into micro-batches.
    """

    def __init__(self, lengths: Sequence[int], rows_per_step: int, seed: int) -> None:
        self._lengths = lengths
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        for start in range(0, len(order), self._rows_per_step):
            step = order[start : start + self._rows_per_step]
            yield from sorted(step, key=lambda position: -self._lengths[position])
