"""Counts of a steering by models: choices, written texts, and what had to be replaced."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from sso_data.core.records import JsonRow
from sso_data.steering.by_model import ACCEPTED


@dataclass(slots=True)
class SteeringCounts:
    """Choices and texts of the prompts steered, and those that rule or catalogue replaced.

    `*_reasons` count the unusable answers, those that were asked for again included.
    """

    prompts: int = 0
    choices: int = 0
    fallbacks: int = 0
    texts: int = 0
    replaced: int = 0
    choice_reasons: Counter[str] = field(default_factory=Counter)
    text_reasons: Counter[str] = field(default_factory=Counter)

    def add(self, line: JsonRow) -> None:
        """Count a finished line of steering.jsonl."""
        if line["kind"] != "steering":
            return
        self.prompts += 1
        choices = [line["choice"]] if "choice" in line else []
        self.choices += len(choices)
        self.fallbacks += bool(choices) and line["chosen_by"] == "fallback"
        written = line.get("written", {}).values()
        self.texts += len(written)
        self.replaced += sum(one["by"] == "catalogue" for one in written)
        self.choice_reasons.update(_unusable(choices))
        self.text_reasons.update(_unusable(written))

    @property
    def fallback_share(self) -> float:
        """Choices that the rule had to make, as a share of all."""
        return self.fallbacks / self.choices if self.choices else 0.0

    @property
    def replaced_share(self) -> float:
        """Texts that the catalogue had to give, as a share of all."""
        return self.replaced / self.texts if self.texts else 0.0

    @property
    def state(self) -> str:
        """The shares of replaced choices and texts in a few words, where there are any."""
        parts = (
            f"{self.fallback_share:.0%} of choices made by rule" if self.fallbacks else "",
            f"{self.replaced_share:.0%} of texts from the catalogue" if self.replaced else "",
        )
        return ", ".join(filter(None, parts))

    def summary(self) -> list[str]:
        """Return one line about the choices and one about the texts, where there are any."""
        found = []
        if self.choices:
            found.append(
                f"{self.choices} choices: {self.choices - self.fallbacks} by the policy, "
                f"{self.fallbacks} by rule ({self.fallback_share:.1%})"
            )
        if self.texts:
            found.append(
                f"{self.texts} principles: {self.texts - self.replaced} written, {self.replaced} "
                f"from the catalogue ({self.replaced_share:.1%})"
            )
        return found

    def warnings(self, max_share: float) -> list[str]:
        """Return a warning where more than `max_share` of the choices or texts were replaced."""
        chosen, written = f"{self.fallback_share:.0%}", f"{self.replaced_share:.0%}"
        rule = f"the rule chose the features of {chosen} of the prompts"
        catalogue = f"the catalogue gave {written} of the principles"
        shares = (
            (self.fallback_share, self.choice_reasons, rule),
            (self.replaced_share, self.text_reasons, catalogue),
        )
        return [
            f"{what}; unusable answers: "
            + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
            + "; see docs/principles.md (a run keeps them in steering.jsonl)"
            for share, reasons, what in shares
            if share > max_share
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the counts, reasons sorted."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        for reasons in ("choice_reasons", "text_reasons"):
            found[reasons] = dict(sorted(found[reasons].items()))
        return found


def _unusable(asked: Iterable[JsonRow]) -> Iterator[str]:
    """Yield the outcomes of unusable answers."""
    for one in asked:
        for attempt in one.get("attempts", ()):
            if attempt["outcome"] != ACCEPTED:
                yield attempt["outcome"]
