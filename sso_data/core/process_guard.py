"""Run COMMAND as `-m sso_data.core.process_guard PARENT GRACE COMMAND...`: it ends with PARENT.

It runs in a process group of its own, to which SIGINT, SIGTERM and SIGHUP are passed on. When the
parent is gone, however it went (Linux), the group is asked to end, and ended after GRACE seconds;
with 0 it is ended at once. Nothing heavy is imported: this process is there as long as the command.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

from sso_data.core.parent_process import at_parents_death

PARENT_DIED = signal.SIGUSR1
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code, 128 + N where signal N ended it."""
    parent, grace, *command = arguments
    signal.signal(PARENT_DIED, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {PARENT_DIED, signal.SIGCHLD, *_PASSED_ON})
    _hear_of_death(int(parent))
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_in_the_command
    )
    while (code := child.poll()) is None:
        number = signal.sigwait({PARENT_DIED, signal.SIGCHLD, *_PASSED_ON})
        if number == PARENT_DIED:
            _end(child, float(grace))
            return 128 + signal.SIGKILL
        if number != signal.SIGCHLD:
            _tell(child, number)
    return code if code >= 0 else 128 - code


def _in_the_command() -> None:
    """In the command's process: signals come through again, and it dies with this one."""
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    at_parents_death(signal.SIGKILL)


def _hear_of_death(parent: int) -> None:
    """Have PARENT_DIED come when the parent is gone; end now if it is already."""
    at_parents_death(PARENT_DIED)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def _end(child: "subprocess.Popen[bytes]", grace: float) -> None:
    """End the whole group, after asking it to where there is time."""
    until = time.monotonic() + grace
    if grace:
        _tell(child, signal.SIGTERM)
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    _tell(child, signal.SIGKILL)


def _tell(child: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
