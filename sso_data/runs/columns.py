"""The numbers of a row that filtering needs, as one fixed-width record of 120 bytes."""

import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from enum import IntFlag
from functools import lru_cache, partial
from typing import Literal, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from sso_data.core.jinja import phrases
from sso_data.core.records import (
    ALL_CELLS,
    SIDE_OF,
    VIEWS,
    Cell,
    FinishReason,
    Row,
    View,
    split_sample,
)
from sso_data.core.words import runs, words

Rows: TypeAlias = NDArray[np.void]
"""A one-dimensional array of SCORES."""

Number = TypeVar("Number", float, NDArray[np.float64])

FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)
"""A finish reason is stored as its position in here."""

SCORES = np.dtype(
    [
        ("offset", "<u8"),  # where the journal line starts in its part, bytes
        ("key", "<u8"),  # `row_key` of the row's id
        ("logp", "<f8", (3, 3)),  # total nats by [seen, drawn] in the order of VIEWS; NaN: missing
        ("length", "<u4"),  # the journal line with its newline, bytes
        ("crc", "<u4"),  # CRC-32 of the journal line with its newline
        ("num_tokens", "<u4", (3,)),  # by view drawn under
        ("flags", "<u2"),  # see Flag
        ("finish", "u1", (3,)),  # position in FINISH_REASONS, or UNKNOWN, by view drawn under
        ("sample", "u1"),  # of the prompt, from 0
        ("spare", "u1", (2,)),  # zero
        ("check", "<u4"),  # CRC-32 of this record up to here
    ]
)
_COMPARED: tuple[tuple[View, View], ...] = (("good", "bad"), ("good", "plain"), ("bad", "plain"))
"""The responses whose texts may be the same."""
_STEP = 0x9E3779B97F4A7C15
UNKNOWN = 255
"""`finish` of a response that was not asked for."""
_ONE_IN = 50
_RECORD = struct.Struct("<QQ9dII3IH3BB2x")
"""SCORES up to its `check`, to write one record quickly."""
CHECKED_BYTES = SCORES.itemsize - 4
"""Bytes of a record that its `check` covers."""


class Flag(IntFlag):
    """Properties of the texts that filtering needs; views name the responses drawn under them."""

    BLANK_PLAIN = 1 << 0
    BLANK_GOOD = 1 << 1
    BLANK_BAD = 1 << 2
    SAME_GOOD_BAD = 1 << 3
    SAME_GOOD_PLAIN = 1 << 4
    SAME_BAD_PLAIN = 1 << 5
    LEAK_PLAIN = 1 << 6
    LEAK_GOOD = 1 << 7
    LEAK_BAD = 1 << 8
    ECHO_GOOD = 1 << 9
    ECHO_BAD = 1 << 10
    REST_NOT_ASKED = 1 << 11
    """The row was dropped before everything about it was asked for."""
    ALWAYS_COMPLETE = 1 << 12
    """Set by `load_scores`, not stored: the row is complete by design, whatever it turned out."""


ECHO_WORDS = 6
"""A response with this many words in a row of its principles repeats them."""


def encode(row: Row, line: bytes, offset: int) -> bytes:
    """Return the SCORES record of `row`, whose journal line (with newline) starts at `offset`."""
    return bound(record_of(row), line, offset)


def record_of(row: Row) -> Rows:
    """Return the SCORES record of `row` as an array of one, which names no journal line yet."""
    known = [row.responses.get(view) for view in VIEWS]
    content = _RECORD.pack(
        0,
        row_key(row.id),
        *(row.logp.get(cell, np.nan) for cell in ALL_CELLS),
        0,
        0,
        *(response.num_tokens if response else 0 for response in known),
        flags_of(row),
        *(FINISH_REASONS.index(one.finish_reason) if one else UNKNOWN for one in known),
        row.sample - 1,
    )
    return np.frombuffer(bytearray(content + bytes(4)), SCORES)


def fill(record: Rows, logp: Mapping[Cell, float]) -> None:
    """Put total nats of cells (seen, drawn) into a `record_of`."""
    for (seen, drawn), nats in logp.items():
        record["logp"][0, VIEWS.index(seen), VIEWS.index(drawn)] = nats


def bound(record: Rows, line: bytes, offset: int) -> bytes:
    """Return a `record_of` as it is stored for a journal line that starts at `offset`."""
    record["offset"], record["length"], record["crc"] = offset, len(line), zlib.crc32(line)
    content = record.tobytes()[:CHECKED_BYTES]
    return content + zlib.crc32(content).to_bytes(4, "little")


def flags_of(row: Row) -> Flag:
    """Return the flags of a row.

    Texts are compared exactly; leaks and echoes are found in any case.
    """
    text = {view: response.text for view, response in row.responses.items()}
    found = Flag.REST_NOT_ASKED if row.rest_not_asked else Flag(0)
    for view in text:
        if not text[view].strip():
            found |= Flag[f"BLANK_{view.upper()}"]
        if leaks(text[view]):
            found |= Flag[f"LEAK_{view.upper()}"]
    if echoes(text.get("good", ""), row.steering.good):
        found |= Flag.ECHO_GOOD
    if echoes(text.get("bad", ""), row.steering.bad):
        found |= Flag.ECHO_BAD
    for one, other in _COMPARED:
        if one in text and text[one] == text.get(other):
            found |= Flag[f"SAME_{one}_{other}".upper()]
    return found


def always_complete(rows: Rows, first: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Mark the rows that are complete by design: 2 % by content, and those with keys of `first`."""
    mask: NDArray[np.bool_] = np.isin(rows["key"], first) | (rows["key"] % np.uint64(_ONE_IN) == 0)
    return mask


def is_always_complete(key: int, first: frozenset[int]) -> bool:
    """Return True for the key of a row that is complete by design, as `always_complete` does."""
    return key in first or key % _ONE_IN == 0


def lacking(rows: Rows) -> NDArray[np.bool_]:
    """Mark the rows of which not everything was asked for."""
    mask: NDArray[np.bool_] = np.not_equal(rows["flags"] & np.uint16(Flag.REST_NOT_ASKED), 0)
    return mask


def are_representative(rows: Rows) -> NDArray[np.bool_]:
    """Mark the rows that stand for all of a run, over which shares and means are taken.

    Where some rows lack what was not asked for, the complete ones are those that passed, and would
    mislead: then it is the rows that are complete by design.
    """
    if not lacking(rows).any():
        return np.ones(len(rows), np.bool_)
    mask: NDArray[np.bool_] = np.not_equal(rows["flags"] & np.uint16(Flag.ALWAYS_COMPLETE), 0)
    return mask


def representative(rows: Rows) -> Rows:
    """Return the rows that `are_representative`."""
    mask = are_representative(rows)
    return rows if mask.all() else rows[mask]


def leaks(text: str) -> bool:
    """Return True if a response mentions its guidelines, by a phrase of templates/leakage.txt."""
    lower = text.lower()
    return any(phrase in lower for phrase in phrases("leakage.txt"))


def echoes(text: str, principles: Sequence[str]) -> bool:
    """Return True if a response repeats ECHO_WORDS words in a row of one of its principles."""
    asked = [found for one in principles if (found := _runs_of(one))]
    said = words(text) if asked else []
    spoken = set(zip(*(said[start:] for start in range(ECHO_WORDS)), strict=False))
    return any(not found.isdisjoint(spoken) for found in asked)


@lru_cache(4096)
def _runs_of(principle: str) -> frozenset[tuple[str, ...]]:
    """The runs of ECHO_WORDS words of a principle; many rows have the same ones."""
    return frozenset(runs(words(principle), ECHO_WORDS))


def leak_fingerprint() -> str:
    """Return a hash of the leakage phrases, without comments: 16 hexadecimal digits."""
    return hashlib.sha256("\n".join(phrases("leakage.txt")).encode()).hexdigest()[:16]


def flags_fingerprint() -> str:
    """Return a hash of what decides the flags of a row: 16 hexadecimal digits.

    Side files with another one, those of versions without echoes too, are made again.
    """
    rules = f"{leak_fingerprint()} echo {ECHO_WORDS}"
    return hashlib.sha256(rules.encode()).hexdigest()[:16]


def hash64(text: str) -> int:
    """Return a uniform 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def row_key(row_id: str) -> int:
    """Return a uniform 64-bit hash of a row id; those of a prompt's samples lie _STEP apart."""
    first, sample = split_sample(row_id)
    return (hash64(first) + (sample - 1) * _STEP) % 2**64


def prompt_keys(rows: Rows) -> NDArray[np.uint64]:
    """Return the `row_key` [row] of the first sample of each row's prompt."""
    steps = rows["sample"].astype(np.uint64) * np.uint64(_STEP)
    keys: NDArray[np.uint64] = rows["key"] - steps  # modulo 2**64
    return keys


def mean_logp(rows: Rows, seen: View, drawn: View) -> NDArray[np.float64]:
    """Return `logp.<seen>.<drawn>.mean` [row] in nats/token; NaN if missing or without tokens."""
    tokens = num_tokens(rows, drawn)
    totals = rows["logp"][:, VIEWS.index(seen), VIEWS.index(drawn)]
    means: NDArray[np.float64] = totals / np.where(tokens > 0, tokens, np.nan)
    return means


def gap(mean: Callable[[View, View], Number], drawn: Literal["good", "bad"]) -> Number:
    """Return how much likelier a steered response is under its own view than the opposite one.

    m.good.good - m.bad.good, or m.bad.bad - m.good.bad, nats/token. `mean(seen, drawn)` gives the
    mean log-prob of one row, or (`partial(mean_logp, rows)`) of many.
    """
    return mean(drawn, drawn) - mean("bad" if drawn == "good" else "good", drawn)


def closeness(mean: Callable[[View, View], Number], drawn: Literal["good", "bad"]) -> Number:
    """Return how far a steered response lies below the policy's own answer under the plain view.

    m.plain.plain - m.plain.<drawn>, nats/token; `mean` as for `gap`.
    """
    return mean("plain", "plain") - mean("plain", drawn)


def num_tokens(rows: Rows, drawn: View) -> NDArray[np.uint32]:
    """Return the tokens [row] of the responses drawn under `drawn`."""
    tokens: NDArray[np.uint32] = rows["num_tokens"][:, VIEWS.index(drawn)]
    return tokens


def measures(rows: Rows) -> dict[str, NDArray[np.float64]]:
    """Lengths (tokens), closeness to the policy's own answer, gaps, plain-view log-probs.

    `closeness_*` = m.plain.plain - m.plain.<drawn>, `gap_good` = m.good.good - m.bad.good,
    `gap_bad` = m.bad.bad - m.good.bad, `logp_*` = m.plain.<drawn>, nats/token.
    """
    rows = rows[np.argsort(rows["key"], kind="stable")]
    logp = partial(mean_logp, rows)
    found: dict[str, NDArray[np.float64]] = {
        f"tokens_{side}": num_tokens(rows, view).astype(np.float64)
        for view, side in SIDE_OF.items()
    }
    found["closeness_chosen"] = closeness(logp, "good")
    found["logp_chosen"] = logp("plain", "good")
    found["closeness_rejected"] = closeness(logp, "bad")
    found["logp_rejected"] = logp("plain", "bad")
    found["gap_good"], found["gap_bad"] = gap(logp, "good"), gap(logp, "bad")
    return found
