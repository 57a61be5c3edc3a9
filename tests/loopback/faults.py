"""Failures that a test asks the loopback Hub for, by the number of the request."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["status", "cut", "torn", "lost", "slow", "before"]


@dataclass(frozen=True)
class Fault:
    """What becomes of one request.

    `status`: it is answered by `code` and nothing is done. `cut`: the connection is closed at once.
    `lost`: it is done, but the connection is closed instead of an answer. `torn`: it is done, but
    the last byte of the answer is missing. `slow`: the answer takes `seconds`. `before`: `act`
    happens first, then it is answered.
    """

    kind: Kind
    code: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "Internal Error"
    seconds: float = 0.0
    act: Callable[[], None] | None = None


pause = time.sleep
"""The real one: a test may have put another in the place of `time.sleep`."""

Plan = Callable[[int], Fault | None]
"""The failure of request number n, counted from 0, if it is to have one."""


def once(number: int, fault: Fault) -> Plan:
    """Request `number` alone has the failure."""
    return lambda n: fault if n == number else None


def from_then_on(number: int, fault: Fault) -> Plan:
    """Request `number` and all later ones have the failure."""
    return lambda n: fault if n >= number else None


def never(_number: int) -> Fault | None:
    """No failures."""
    return None
