"""A command that is killed half-way through a write: `python -m tests.upgrade.dying FILE K WORDS`.

WORDS are those of `sso-data`. The K-th write to a file whose path ends in FILE puts half of its
bytes there, and then the process kills itself by SIGKILL.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.reliability.injector import Os, in_place_of_os


class Dying(Os):
    """Writes half of what the k-th write to a file of this name is given, and dies."""

    def __init__(self, name: str, k: int) -> None:
        super().__init__()
        self._name, self._left = name, k

    def around(self, name: str, real: Callable[..., Any], *args: Any) -> Any:
        if name == "write" and _path_of(args[0]).endswith(self._name):
            self._left -= 1
            if not self._left:
                real(args[0], args[1][: max(1, len(args[1]) // 2)])
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)


def _path_of(descriptor: int) -> str:
    """The path of an open file, as Linux tells it."""
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def main() -> None:
    """Run the command until it dies."""
    name, k, *words = sys.argv[1:]
    from sso_data.cli import app

    with in_place_of_os(Dying(name, int(k))):
        app(words)


if __name__ == "__main__":
    main()
