"""Where the rows of an export went: exported, or left out for a reason; and what that means."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sso_data.core.records import Row, View
from sso_data.exporting.formats import Format
from sso_data.exporting.rows import question_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote: `rows = exported + skipped by reason`.

    `holds` says what the rows are, pairs or answers; `files` are the data and recipe files in
    `directory`; `notes` say what the user should know; `next` is the command to run.
    """

    directory: Path
    format: str
    holds: str
    rows: int
    exported: int
    skipped: Mapping[str, int]
    files: tuple[str, ...]
    notes: tuple[str, ...]
    next: str

    def __post_init__(self) -> None:
        if self.rows != self.exported + sum(self.skipped.values()):
            raise AssertionError(f"{self.rows} rows, but {self.exported} + {dict(self.skipped)}")

    @property
    def account(self) -> str:
        """The books, one line."""
        parts = "".join(f" + {count} {reason}" for reason, count in self.skipped.items())
        return f"{self.holds} {self.rows} = exported {self.exported}{parts}"


class ExportCounts:
    """Counts the rows of an export as they come."""

    def __init__(self, wanted: Format, drawn: View) -> None:
        self._format = wanted
        self._drawn = drawn
        self._questions = set[int | str | None]()
        self.rows = self.exported = 0
        self._doubtful = self._cut_off = 0
        self.skipped = Counter[str]()

    def takes(self, row: Row) -> bool:
        """Count a row, and say whether it is exported."""
        self.rows += 1
        reason = self._format.unfit(row) or self._repeated(row)
        if reason:
            self.skipped[reason] += 1
            return False
        self.exported += 1
        self._doubtful += self._format.doubtful is not None and self._format.doubtful(row)
        self._cut_off += row.responses[self._drawn].finish_reason != "stop"
        return True

    def nothing(self, run: Path) -> str:
        """One line for an export without a row."""
        parts = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        return (
            f"{run}: none of its {self.rows} {self._format.holds} can be exported ({parts}): "
            f"{self._format.name} holds {self._format.wants}"
        )

    def notes(self) -> Iterator[str]:
        """What the user should know of rows that were left out, or say less than they did."""
        if self.skipped:
            yield (
                f"{self.rows - self.exported} of {self.rows} {self._format.holds} are left out: "
                f"{self._format.name} holds {self._format.wants}"
            )
        if self._doubtful:
            yield f"{self._doubtful} of the exported {self._format.holds} {self._format.doubt}"
        if self._format.holds == "answers" and self._cut_off:
            yield f"{self._cut_off} of the exported answers were cut off (sampling.max_tokens)"

    def _repeated(self, row: Row) -> str | None:
        """MT-Bench files hold one answer a question; a benchmark has few of them."""
        if self._format.name != "mt-bench":
            return None
        question = question_id(row)
        if question in self._questions:
            return "repeated_question"
        self._questions.add(question)
        return None
