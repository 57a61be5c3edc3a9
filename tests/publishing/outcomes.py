"""What became of pushes with a failure in them, counted by the kind of failure."""

from collections import Counter
from dataclasses import dataclass, field

TABLES: list["Table"] = []


@dataclass
class Table:
    """A Markdown table: a row for each kind of failure, at every request of a push."""

    title: str
    requests: int
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def count(self, kind: str, outcome: str) -> None:
        self.counts.setdefault(kind, Counter())[outcome] += 1

    def lines(self) -> list[str]:
        outcomes = ("went on by itself", "ended, the next one went on", "exact at the end")
        head = [
            f"{self.title}, at each of its {self.requests} requests:",
            "",
            f"| failure | pushes | {' | '.join(outcomes)} |",
            "|---|--:|--:|--:|--:|",
        ]
        rows = []
        for kind, counts in self.counts.items():
            healed, ended = counts["healed"], counts["ended"]
            total = healed + ended
            rows.append(f"| {kind} | {total} | {healed} | {ended} | {counts['exact']} |")
        return [*head, *rows]
