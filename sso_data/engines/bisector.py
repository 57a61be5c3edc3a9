"""The search for the row that kills engines."""

from collections import Counter
from collections.abc import Collection, Iterable


class CrashBisector:
    """Narrows crashes down to a row, by bisection.

    A single crash blames no row: engines are also killed from outside. Rows in flight at two
    crashes are suspects and are bisected: one group of them after the other runs, with no other
    row on its engine. A row that crashes the engine twice while it runs alone, without an answer
    in between, is the culprit; no other row is refused.
    """

    def __init__(self) -> None:
        self._before: set[str] = set()
        self._groups: list[list[str]] = []
        self._deaths_alone: Counter[str] = Counter()

    @property
    def narrowing(self) -> bool:
        """Return True while there are suspects."""
        return bool(self._groups)

    @property
    def group(self) -> Collection[str]:
        """The suspects that may run now."""
        return self._groups[-1] if self._groups else ()

    @property
    def suspects(self) -> set[str]:
        """The rows that run only as part of `group`."""
        return {row for group in self._groups for row in group}

    def answered(self, row: str) -> None:
        """A request of this row was answered."""
        self._deaths_alone.pop(row, None)

    def finished(self, row: str) -> None:
        """Nothing of this row is open any more."""
        self._before.discard(row)

    def forget_answered(self, open_rows: Collection[str]) -> None:
        """Go on to the next group when nothing of the present one is open any more."""
        while self._groups and not any(row in open_rows for row in self._groups[-1]):
            self._groups.pop()

    def on_crash(self, rows: Iterable[str]) -> str | None:
        """An engine died while these rows were under way; returns the culprit, once it is known."""
        under_way = list(dict.fromkeys(rows))
        if not under_way:
            return None
        narrowed = under_way[0] in self.group
        if narrowed:
            self._groups.pop()
        if len(under_way) == 1:
            row = under_way[0]
            self._deaths_alone[row] += 1
            if self._deaths_alone[row] > 1:
                return row
            again = under_way
        else:
            again = under_way if narrowed else [row for row in under_way if row in self._before]
        self._before.update(under_way)
        middle = len(again) // 2  # the half to run first comes last
        groups = [half for half in (again[middle:], again[:middle]) if half]
        self._groups = [*self._groups, *groups] if narrowed else [*groups, *self._groups]
        return None
