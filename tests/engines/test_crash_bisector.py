"""The row that kills an engine is found by halves; nobody else is ever accused."""

import math
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sso_data.engines.bisector import CrashBisector


def allows(suspects: CrashBisector, row: str) -> bool:
    """Whether a row may run on the one engine there is."""
    return not suspects.narrowing or row in suspects.group


def play(rows: list[str], poison: Collection[str], *, limit: int = 10_000) -> tuple[set[str], int]:
    """Run rows until all are answered or refused; the engine dies when a poisonous one may run.

    Returns the refused rows and the number of deaths.
    """
    suspects, open_rows, refused, deaths = CrashBisector(), list(rows), set[str](), 0
    for _ in range(limit):
        if not open_rows:
            return refused, deaths
        running = [row for row in open_rows if allows(suspects, row)]
        assert running, "rows are open and none may run"
        if any(row in poison for row in running):
            deaths += 1
            culprit = suspects.on_crash(running)
            if culprit is not None:
                refused.add(culprit)
                open_rows.remove(culprit)
        else:
            open_rows = [row for row in open_rows if row not in running]
        suspects.forget_answered(open_rows)
    raise AssertionError("it does not end")


@given(
    count=st.integers(1, 200), poison=st.sets(st.integers(0, 199), max_size=6), alone=st.booleans()
)
def test_exactly_the_poisonous_rows_are_refused(count: int, poison: set[int], alone: bool) -> None:
    rows = [f"r{number}" for number in range(count)]
    bad = {f"r{number}" for number in poison if number < count}
    refused, deaths = play(rows, bad)
    assert refused == bad
    assert deaths <= len(bad) * (math.ceil(math.log2(count or 1)) + 5) + 2


def test_by_hand() -> None:
    """Four rows, c kills: all, all, then ab | cd, then c alone twice."""
    suspects = CrashBisector()
    assert suspects.on_crash("abcd") is None
    assert not suspects.narrowing, "one death accuses nobody"
    assert suspects.on_crash("abcd") is None
    assert suspects.group == ["a", "b"] and suspects.suspects == set("abcd")
    suspects.forget_answered({"c", "d"})
    assert suspects.group == ["c", "d"]
    assert suspects.on_crash("cd") is None
    assert suspects.on_crash("c") is None
    assert suspects.on_crash("c") == "c"
    assert suspects.group == ["d"]
    suspects.forget_answered(set())
    assert not suspects.narrowing


def test_other_rows_of_two_deaths_are_not_suspect() -> None:
    suspects = CrashBisector()
    suspects.on_crash("abcd")
    suspects.on_crash("efgh")
    assert not suspects.narrowing


def test_a_death_with_nothing_under_way_accuses_nobody() -> None:
    suspects = CrashBisector()
    suspects.on_crash("ab")
    suspects.on_crash("ab")
    assert suspects.on_crash(()) is None
    assert suspects.group == ["a"]


def test_a_death_elsewhere_adds_suspects_behind_the_group_that_runs() -> None:
    suspects = CrashBisector()
    for rows in ("abcd", "abcd", "efgh"):
        suspects.on_crash(rows)
    assert suspects.group == ["a", "b"]
    suspects.finished("g")
    suspects.on_crash("efg")
    assert suspects.group == ["a", "b"] and suspects.suspects == set("abcdef")
    suspects.forget_answered({"e", "f"})
    assert suspects.group == ["e"]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_an_engine_that_dies_of_everything_accuses_every_row(count: int) -> None:
    rows = [f"r{number}" for number in range(count)]
    refused, _ = play(rows, rows)
    assert refused == set(rows)
