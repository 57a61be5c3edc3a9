"""What models said about the prompts of a run: where it is kept, and how much of it was of use."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from sso_data.core.records import JsonRow
from sso_data.steering.by_model import ACCEPTED, content_of


class Book(Protocol):
    """Where lines about prompts are kept."""

    def find(self, kind: str, row: str) -> JsonRow | None:
        """The line of a kind about a row."""
        ...

    def written(self, content: str, feature: str) -> JsonRow | None:
        """The line of a prompt of this content for which a feature's texts were asked."""
        ...

    def add(self, line: JsonRow) -> None: ...


class MemoryBook:
    """Lines that are thrown away in the end."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], JsonRow] = {}
        self._texts: dict[tuple[str, str], JsonRow] = {}

    def find(self, kind: str, row: str) -> JsonRow | None:
        return self._lines.get((kind, row))

    def written(self, content: str, feature: str) -> JsonRow | None:
        return self._texts.get((content, feature))

    def add(self, line: JsonRow) -> None:
        self._lines[line["kind"], line["id"]] = line
        for feature, told in line.get("written", {}).items():
            if "attempts" in told:
                self._texts[content_of(line["id"]), feature] = line


@dataclass(slots=True)
class SteeringCounts:
    """What became of choices and of texts.

    `*_reasons` count the answers that were of no use, those that were asked for again included.
    """

    prompts: int = 0
    choices: int = 0
    fallbacks: int = 0
    texts: int = 0
    replaced: int = 0
    choice_reasons: Counter[str] = field(default_factory=Counter)
    text_reasons: Counter[str] = field(default_factory=Counter)

    def add(self, line: JsonRow) -> None:
        """Count a finished line."""
        if line["kind"] != "steering":
            return
        self.prompts += 1
        told = [line["choice"]] if "choice" in line else []
        self.choices += len(told)
        self.fallbacks += bool(told) and line["chosen_by"] == "fallback"
        written = line.get("written", {}).values()
        self.texts += len(written)
        self.replaced += sum(one["by"] == "catalogue" for one in written)
        self.choice_reasons.update(_failed(told))
        self.text_reasons.update(_failed(written))

    @property
    def fallback_share(self) -> float:
        """Choices that the rule had to make, as a share of all."""
        return self.fallbacks / self.choices if self.choices else 0.0

    @property
    def replaced_share(self) -> float:
        """Texts that the catalogue had to give, as a share of all."""
        return self.replaced / self.texts if self.texts else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "prompts": self.prompts,
            "choices": self.choices,
            "fallbacks": self.fallbacks,
            "texts": self.texts,
            "replaced": self.replaced,
            "choice_reasons": dict(sorted(self.choice_reasons.items())),
            "text_reasons": dict(sorted(self.text_reasons.items())),
        }


def _failed(told: Iterable[JsonRow]) -> Iterator[str]:
    """The outcomes of answers that were of no use."""
    for one in told:
        for attempt in one.get("attempts", ()):
            if attempt["outcome"] != ACCEPTED:
                yield attempt["outcome"]
