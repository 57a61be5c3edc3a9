"""Verdicts of judges about the rows of a run: those of its evaluation, or of its round."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sso_data.core.paths import public_name, real_path
from sso_data.evaluation.judges import stored_verdicts
from sso_data.evaluation.run import EVALUATION, MODEL
from sso_data.evaluation.statistics import rate_of
from sso_data.evaluation.verdicts import Verdict
from sso_data.filtering.filters import Decision
from sso_data.reporting.checks import Found
from sso_data.runs.columns import are_representative, row_key
from sso_data.runs.journal import Scores
from sso_data.runs.workdir import read_manifest

SIGNAL = "chosen against rejected"
_OWN = "original against that of the first round"
_SCORED = "score of original"
_RUNS, _GENERATOR_RUN = ("run", "generator-run"), "generator-run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The verdicts of one judge on one question, by the position of the row.

    `for_all`: the positions of the rows that stand for all of the run.
    """

    judge: str
    question: str
    verdicts: Mapping[int, Verdict]
    for_all: frozenset[int]

    def summary(self, decision: Decision) -> dict[str, Any]:
        """Return its line of the ledger: rates (1: the first named is better) with intervals."""
        is_score = self.question == _SCORED
        said = {
            place: one.scores[0] if is_score and one.scores else one.preference
            for place, one in self.verdicts.items()
        }
        kept = [said[place] for place in decision.kept.tolist() if place in said]
        every = [value for place, value in said.items() if place in self.for_all]
        rates = [] if is_score else [rate_of(every), rate_of(kept)]
        return {
            "judge": self.judge,
            "question": self.question,
            "rows": len(every),
            "mean": round(sum(every) / len(every), 5) if every else None,
            "rates": [[one.value, one.low, one.high, one.n] for one in rates],
        }

    def unlike(self, decision: Decision) -> Found:
        """Return the kept rows whose rejected response the judge prefers."""
        judged = [place for place in decision.kept.tolist() if place in self.verdicts]
        return Found(
            name="judge",
            title=f"{self.judge} prefers rejected",
            rows=[place for place in judged if self.verdicts[place].preference < 0.5],
            of=len(judged),
        )


def judged(run: Path, scores: Scores) -> list[Judged]:
    """Return what judges said of a run's rows; nothing where it is of no evaluation or round.

    Verdicts on y+ and y- of a round with a generator are about the generator's run. Raises RunError
    where they cannot be read.
    """
    folder = real_path(run)
    evaluation = read_manifest(folder.parent, EVALUATION) if folder.name == MODEL else None
    if not evaluation and not (folder.name in _RUNS and (folder.parent / "round.json").is_file()):
        return []
    only = None
    if not evaluation and (folder.parent / _GENERATOR_RUN).is_dir():
        only = "signal" if folder.name == _GENERATOR_RUN else "own"
    against = public_name(str(evaluation["against"])) if evaluation else ""
    places = {key: place for place, key in enumerate(scores.keys().tolist())}
    for_all = frozenset(np.flatnonzero(are_representative(scores.rows)).tolist())
    found: list[Judged] = []
    for judge, verdicts in stored_verdicts(folder.parent):
        asked: dict[str, dict[int, Verdict]] = {}
        for key, verdict in verdicts.items():
            row, _, what = key.partition("/")
            own = _SCORED if verdict.scores else _OWN
            question = {"signal": SIGNAL, "own": own, "": f"original against {against}"}.get(what)
            place = places.get(row_key(row))
            if question and place is not None and only in (None, what):
                asked.setdefault(question, {})[place] = verdict
        found += [
            Judged(
                judge=judge,
                question=question,
                verdicts=dict(sorted(those.items())),
                for_all=for_all,
            )
            for question, those in sorted(asked.items())
        ]
    return found


def of_row(found: list[Judged], place: int) -> Iterator[list[Any]]:
    """Yield [judge, question, preference, scores, what it said] about a row."""
    for one in found:
        if verdict := one.verdicts.get(place):
            scores = list(verdict.scores) if verdict.scores else None
            yield [one.judge, one.question, verdict.preference, scores, verdict.detail]
