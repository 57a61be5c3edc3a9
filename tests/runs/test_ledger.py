"""The ledger is a dict of flags in a quarter of the memory."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sso_data.runs.ledger import DONE, FAILED, SEEN, Ledger

FLAGS = st.sampled_from([SEEN, DONE, FAILED])


@given(st.lists(st.tuples(st.integers(0, 40) | st.integers(0, 2**64 - 1), FLAGS), max_size=200))
def test_it_agrees_with_a_dict(marks: list[tuple[int, int]]) -> None:
    ledger, truth = Ledger(), dict[int, int]()
    for key, flag in marks:
        ledger.mark(key, flag)
        truth[key] = truth.get(key, 0) | flag
    assert len(ledger) == len(truth)
    for key, flags in truth.items():
        assert [ledger.has(key, flag) for flag in (SEEN, DONE, FAILED)] == [
            bool(flags & flag) for flag in (SEEN, DONE, FAILED)
        ]
    assert ledger.count(SEEN) == sum(bool(flags & SEEN) for flags in truth.values())
    assert ledger.count(SEEN | DONE) == sum(flags & 3 == 3 for flags in truth.values())
    assert ledger.count(FAILED, without=DONE) == sum(
        bool(flags & FAILED) and not flags & DONE for flags in truth.values()
    )


def test_at_most_64_bytes_a_prompt_while_it_grows() -> None:
    rng = random.Random(0)
    ledger = Ledger()
    worst = 0.0
    before = ledger.__sizeof__()
    for number in range(1, 200_001):
        ledger.mark(rng.getrandbits(64), DONE)
        now = ledger.__sizeof__()
        peak = now + before if now != before else now
        before = now
        if number > 10_000:
            worst = max(worst, peak / number)
    assert worst <= 64
