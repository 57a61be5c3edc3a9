"""Counts of a steering by models: choices, written texts, and what had to be replaced."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from sso_data.core.records import JsonRow
from sso_data.steering.by_model import ACCEPTED

_LEAST_CHOICES = 20
"""Fewest choices of the policy after which a habit is warned of."""

_SAME_SHARE, _FAR = 0.9, 3.5
"""Share of the commonest choice, and standard errors of a place's share, that are warned of."""

_SHOWN_SETS = 5


@dataclass(slots=True)
class SteeringCounts:
    """Choices and texts of the prompts steered, and those that rule or catalogue replaced.

    `*_reasons` count the unusable answers, those that were asked for again included. `sets` counts
    the policy's choices, `places` where its names stood in the list that it was offered (from 0;
    each prompt has an order of its own), `offered` the names in that list.
    """

    prompts: int = 0
    choices: int = 0
    fallbacks: int = 0
    texts: int = 0
    replaced: int = 0
    choice_reasons: Counter[str] = field(default_factory=Counter)
    text_reasons: Counter[str] = field(default_factory=Counter)
    sets: Counter[tuple[str, ...]] = field(default_factory=Counter)
    places: Counter[int] = field(default_factory=Counter)
    offered: int = 0

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
        for choice in choices:
            if places := choice.get("places"):  # earlier versions did not note them
                self.sets[tuple(sorted(line["principles"][: len(places)]))] += 1
                self.places.update(places)
                self.offered = choice["offered"]

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

    @property
    def habits(self) -> Iterator[str]:
        """Yield warnings of choices that hardly vary, or that go by the order of the names.

        The order is drawn for each prompt, so that without a habit every place is named as often.
        """
        number = self.sets.total()
        if number < _LEAST_CHOICES:
            return
        names, most = self.sets.most_common(1)[0]
        if most > _SAME_SHARE * number:
            yield (
                f"the policy named {' and '.join(names)} for {most / number:.0%} of the prompts, "
                "whatever they ask; steering.choose=random or fixed costs less"
            )
        chance = self.places.total() / number / self.offered
        error = math.sqrt(number * chance * (1 - chance))
        place, named = self.places.most_common(1)[0]
        if named - number * chance > _FAR * error:
            yield (
                f"the policy named whatever stood in place {place + 1} of {self.offered} for "
                f"{named / number:.0%} of the prompts ({chance:.0%} if the order meant nothing): "
                "its choice goes by the order; steering.choose=random is as good"
            )

    def warnings(self, max_share: float) -> list[str]:
        """Return warnings: over `max_share` of choices or texts replaced, and `habits`."""
        chosen, written = f"{self.fallback_share:.0%}", f"{self.replaced_share:.0%}"
        rule = f"the rule chose the features of {chosen} of the prompts"
        catalogue = f"the catalogue gave {written} of the principles"
        shares = (
            (self.fallback_share, self.choice_reasons, rule),
            (self.replaced_share, self.text_reasons, catalogue),
        )
        replaced = [
            f"{what}; unusable answers: "
            + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
            + "; see docs/principles.md (a run keeps them in steering.jsonl)"
            for share, reasons, what in shares
            if share > max_share
        ]
        return [*replaced, *self.habits]

    def to_json(self) -> dict[str, Any]:
        """Return the counts, reasons sorted."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        for reasons in ("choice_reasons", "text_reasons"):
            found[reasons] = dict(sorted(found[reasons].items()))
        found["sets"] = {", ".join(names): n for names, n in self.sets.most_common(_SHOWN_SETS)}
        found["places"] = {str(place + 1): n for place, n in sorted(self.places.items())}
        return found


def _unusable(asked: Iterable[JsonRow]) -> Iterator[str]:
    """Yield the outcomes of unusable answers."""
    for one in asked:
        for attempt in one.get("attempts", ()):
            if attempt["outcome"] != ACCEPTED:
                yield attempt["outcome"]
