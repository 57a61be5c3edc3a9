"""What the generation benchmark says of the pairs that its sides keep, by sides made up here."""

from typing import Any

import pytest

from benchmarks.generate import Measured, parse, summary
from benchmarks.generate import as_text as shown
from benchmarks.generation import Timing


def side(**kept: set[int]) -> Measured:
    sets = {test: frozenset(keys) for test, keys in kept.items()}
    parts = {"pipeline": 0.5}
    timing = Timing(seconds=2.0, tokens=9, parts=parts, cpu_seconds=2.0, kept=sets)
    return Measured(passes=[timing], peak_mib=None)


def report(sides: dict[str, Measured]) -> dict[str, Any]:
    facts = {"model": "m", "engine": {}, "prompts": 4, "engine_start_seconds": 1.0}
    return summary(parse([]), sides, facts)


@pytest.mark.parametrize(
    ("needed", "found", "told"),
    [
        ({1, 2}, (2, 0, 0), "chain: the same 2 pairs"),
        ({1, 3}, (1, 1, 1), "chain: other pairs: 1 of both, 1 of ours alone, 1 of needed alone"),
    ],
)
def test_pairs_are_compared_row_by_row(
    needed: set[int], found: tuple[int, int, int], told: str
) -> None:
    """As many pairs are not yet the same pairs."""
    told_of = report(
        {"ours": side(chain={1, 2}, off={1, 2, 3}), "needed": side(chain=needed), "raw": side()}
    )
    names = ("both", "ours_alone", "needed_alone")
    assert told_of["pairs"] == {"needed": {"chain": dict(zip(names, found, strict=True))}}
    assert told_of["sides"]["ours"]["kept"] == {"chain": 2, "off": 3}
    assert f"needed and ours keep, {told}" in shown(told_of).splitlines()


def test_nothing_is_compared_without_ours() -> None:
    assert report({"needed": side(chain={1}), "raw": side()})["pairs"] == {}
