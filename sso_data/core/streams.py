"""Standard streams that never end the work: closed ones lead nowhere, failed writes are noted."""

import errno
import io
import os
import select
import sys
from contextlib import suppress

_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Failures after which a later write may succeed, as the disk may get space again."""


class SoundStream(io.FileIO):
    """A descriptor whose writes never raise OSError: what cannot be written is dropped.

    `failure` is the first error. Where nobody can read any more, the descriptor leads to /dev/null
    from then on, for libraries and child processes, too. A pipe that does not block is waited for.
    """

    failure: OSError | None = None

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        try:
            while (written := super().write(view)) is None:
                select.select([], [self], [])
        except OSError as error:
            self.failure = self.failure or error
            if error.errno not in _MAY_PASS:
                _lead_nowhere(self.fileno())
            return len(view)
        return written


def sound_streams() -> tuple[SoundStream, SoundStream]:
    """Make this process's standard streams sound; return what is under stdout and stderr.

    Call it first of all: a closed descriptor would be taken by the next file that is opened.
    """
    open_closed()
    out, err = SoundStream(1, "w", closefd=False), SoundStream(2, "w", closefd=False)
    for raw, name, errors in ((out, "stdout", "strict"), (err, "stderr", "backslashreplace")):
        before = getattr(sys, name)
        with suppress(AttributeError, OSError, ValueError):  # it was closed, or cannot be written
            before.flush()
        made = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=getattr(before, "encoding", None) or "utf-8",
            errors=getattr(before, "errors", None) or errors,
            line_buffering=name == "stderr" or raw.isatty(),
        )
        setattr(sys, name, made)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    return out, err


def open_closed() -> None:
    """Open /dev/null at each of the descriptors 0, 1 and 2 that is closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _lead_nowhere(descriptor)


def _lead_nowhere(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
    else:
        os.set_inheritable(null, True)
