"""The SCORES record of a row, field by field."""

import zlib

import numpy as np
import pytest

from sso_data.core.records import VIEWS, View
from sso_data.runs.columns import CHECKED_BYTES, SCORES, Flag, encode, leak_fingerprint, row_key
from tests.factories import make_row, to_line


def test_every_field() -> None:
    row = make_row(
        3,
        means={("good", "good"): -0.25},
        tokens={"plain": 8, "good": 4, "bad": 2},
        finish={"bad": "length", "plain": "unclosed_thinking"},
    )
    line = to_line(row)
    data = encode(row, line, 1000)
    record = np.frombuffer(data, SCORES)[0]
    assert len(data) == SCORES.itemsize == 120
    assert record["offset"] == 1000
    assert record["key"] == row_key(row.id)
    assert record["length"] == len(line)
    assert record["crc"] == zlib.crc32(line)
    assert record["num_tokens"].tolist() == [8, 4, 2]
    assert record["finish"].tolist() == [2, 0, 1]
    assert record["flags"] == 0
    assert record["check"] == zlib.crc32(data[:CHECKED_BYTES])
    # plain, good, bad seen; plain, good, bad drawn: means times 8, 4 and 2 tokens
    assert np.array_equal(
        record["logp"],
        [[-7.0, -4.0, -2.25], [np.nan, -1.0, -4.0], [-12.0, -8.0, -1.0]],
        equal_nan=True,
    )


@pytest.mark.parametrize(
    ("texts", "flags"),
    [
        ({"plain": ""}, Flag.BLANK_PLAIN),
        ({"good": " \n\t"}, Flag.BLANK_GOOD),
        ({"bad": "\u00a0"}, Flag.BLANK_BAD),
        ({"good": "x", "bad": "x"}, Flag.SAME_GOOD_BAD),
        ({"good": "x", "plain": "x"}, Flag.SAME_GOOD_PLAIN),
        ({"bad": "x", "plain": "x"}, Flag.SAME_BAD_PLAIN),
        ({"bad": "x", "plain": "x "}, Flag(0)),
        ({"plain": "By THE GUIDELINES, a kite."}, Flag.LEAK_PLAIN),
        ({"good": "My Instructions say so."}, Flag.LEAK_GOOD),
        ({"bad": "This is deliberately incorrect: blue."}, Flag.LEAK_BAD),
        (
            dict.fromkeys(VIEWS, ""),
            Flag.BLANK_PLAIN
            | Flag.BLANK_GOOD
            | Flag.BLANK_BAD
            | Flag.SAME_GOOD_BAD
            | Flag.SAME_GOOD_PLAIN
            | Flag.SAME_BAD_PLAIN,
        ),
    ],
)
def test_flags(texts: dict[View, str], flags: Flag) -> None:
    row = make_row(texts=texts)
    record = np.frombuffer(encode(row, to_line(row), 0), SCORES)[0]
    assert Flag(int(record["flags"])) == flags


def test_keys_and_fingerprint_are_stable() -> None:
    assert row_key("a-0") == 6940747629820581525
    assert row_key("a-0") != row_key("a-1")
    assert len(leak_fingerprint()) == 16
