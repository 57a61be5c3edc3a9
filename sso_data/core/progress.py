"""Progress: how long work tells whoever started it how it goes on."""

from typing import Protocol


class Progress(Protocol):
    """What a long-running function reports to; every public function takes one, or None.

    Speed and time left are the display's to compute, from the calls of `count` and their times.
    """

    def phase(self, text: str) -> None:
        """A new phase of the work began, for example "loading the model"."""
        ...

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        """So many of `total` units (rows, steps, bytes, ...) are done; None: the total is unknown.

        The first call for a unit says what was done before this process began. `state` describes
        the work so far in a few words, for example "kept 61%, 2 failed".
        """
        ...

    def note(self, text: str) -> None:
        """A finding that a person may want to read."""
        ...

    def warn(self, text: str) -> None:
        """Something went wrong, and the work goes on."""
        ...


class NullProgress:
    """A `Progress` that shows nothing."""

    def phase(self, text: str) -> None:
        """Ignored."""

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

    def warn(self, text: str) -> None:
        """Ignored."""
