"""The short form of `make fuzz`: first mutations of every target, and what longer runs found."""

import itertools
import zlib

import pytest

from tests.fuzz.mutate import mutants
from tests.fuzz.targets import TARGETS
from tests.hostile.cases import ADDRESS

INPUTS = 400
SLOW = {"chat template": 150, "side file": 150, "journal file": 200}

FOUND: dict[str, tuple[bytes, ...]] = {
    "source jsonl": (b"\xef\xbb\xbf\r\nnull\n", b'\x1d\n\x1e{"prompt": "a"}\n'),
    "--set": (b"sampling.top_p" + b".x" * 3000 + b"=1", b"seed=0x" + b"f" * 5000, b"a\xff=1"),
    "config file": (b"a: &a [*a]", b"seed: 1\nseed: 2\n", b'model: "\\ud800"'),
    "preference row": (
        b'{"chosen": [{"role": "a<|im_end|>", "content": "b"}], "rejected": "c", "prompt": "x"}',
        b'{"prompt": "\\ud800", "chosen": "b", "rejected": "c"}',
    ),
    "run.json": (b"[" * 50_000,),
    "error text": (ADDRESS.encode() + b"\n" + ADDRESS.encode(), b"\x1b]0;\x07", b"\xff\xfe"),
}
"""Inputs that were once answered wrongly, kept for good."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_first_stream_of_mutations(name: str) -> None:
    target = TARGETS[name]
    stream = mutants(target.seeds, target.words, zlib.crc32(name.encode()))
    for data in itertools.islice(stream, SLOW.get(name, INPUTS)):
        target.run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_and_what_was_found(name: str) -> None:
    for data in (*TARGETS[name].seeds, *FOUND.get(name, ()), b"", b"\x00", b"\xff\xfe\x00\x00"):
        TARGETS[name].run(data)


def test_the_same_seed_gives_the_same_inputs() -> None:
    first, second = (list(itertools.islice(mutants([b"abc"], [b"x"], 7), 50)) for _ in range(2))
    assert first == second
    assert len(set(first)) > 30
