"""The corpus of hostile and broken inputs: each ends as its row of the table says."""

from collections import Counter

import pytest
from _pytest.mark import ParameterSet

from tests.hostile import catalogues, configurations, model_dirs, prompt_files, rows, runs
from tests.hostile.cases import Case
from tests.hostile.conftest import Run
from tests.reliability.chaos import CHAOS

MARKERS = {"a pickle was loaded", "code ran", "ran"}
CASES: list[Case] = [
    *prompt_files.CASES,
    *rows.CASES,
    *configurations.CASES,
    *catalogues.CASES,
    *model_dirs.CASES,
    *runs.CASES,
]


def _parameter(case: Case) -> ParameterSet:
    marks = [pytest.mark.skipif(not CHAOS, reason="minutes and gigabytes: make chaos")]
    return pytest.param(case, id=f"{case.area}: {case.name}", marks=marks if case.slow else [])


@pytest.mark.parametrize("case", [_parameter(case) for case in CASES])
def test_case(case: Case, run_case: Run) -> None:
    done, place = run_case(case)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    case.outcome.check(done, place)
    assert not {file.name for file in place.folder.rglob("*")} & MARKERS, "code of others was run"


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(CASES) >= 160
    assert not [
        name for name, count in Counter((c.area, c.name) for c in CASES).items() if count > 1
    ]
