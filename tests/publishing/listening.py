"""A `Progress` that remembers."""


class Listening:
    """Phases, notes and warnings of a push, and its counts of bytes."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bytes: list[tuple[int, int | None]] = []

    def phase(self, text: str) -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)

    def count(self, done: int, total: int | None, unit: str, state: str = "") -> None:
        assert unit == "bytes"
        self.bytes.append((done, total))
