"""The oracle of the tiny world: an exact score of every answer to one of its queries."""

from collections.abc import Sequence

from sso_data.evaluation.judges.verdicts import (
    Comparison,
    NoVerdict,
    OnProgress,
    OnVerdict,
    Verdict,
    preference_of,
    quiet,
    unheard,
)
from sso_data.world import score

FOREIGN = "foreign_prompt"
"""Why a comparison is refused: the prompt is no query of the tiny world."""


class Oracle:
    """Judges by `world.score` of the answer to the last user turn; equal scores are ties."""

    name = "oracle"
    scores_answers = True

    def compare(
        self,
        comparisons: Sequence[Comparison],
        *,
        on_progress: OnProgress = quiet,
        on_verdict: OnVerdict = unheard,
    ) -> list[Verdict | NoVerdict]:
        results = []
        for done, comparison in enumerate(comparisons, start=1):
            results.append(_verdict(comparison))
            on_verdict(results[-1])
            on_progress(done, len(comparisons))
        return results

    def close(self) -> None:
        """Nothing is open."""


def _verdict(comparison: Comparison) -> Verdict | NoVerdict:
    query = next((m.content for m in reversed(comparison.messages) if m.role == "user"), "")
    try:
        a, b = (score(query, side.text).total for side in (comparison.a, comparison.b))
    except ValueError:
        detail = "the oracle knows the tiny world's queries only; choose another judge"
        return NoVerdict(key=comparison.key, reason=FOREIGN, detail=detail)
    return Verdict(key=comparison.key, preference=preference_of(a, b), scores=(a, b))
