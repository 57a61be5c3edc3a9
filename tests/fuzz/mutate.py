"""Mutations of bytes without any knowledge of coverage: the same seed gives the same inputs."""

import random
from collections.abc import Iterator, Sequence

_MOST_BYTES = 20_000


def mutants(seeds: Sequence[bytes], words: Sequence[bytes], number: int) -> Iterator[bytes]:
    """An endless stream of changed seeds; stream `number` is always the same."""
    rng = random.Random(number)
    pool = list(seeds)
    while True:
        data = bytearray(rng.choice(pool))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 9))):
            _change(data, rng, words, pool)
        made = bytes(data[:_MOST_BYTES])
        if rng.random() < 0.02 and len(pool) < 200:
            pool.append(made)
        yield made


def _change(
    data: bytearray, rng: random.Random, words: Sequence[bytes], pool: Sequence[bytes]
) -> None:
    """One change, in place."""
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 30)))
    match rng.randrange(8):
        case 0:
            del data[at:end]
        case 1:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5)))
        case 2:
            for place in range(at, end):
                data[place] ^= 1 << rng.randrange(8)
        case 3:
            data[at:at] = bytes(data[at:end]) * rng.choice((1, 1, 2, 40))
        case 4:
            other = rng.choice(pool)
            start = rng.randrange(len(other) + 1)
            data[at:end] = other[start : start + rng.choice((4, 16, 64))]
        case 5:
            del data[at:]
        case _:
            data[at : rng.choice((at, end))] = rng.choice(words) if words else b"\n"
