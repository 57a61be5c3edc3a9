"""Several processes as one: who speaks, what the first one decided, scoring shared among all."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from sso_data.training.encode import EncodedRow
from sso_data.training.reference import Nats, Scorer

_T = TypeVar("_T")
_CHUNK_ROWS = 4096


def is_first() -> bool:
    """Whether this process writes and speaks for all."""
    return bool(PartialState().is_main_process)


def decided_by_first(value: _T) -> _T:
    """What the first process has for `value`, on every process."""
    if PartialState().num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]


def wait() -> None:
    """Go on when every process has come here."""
    PartialState().wait_for_everyone()


@contextmanager
def leaving_the_group() -> Iterator[None]:
    """Leave the process group, where the work inside made one, when it is over.

    A gloo thread that drops a tensor while the interpreter ends aborts the process (SIGABRT), after
    all its work was done. The threads end with the last reference to the group, and the trainer's
    model, which holds one, lies in reference cycles.
    """
    is_of_others = dist.is_available() and dist.is_initialized()
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized() and not is_of_others:
            dist.destroy_process_group()
            gc.collect()


def shared_scorer(scorer: Scorer) -> Scorer:
    """A scorer that deals the rows out to the processes; each of them gets every row's totals."""
    state = PartialState()
    if state.num_processes == 1:
        return scorer

    def score(rows: Sequence[EncodedRow]) -> Iterator[tuple[list[int], Nats]]:
        for start in range(0, len(rows), _CHUNK_ROWS):
            end = min(start + _CHUNK_ROWS, len(rows))
            mine = range(start + state.process_index, end, state.num_processes)
            found: list[tuple[list[int], Nats]] = []
            if len(mine):
                for positions, nats in scorer([rows[index] for index in mine]):
                    found.append(([mine[p] for p in positions], nats))
            everything = gather_object(found)
            positions = [position for part, _ in everything for position in part]
            yield positions, np.concatenate([nats for _, nats in everything])

    return score
