"""Rows of a run by id, reason and principle, in an order, with the decision that stands."""

from dataclasses import replace
from pathlib import Path

import pytest

from sso_data.core.errors import ConfigError, InputError, RunError
from sso_data.core.records import Failure
from sso_data.filtering.selection import select
from sso_data.runs.jsonl import to_line
from tests.exporting.making import make_run
from tests.factories import make_row


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four rows: kept, gap, off_policy, truncated; the last steered by another principle."""
    rows = [
        make_row(0),
        make_row(1, means={("good", "bad"): -0.53, ("plain", "bad"): -0.51}),
        make_row(2, means={("plain", "good"): -1.5}),
        make_row(3, finish={"good": "length"}),
    ]
    rows[3] = replace(rows[3], steering=replace(rows[3].steering, features=("Safety", "Accuracy")))
    return make_run(tmp_path / "run", rows)


def sources(run: Path, *ids: str, **wanted: object) -> list[str | None]:
    return [one.row.source_id for one in select(run, ids, **wanted).chosen]  # type: ignore[arg-type]


def test_every_way_to_choose(run: Path) -> None:
    assert sources(run) == ["source-0", "source-1", "source-2"]
    found = select(run, reason="gap")
    assert [(one.row.source_id, one.reason) for one in found.chosen] == [("source-1", "gap")]
    assert (found.matching, found.rows) == (1, 4)
    assert sources(run, reason="kept") == ["source-0"]
    assert sources(run, reason="truncated") == ["source-3"]
    assert sources(run, principle="safety") == ["source-3"]
    assert sources(run, sort="gap", number=4)[-1] == "source-1", "the smallest gap comes last"
    assert sources(run, sort="closeness")[0] == "source-2", "the farthest comes first"
    assert len(sources(run, principle="accuracy", number=9)) == 4
    assert sources(run, principle="safety", reason="kept") == []
    with pytest.raises(ConfigError, match=r"'Accuracy'\?; rows were steered by Accuracy, "):
        sources(run, principle="acuracy", reason="kept")


def test_ids_are_whole_or_starts_or_the_users_own(run: Path) -> None:
    row = select(run).chosen[0].row
    for name in (row.id, row.id[:8], "source-0"):
        assert sources(run, name) == ["source-0"]
    assert sources(run, "source-3", "source-1") == ["source-1", "source-3"]


def test_what_is_not_there_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nobody: no row"):
        select(run, ["nobody"])
    failure = Failure(id="abc-0", stage="sample", reason="prompt_too_long", detail="9 of 8 tokens")
    (run / "failed.jsonl").write_bytes(to_line(failure.to_json()))
    with pytest.raises(InputError, match="its prompt failed: sample, prompt_too_long"):
        select(run, ["abc"])
    with pytest.raises(ConfigError, match="--reason dull: must be one of kept, empty"):
        select(run, reason="dull")
    with pytest.raises(ConfigError, match="--sort dull"):
        select(run, sort="dull")
    with pytest.raises(RunError, match="no rows yet"):
        select(make_run(tmp_path / "empty", [], kept=False))
