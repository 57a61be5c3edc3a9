"""A listener that remembers."""


class Listening:
    """What a push said: phases and notes, and how many bytes had gone."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bytes: list[tuple[int, int]] = []

    def phase(self, text: str) -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        self.said.append(text)

    def sent(self, done: int, total: int) -> None:
        self.bytes.append((done, total))
