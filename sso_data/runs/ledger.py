"""Hash tables by 64-bit key, and the ledger of the prompts that were seen, are done or failed.

While it grows, the ledger takes at most 64 bytes a prompt, a quarter of a dict of ids.
"""

from array import array

from sso_data.core.records import row_id, sample_id
from sso_data.runs.columns import row_key

SEEN, DONE, FAILED, ELSEWHERE = 1, 2, 4, 8
"""ELSEWHERE: another run has its row."""
_SMALLEST = 1 << 10
_FULL_PERCENT = 80


class KeyTable:
    """Positive integers by 64-bit key: open addressing, a power of two of slots, 80 % used at most.

    Keys are uniform hashes (`columns.row_key`), so their low bits are the slot. A slot takes 8
    bytes and the item size of `typecode` (see `array`).
    """

    def __init__(self, typecode: str) -> None:
        self._used = 0
        self._keys = array("Q", bytes(8 * _SMALLEST))
        self._values = array(typecode, [0]) * _SMALLEST

    def __len__(self) -> int:
        return self._used

    def __sizeof__(self) -> int:
        """Return the memory of the slots, in bytes."""
        return len(self._keys) * (self._keys.itemsize + self._values.itemsize)

    def get(self, key: int) -> int:
        """Return the value of `key`, or 0 if it has none."""
        value: int = self._values[self._slot(key)]
        return value

    def put(self, key: int, value: int) -> None:
        """Set the value of a key; it must be positive."""
        slot = self._slot(key)
        if not self._values[slot]:
            self._used += 1
            self._keys[slot] = key
        self._values[slot] = value
        if 100 * self._used > _FULL_PERCENT * len(self._values):
            keys, values = self._keys, self._values
            self._keys = array("Q", bytes(16 * len(keys)))
            self._values = array(values.typecode, [0]) * (2 * len(values))
            for old, kept in zip(keys, values, strict=True):
                if kept:
                    slot = self._slot(old)
                    self._keys[slot], self._values[slot] = old, kept

    def _slot(self, key: int) -> int:
        """Return the slot that holds `key`, or the free slot for it."""
        mask = len(self._values) - 1
        slot = key & mask
        while self._values[slot] and self._keys[slot] != key:
            slot = (slot + 1) & mask
        return slot


class Ledger(KeyTable):
    """The flags SEEN, DONE, FAILED and ELSEWHERE by key, one byte each."""

    def __init__(self) -> None:
        super().__init__("B")

    def has(self, key: int, flag: int) -> bool:
        """Return True when any bit of `flag` was marked for `key`."""
        return bool(self.get(key) & flag)

    def mark(self, key: int, flag: int) -> None:
        """Set `flag` for `key`; its other flags stay set."""
        self.put(key, self.get(key) | flag)

    def count(self, wanted: int, without: int = 0) -> int:
        """Return how many keys have every flag of `wanted` and none of `without`."""
        masks = [f for f in range(1, 16) if f & wanted == wanted and not f & without]
        flags = self._values.tobytes()
        return sum(flags.count(mask) for mask in masks)

    def next_ids(self, content: str, samples: int = 1) -> list[str]:
        """Return the ids of all samples of the next prompt with this hash; mark them as seen."""
        first = self.next_id(content)
        further = [sample_id(first, sample) for sample in range(2, samples + 1)]
        for identity in further:
            self.mark(row_key(identity), SEEN)
        return [first, *further]

    def next_id(self, content: str) -> str:
        """Return the id of the next prompt with this content hash, and mark it as seen.

        Of equal prompts the occurrences 0, 1, ... n-1 are seen; n is found by doubling and halving.
        """

        def is_seen(occurrence: int) -> bool:
            return self.has(row_key(row_id(content, occurrence)), SEEN)

        low, high = -1, 0
        while is_seen(high):
            low, high = high, 2 * high + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if is_seen(middle) else (low, middle)
        identity = row_id(content, high)
        self.mark(row_key(identity), SEEN)
        return identity
