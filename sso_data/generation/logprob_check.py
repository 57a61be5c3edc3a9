"""The comparison of sampling-time log-probs with scored ones that decides which a run uses."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sso_data.config.run import ScoringConfig
from sso_data.core.records import ON_VIEW, Cell, Response, View


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The largest difference over `rows` rows; `agreed`: sampling-time log-probs are used."""

    rows: int
    worst_nats_per_token: float
    tolerance: float
    agreed: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class LogprobCheck:
    """Compares the on-view cells of the first rows, then decides once for the whole run.

    `result` is None until then; `rows` counts the rows compared. Where rows that are made step by
    step stand in for failed ones, their first response alone is compared.
    """

    def __init__(self, config: ScoringConfig, earlier: Mapping[str, Any] | None = None) -> None:
        """`earlier` is the result that a continued run has stored."""
        self._config = config
        self._worst = 0.0
        self.rows = 0
        self.result: CheckResult | None = CheckResult(**earlier) if earlier else None
        if self.result is None and config.verify_rows == 0:
            self.conclude()

    def compare(
        self,
        sampled: Mapping[Cell, float],
        scored: Mapping[Cell, float],
        responses: Mapping[View, Response],
    ) -> None:
        """Compare one row's on-view cells: total nats from sampling and from scoring."""
        for cell in (one for one in ON_VIEW if one in scored):
            difference = abs(sampled[cell] - scored[cell]) / responses[cell[1]].num_tokens
            self._worst = max(self._worst, difference)
        self.rows += 1

    def conclude(self) -> CheckResult:
        """Decide by the rows compared so far, and return the result."""
        self.result = CheckResult(
            rows=self.rows,
            worst_nats_per_token=self._worst,
            tolerance=self._config.tolerance,
            agreed=self._worst <= self._config.tolerance,
        )
        return self.result
