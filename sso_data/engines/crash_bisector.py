"""Which rows may run after an engine died, until the one that kills it is found."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence


class CrashBisector:
    """Narrows deaths down to a row, by halves.

    A first death accuses nobody: engines are killed for reasons of their own. Rows that were under
    way in two deaths in a row are run in halves, and the half that the engine dies with in halves
    again. A row with which alone the engine died twice, and answered nothing between, is culprit;
    nothing else ever is.
    """

    def __init__(self) -> None:
        self._before: frozenset[str] = frozenset()
        self._groups: list[list[str]] = []
        self._deaths_alone: Counter[str] = Counter()

    @property
    def narrowing(self) -> bool:
        """Whether only some rows may run."""
        return bool(self._groups)

    def allows(self, row: str) -> bool:
        """Whether requests of this row may run now."""
        return not self._groups or row in self._groups[-1]

    def answered(self, row: str) -> None:
        """A request of this row was answered."""
        self._deaths_alone.pop(row, None)

    def forget_answered(self, open_rows: Collection[str]) -> None:
        """Go on to the next group when nothing of the present one is open any more."""
        while self._groups and not any(row in open_rows for row in self._groups[-1]):
            self._groups.pop()

    def on_crash(self, rows: Iterable[str]) -> str | None:
        """The engine died while these rows were under way; returns the row that is culprit."""
        under_way = list(dict.fromkeys(rows))
        if not under_way:
            return None
        group = self._groups.pop() if self._groups else None
        if len(under_way) == 1:
            return self._died_alone(under_way[0])
        if group is None:
            again = [row for row in under_way if row in self._before]
            self._before = frozenset(under_way)
            self._groups += _halves(again)
        else:
            self._groups += _halves(under_way)
        return None

    def _died_alone(self, row: str) -> str | None:
        self._deaths_alone[row] += 1
        if self._deaths_alone[row] > 1:
            return row
        self._groups.append([row])
        return None


def _halves(rows: Sequence[str]) -> list[list[str]]:
    """The rows in two groups, the one to run first last; a group without rows is left out."""
    middle = len(rows) // 2
    return [list(half) for half in (rows[middle:], rows[:middle]) if half]
