"""The checks of principles as judge: the answer that follows their good sides better is better."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from sso_data.evaluation.verdicts import Comparison, NoVerdict, Verdict, preference_of
from sso_data.steering.principles import load_catalogue

_CATALOGUE = Path("checkable")


class RuleJudge:
    """Scores an answer by the checks of its row's principles: the mean degree, 0 to 1.

    Principles without a check in the catalogue do not count; without any other there is no verdict
    (`no_check`). Equal scores are ties.
    """

    name = "rule"

    def __init__(self, catalogue: Path | None) -> None:
        """Raises InputError where the catalogue cannot be read."""
        self._catalogue = catalogue or _CATALOGUE
        self._checks = load_catalogue(self._catalogue).checks

    def compare(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict | NoVerdict]:
        for one in comparisons:
            checks = [self._checks[name] for name in one.principles if name in self._checks]
            if checks:
                a, b = (fmean(c.degree(side.text) for c in checks) for side in (one.a, one.b))
                yield Verdict(key=one.key, preference=preference_of(a, b), scores=(a, b))
            else:
                names = ", ".join(one.principles) or "a row without principles"
                detail = f"{names}: no check in the catalogue {self._catalogue}; --judge rule:DIR"
                yield NoVerdict(key=one.key, reason="no_check", detail=detail)

    def close(self) -> None:
        """Nothing is open."""


def checks_fingerprint(catalogue: Path | None) -> str:
    """Return a hash of a catalogue's checks: 16 hexadecimal digits."""
    checks = load_catalogue(catalogue or _CATALOGUE).checks
    found = {name: one.model_dump() for name, one in checks.items()}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
