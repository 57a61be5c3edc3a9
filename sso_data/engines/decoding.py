"""A batch of sequences being continued together: left-padded, cached, rows leave when they end."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sso_data.engines import kv_cache
from sso_data.engines.interface import Result, SampleRequest
from sso_data.engines.nucleus import draw_tokens
from sso_data.engines.requests import sampled
from sso_data.models.inference import LoadedModel


@dataclass(slots=True)
class _Row:
    """A request under way; its draws come from a generator of its own."""

    request: SampleRequest
    rng: random.Random
    token_ids: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)

    @property
    def columns(self) -> int:
        """The number of the row's ids in the cache: all but the one drawn last."""
        return len(self.request.prompt_ids) + len(self.token_ids) - 1


class DecodeBatch:
    """Rows that advance by one token per step; columns of the cache are aligned at their end."""

    def __init__(self, model: LoadedModel, requests: Sequence[SampleRequest]) -> None:
        self._model = model
        self._rows = [_Row(request, random.Random(request.seed)) for request in requests]
        self._cache = kv_cache.make_cache(model.config)
        self._columns = max(len(request.prompt_ids) for request in requests)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def requests(self) -> list[SampleRequest]:
        return [row.request for row in self._rows]

    @property
    def joinable(self) -> bool:
        return kv_cache.joinable(self._cache)

    def prefill(self) -> list[Result]:
        """Run the prompts and draw each row's first token; returns the rows that ended."""
        width = self._columns
        ids = [[0] * (width - len(r.prompt_ids)) + list(r.prompt_ids) for r in self.requests]
        mask = self._mask([len(r.prompt_ids) for r in self.requests])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return self._forward(self._model.tensor(ids), mask, positions)

    def decode(self) -> list[Result]:
        """Draw one more token of each row; returns the rows that ended."""
        columns = [row.columns for row in self._rows]
        self._columns += 1
        last = self._model.tensor([[row.token_ids[-1]] for row in self._rows])
        mask = self._mask([count + 1 for count in columns])
        return self._forward(last, mask, self._model.tensor(columns)[:, None])

    def join(self, other: "DecodeBatch") -> None:
        """Take in the rows of `other`, dropping columns that hold only padding."""
        trim = self._columns - max(row.columns for row in self._rows)
        kv_cache.join(self._cache, other._cache, trim)
        self._columns = max(self._columns - trim, other._columns)
        self._rows += other._rows

    def _mask(self, lengths: list[int]) -> Tensor:
        """Which columns hold a row's own ids, [rows, columns]: the last `length` of them."""
        column = torch.arange(self._columns, device=self._model.device)
        start = self._columns - self._model.tensor(lengths)
        return (column >= start[:, None]).long()

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> list[Result]:
        """Draw a token of each row; rows that ended leave the batch and are returned."""
        logits = self._model.last_logits(ids, mask, positions, self._cache)
        requests = self.requests
        drawn, nats = draw_tokens(
            logits,
            self._model.numbers([request.temperature for request in requests]),
            self._model.numbers([request.top_p for request in requests]),
            self._model.tensor([request.top_k for request in requests]),
            self._model.numbers([request.min_p for request in requests]),
            self._model.numbers([row.rng.random() for row in self._rows]),
        )
        for row, token, value in zip(self._rows, drawn.tolist(), nats.tolist(), strict=True):
            row.token_ids.append(token)
            row.nats.append(value)
        ended = [row for row in self._rows if self._has_ended(row)]
        if not ended:
            return []
        kept = list(range(len(self._rows)))  # the last rows fill the places of the ended ones
        for place in reversed(range(len(self._rows))):
            if self._has_ended(self._rows[place]):
                kept[place] = kept[-1]
                kept.pop()
        self._rows = [self._rows[place] for place in kept]
        kv_cache.keep_rows(self._cache, kept, self._model.device)
        results = []
        for row in ended:
            stopped = row.token_ids[-1] in self._model.eos_ids
            reason: Literal["stop", "length"] = "stop" if stopped else "length"
            results.append(sampled(row.request, row.token_ids, row.nats, reason))
        return results

    def _has_ended(self, row: _Row) -> bool:
        return (
            row.token_ids[-1] in self._model.eos_ids
            or len(row.token_ids) >= row.request.max_tokens
            or row.nats[-1] != row.nats[-1]  # NaN: nothing sensible can follow
        )
