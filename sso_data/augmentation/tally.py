"""What became of the attempts: counts by operation and by reason, as the report tells them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sso_data.augmentation.attempts import OPERATIONS

DUPLICATES = ("duplicate_of_seed", "near_duplicate_of_seed", "duplicate", "near_duplicate")


@dataclass(slots=True)
class AttemptCounts:
    """Counts of the attempts decided so far; `idle` is how many since the last accepted query."""

    accepted: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, Counter[str]] = field(default_factory=dict)
    files: Counter[str] = field(default_factory=Counter)
    idle: int = 0

    @property
    def num_accepted(self) -> int:
        return self.accepted.total()

    @property
    def num_attempts(self) -> int:
        return self.num_accepted + sum(reasons.total() for reasons in self.rejected.values())

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected attempts by reason, the most frequent first."""
        total = Counter[str]()
        for reasons in self.rejected.values():
            total.update(reasons)
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    def accept(self, operation: str) -> None:
        """Count an accepted query."""
        self.accepted[operation] += 1
        self.idle = 0

    def reject(self, operation: str, reason: str, file: str | None) -> None:
        """Count a rejected attempt; `file` is the benchmark that it overlaps with."""
        self.rejected.setdefault(operation, Counter())[reason] += 1
        if file is not None:
            self.files[file] += 1
        self.idle += 1

    def copy(self) -> "AttemptCounts":
        """The counts as they are now."""
        return AttemptCounts(
            accepted=self.accepted.copy(),
            rejected={operation: reasons.copy() for operation, reasons in self.rejected.items()},
            files=self.files.copy(),
            idle=self.idle,
        )

    def to_json(self) -> dict[str, Any]:
        """The counts of the report."""
        return {
            "accepted": self.num_accepted,
            "attempts": self.num_attempts,
            "rejected": self.reasons,
            "operations": {
                operation: {
                    "accepted": self.accepted[operation],
                    "rejected": _by_count(self.rejected.get(operation, {})),
                }
                for operation in OPERATIONS
                if self.accepted[operation] or operation in self.rejected
            },
        }

    def in_words(self) -> str:
        """The reasons and their counts on one line."""
        return ", ".join(f"{reason} {count}" for reason, count in self.reasons.items()) or "none"


def _by_count(reasons: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
