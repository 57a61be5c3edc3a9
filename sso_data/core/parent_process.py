"""The end of a parent process, as its children hear of it."""

import ctypes
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


def at_parents_death(number: int) -> None:
    """Have the kernel send this process signal `number` when the parent's thread that started it
    ends (Linux; elsewhere nothing happens). Whether the parent still lives is the caller's to ask.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
