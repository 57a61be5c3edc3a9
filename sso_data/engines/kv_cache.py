"""A key-value cache that grows in place, lets rows go and takes rows in."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

SPARE_COLUMNS = 64


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, [rows, heads, columns, head_dim], as views of larger stores.

    transformers' own layer copies everything at each token, which is quadratic in the length; this
    one writes in place and grows by a quarter at a time.
    """

    key_store: Tensor | None = None
    value_store: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        self.key_store = _append(self.key_store, key_states, used)
        self.value_store = _append(self.value_store, value_states, used)
        self._look(key_states.shape[0], used + key_states.shape[-2])
        return self.keys, self.values

    def keep_rows(self, moves: list[tuple[int, int]], rows: int) -> None:
        """Copy row `source` over row `target` for each of `moves`, then keep the first `rows`."""
        for store in (self.key_store, self.value_store):
            assert store is not None
            for target, source in moves:
                store[target] = store[source]
        self._look(rows, self.get_seq_length())

    def join(self, other: "GrowingLayer", trim: int) -> None:
        """Drop the first `trim` columns and take in the rows of `other`, aligned at the end."""
        self.key_store = _stack(self.keys[:, :, trim:], other.keys)
        self.value_store = _stack(self.values[:, :, trim:], other.values)
        columns = max(self.get_seq_length() - trim, other.get_seq_length())
        self._look(self.key_store.shape[0], columns)

    def _look(self, rows: int, columns: int) -> None:
        assert self.key_store is not None and self.value_store is not None
        self.keys = self.key_store[:rows, :, :columns]
        self.values = self.value_store[:rows, :, :columns]


def make_cache(model_config: Any) -> Cache:
    """An empty cache for the model; plain attention layers are growing ones."""
    cache = DynamicCache(config=model_config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def joinable(cache: Cache) -> bool:
    """Return True if rows of another batch can be taken in (no sliding windows, other states)."""
    return all(isinstance(layer, GrowingLayer) for layer in cache.layers)


def keep_rows(cache: Cache, kept: list[int], device: torch.device) -> None:
    """Keep the rows `kept`, in this order; growing layers move only what changes its place."""
    moves = [(target, source) for target, source in enumerate(kept) if target != source]
    for layer in cache.layers:
        if isinstance(layer, GrowingLayer):
            layer.keep_rows(moves, len(kept))
        else:
            layer.reorder_cache(torch.tensor(kept, dtype=torch.long, device=device))


def join(cache: Cache, other: Cache, trim: int) -> None:
    """Take the rows of `other` into `cache`, aligned at the last column; see GrowingLayer.join."""
    for mine, theirs in zip(cache.layers, other.layers, strict=True):
        mine.join(theirs, trim)


def _append(store: Tensor | None, new: Tensor, used: int) -> Tensor:
    rows, heads, more, dim = new.shape
    end = used + more
    if store is None or store.shape[2] < end:
        grown = new.new_empty(rows, heads, end + max(SPARE_COLUMNS, end // 4), dim)
        if store is not None:
            grown[:, :, :used] = store[:rows, :, :used]
        store = grown
    store[:rows, :, used:end] = new
    return store


def _stack(first: Tensor, second: Tensor) -> Tensor:
    """Both [rows, heads, columns, dim] in one store, right-aligned, zeros on the left."""
    columns = max(first.shape[2], second.shape[2])
    rows = first.shape[0] + second.shape[0]
    spare = max(SPARE_COLUMNS, columns // 4)
    store = first.new_zeros(rows, first.shape[1], columns + spare, first.shape[3])
    store[: first.shape[0], :, columns - first.shape[2] : columns] = first
    store[first.shape[0] :, :, columns - second.shape[2] : columns] = second
    return store
