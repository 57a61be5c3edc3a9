"""Which prompts were seen, are done or failed: a hash table of 9 bytes a slot.

At most 64 bytes a prompt, growing included; a dict of ids would take four times that.
"""

from array import array

from sso_data.core.records import row_id
from sso_data.runs.columns import row_key

SEEN, DONE, FAILED = 1, 2, 4
_FREE = 0
_SMALLEST = 1 << 10


class Ledger:
    """Flags by 64-bit key; open addressing, a power of two of slots, at most two thirds used.

    Keys are uniform hashes (`columns.row_key`), so the low bits are the slot.
    """

    def __init__(self) -> None:
        self._used = 0
        self._keys = array("Q", bytes(8 * _SMALLEST))
        self._flags = bytearray(_SMALLEST)

    def __len__(self) -> int:
        return self._used

    def has(self, key: int, flag: int) -> bool:
        """Whether `flag` was marked for `key`."""
        return bool(self._flags[self._slot(key)] & flag)

    def mark(self, key: int, flag: int) -> None:
        """Set `flag` for `key`; flags add up."""
        slot = self._slot(key)
        if self._flags[slot] == _FREE:
            self._used += 1
            self._keys[slot] = key
        self._flags[slot] |= flag
        if 3 * self._used > 2 * len(self._flags):
            self._grow()

    def count(self, wanted: int, without: int = 0) -> int:
        """How many keys have every flag of `wanted` and none of `without`."""
        masks = [f for f in range(1, 8) if f & wanted == wanted and not f & without]
        return sum(self._flags.count(mask) for mask in masks)

    def bytes_used(self) -> int:
        """Memory of the table, in bytes."""
        return self._keys.itemsize * len(self._keys) + len(self._flags)

    def _slot(self, key: int) -> int:
        """The slot that holds `key`, or the free one where it belongs."""
        mask = len(self._flags) - 1
        slot = key & mask
        while self._flags[slot] != _FREE and self._keys[slot] != key:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        keys, flags = self._keys, self._flags
        self._keys = array("Q", bytes(16 * len(flags)))
        self._flags = bytearray(2 * len(flags))
        for key, flag in zip(keys, flags, strict=True):
            if flag != _FREE:
                slot = self._slot(key)
                self._keys[slot], self._flags[slot] = key, flag


def next_id(seen: Ledger, content: str) -> str:
    """The id of the next prompt with this content hash, which is marked as seen.

    Of equal prompts the occurrences 0, 1, ... n-1 are seen; n is found by doubling and halving.
    """

    def is_seen(occurrence: int) -> bool:
        return seen.has(row_key(row_id(content, occurrence)), SEEN)

    low, high = -1, 0
    while is_seen(high):
        low, high = high, 2 * high + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_seen(middle) else (low, middle)
    identity = row_id(content, high)
    seen.mark(row_key(identity), SEEN)
    return identity
