"""Fingerprints of weights: over every byte, and those of earlier versions, which were of samples.

The first 16 digits of a fingerprint are the sampled one, so that either kind is compared with the
other as far as both go.
"""

import re
from collections.abc import Mapping

_WHOLE = re.compile(r"(?<![0-9a-f])([0-9a-f]{16})[0-9a-f]{16}(?![0-9a-f])")


def sampled(text: str) -> str:
    """Return a text with every fingerprint in it cut to what versions before 0.2.0 recorded."""
    return _WHOLE.sub(r"\1", text)


def same(one: object, other: object) -> bool:
    """Return True for equal values, but for how far a fingerprint in their texts goes."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, str) and isinstance(other, str):
        return one == other or sampled(one) == other or one == sampled(other)
    return one == other
