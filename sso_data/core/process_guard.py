"""`python -m sso_data.core.process_guard PARENT GRACE COMMAND...` runs COMMAND until PARENT ends.

The command runs in a process group of its own, to which SIGINT, SIGTERM and SIGHUP are passed on.
When the process PARENT is gone for whatever reason (Linux), the group gets SIGTERM, and SIGKILL
after GRACE seconds; with 0 it gets SIGKILL at once. This process lives as long as the command, so
it imports nothing heavy.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

PARENT_DIED = signal.SIGUSR1
"""The signal that the kernel sends the guard when its parent ends."""

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


def at_parents_death(number: int) -> None:
    """Have the kernel send this process a signal when the parent's thread that started it ends.

    Does nothing on other systems than Linux. The caller checks that the parent still exists.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code, or 128 + N if signal N ended it."""
    parent, grace, *command = arguments
    signal.signal(PARENT_DIED, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {PARENT_DIED, signal.SIGCHLD, *_PASSED_ON})
    at_parents_death(PARENT_DIED)
    if os.getppid() != int(parent):  # it ended before the kernel was asked
        os._exit(128 + signal.SIGKILL)
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_in_the_command
    )
    while (code := child.poll()) is None:
        number = signal.sigwait({PARENT_DIED, signal.SIGCHLD, *_PASSED_ON})
        if number == PARENT_DIED:
            _end(child, float(grace))
            return 128 + signal.SIGKILL
        if number != signal.SIGCHLD:
            _send(child, number)
    return code if code >= 0 else 128 - code


def _in_the_command() -> None:
    """Unblock signals and end with the guard; runs in the command's process."""
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    at_parents_death(signal.SIGKILL)


def _end(child: "subprocess.Popen[bytes]", grace: float) -> None:
    """Send the group SIGTERM if there is grace, and SIGKILL after `grace` seconds."""
    until = time.monotonic() + grace
    if grace:
        _send(child, signal.SIGTERM)
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    _send(child, signal.SIGKILL)


def _send(child: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
