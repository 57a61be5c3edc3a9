"""Limits of time and memory for programs of others, such as the templates of models."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from types import FrameType

SECONDS, BYTES = 10.0, 2**31
"""Far above what any template of a model takes."""
MEMORY_FILE = "/proc/self/statm"
"""Linux tells here how many pages a process takes."""


class TooMuchError(Exception):
    """The block took more computing time or memory than it may have."""


@contextmanager
def limited(seconds: float = SECONDS, size: int = BYTES) -> Iterator[None]:
    """Raise TooMuchError in the block after `seconds` of computing, or when `size` bytes are taken.

    Time counts in the main thread alone, where signals arrive. Memory is limited on Linux.
    """

    def out_of_time(number: int, frame: FrameType | None) -> None:
        raise TooMuchError(f"it does not end within {seconds:g} seconds of computing")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    here = current_thread() is main_thread()
    if here:
        handler = signal.signal(signal.SIGVTALRM, out_of_time)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        with suppress(OSError, ValueError):  # no such limit on this system
            with open(MEMORY_FILE, "rb", buffering=0) as statm:  # noqa: PTH123 - for speed
                pages = int(statm.read(32).split()[0])
            most = pages * resource.getpagesize() + size
            if soft == resource.RLIM_INFINITY or most < soft:
                resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        yield
    except MemoryError:
        raise TooMuchError(f"it takes more than {size >> 30} GiB of memory") from None
    finally:
        if here:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
            signal.signal(signal.SIGVTALRM, handler)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
