"""How much the reliability tests do: a few of each kind in CI, everything by `make chaos`."""

import os
from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")

CHAOS = os.environ.get("SSO_DATA_CHAOS", "") not in ("", "0")
"""Whether the environment asks for the long form (SSO_DATA_CHAOS=1)."""


def some(cases: Sequence[_T], step: int) -> Sequence[_T]:
    """All cases in the long form, else every `step`-th one, beginning in the middle of a step."""
    return cases if CHAOS else cases[step // 2 :: step]
