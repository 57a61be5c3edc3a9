"""Who is told how a training goes on; training itself prints nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLog:
    """One line of metrics: `step` of `total`, and the values by name (means over rows)."""

    step: int
    total: int
    values: Mapping[str, float]

    def __str__(self) -> str:
        """Loss, W, margins with accuracies, plain-view log-probs, lengths; what there is."""
        found = self.values
        parts = [f"{name} {found[name]:.4g}" for name in ("loss", "eval_loss") if name in found]
        if "weight" in found:
            parts.append(f"W {found['weight']:.3f}")
        for name in ("base", "good", "bad"):
            if f"margin_{name}" in found:
                accuracy = found[f"accuracy_{name}"]
                parts.append(f"D {name} {found[f'margin_{name}']:+.3f} ({accuracy:.0%})")
        if "logp_chosen" in found:
            pair = f"{found['logp_chosen']:.3f}/{found['logp_rejected']:.3f}"
            parts.append(f"log-prob {pair}")
        if "tokens_chosen" in found:
            parts.append(f"tokens {found['tokens_chosen']:.0f}/{found['tokens_rejected']:.0f}")
        return ", ".join(parts)


class TrainListener(Protocol):
    """Who is told how a training goes on."""

    def phase(self, text: str) -> None:
        """A new phase began, for example loading the model."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...

    def warn(self, text: str) -> None:
        """Something to look at."""
        ...

    def steps(self, done: int, total: int) -> None:
        """Training begins, `done` of `total` steps being behind it."""
        ...

    def step(self, log: StepLog) -> None:
        """Another line of metrics."""
        ...


class NullProgress:
    """A listener that hears nothing: that of every process but the first."""

    def phase(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def steps(self, done: int, total: int) -> None: ...

    def step(self, log: StepLog) -> None: ...
