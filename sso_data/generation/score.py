"""Scoring: which log-probs of a row are asked for, and whether sampling-time ones may stand in."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sso_data.config.run import ScoringConfig
from sso_data.core.records import NEEDED_CELLS, ON_VIEW, OPTIONAL_SCORE, Cell, Response, View
from sso_data.engines.interface import ScoreRequest


def cells_of(drawn: View, *, full: bool, diagonal: bool) -> list[Cell]:
    """The cells to score of a response drawn under `drawn`.

    Eight of nine are needed, the ninth with `full`; the three `seen == drawn` ones come from
    sampling unless `diagonal`.
    """
    wanted = (*NEEDED_CELLS, OPTIONAL_SCORE) if full else NEEDED_CELLS
    return [cell for cell in wanted if cell[1] == drawn and (diagonal or cell not in ON_VIEW)]


def request(
    prompt_ids: Sequence[int], response: Response, *, key: str, was_sampled: bool
) -> ScoreRequest:
    """The request for one cell: the response's own ids after the seen view's prompt."""
    return ScoreRequest(
        key=key,
        prompt_ids=prompt_ids,
        completion_ids=response.token_ids,
        was_sampled=was_sampled,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """How sampling-time and scored log-probs compared; `agreed` decides which ones a run uses."""

    rows: int
    worst_nats_per_token: float
    tolerance: float
    agreed: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class LogprobCheck:
    """Compares the diagonal cells of the first rows, then decides once for the whole run."""

    def __init__(self, config: ScoringConfig, earlier: Mapping[str, Any] | None = None) -> None:
        self._config = config
        self._rows = 0
        self._worst = 0.0
        self.result: CheckResult | None = CheckResult(**earlier) if earlier else None
        if self.result is None and config.verify_rows == 0:
            self.conclude()

    def compare(
        self,
        sampled: Mapping[Cell, float],
        scored: Mapping[Cell, float],
        responses: Mapping[View, Response],
    ) -> None:
        """Take in one row's diagonal cells, total nats from sampling and from scoring."""
        for cell in ON_VIEW:
            difference = abs(sampled[cell] - scored[cell]) / responses[cell[1]].num_tokens
            self._worst = max(self._worst, difference)
        self._rows += 1

    @property
    def rows(self) -> int:
        """Rows compared so far."""
        return self._rows

    def conclude(self) -> CheckResult:
        """Decide, with the rows compared so far."""
        self.result = CheckResult(
            rows=self._rows,
            worst_nats_per_token=self._worst,
            tolerance=self._config.tolerance,
            agreed=self._worst <= self._config.tolerance,
        )
        return self.result
