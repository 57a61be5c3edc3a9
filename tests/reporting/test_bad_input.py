"""Runs that are empty, growing, killed, of one row, torn or of an earlier version, in each view."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sso_data.cli.app import app
from sso_data.core.errors import RunError
from sso_data.core.records import Row
from sso_data.reporting.compare import compare
from sso_data.reporting.page import report
from sso_data.reporting.server import Viewer
from tests.factories import make_row, to_line, write_part
from tests.reporting.conftest import Make, rows_of_all_kinds
from tests.reporting.test_report import early, index_of
from tests.upgrade.places import unpacked

Look = Callable[[Path, Path], int]


def reported(run: Path, out: Path) -> int:
    found = index_of(report(run, out).page)
    assert found["kept"] + sum(found["dropped"].values()) == found["rows"]
    return int(found["rows"])


def compared(run: Path, out: Path) -> int:
    """Against a run of two other rows."""
    page = compare([run, out.parent / "other"], out).page
    assert index_of(page)["compared"] in ([], [run.name, "other"])
    return int(index_of(page)["rows"]) or int(report(run, out / "own").rows)


def viewed(run: Path, out: Path) -> int:
    with Viewer(run) as viewer:
        page, rows = viewer.content(""), viewer.content("rows.json")
        assert page and rows
        count = int(json.loads(rows[1])["rows"])
        assert (viewer.content("data/00000.js") is not None) == (count > 0)
        return count


def shown(run: Path, out: Path) -> int:
    done = CliRunner().invoke(app, ["show", str(run), "-n", "100", "--json"])
    told = json.loads(done.stdout)
    if done.exit_code:
        raise RunError(told["error"]["text"])
    assert len(told["shown"]) == told["rows"]
    return int(told["rows"])


@pytest.fixture(params=[reported, compared, viewed, shown], ids=lambda look: look.__name__)
def look(request: pytest.FixtureRequest, make_run: Make) -> Look:
    make_run([make_row(index) for index in (500, 501)], "other")
    found: Look = request.param
    return found


@pytest.mark.parametrize(
    ("rows", "tail"),
    [
        ([make_row(0)], b""),
        (rows_of_all_kinds(), b'{"id": "half a li'),
        (rows_of_all_kinds(), b"\0" * 4096),
        ([make_row(0), early(1, "bad", "good"), early(2, "bad")], b""),
    ],
    ids=["one row", "growing or killed", "a power failure", "without y0 or y+"],
)
def test_what_is_there_is_shown(
    look: Look, make_run: Make, tmp_path: Path, rows: list[Row], tail: bytes
) -> None:
    run = make_run(rows)
    part = run / "rows/00000.jsonl"
    part.write_bytes(part.read_bytes() + tail)
    assert look(run, tmp_path / "out") == len(rows)
    assert part.read_bytes().endswith(tail), "it reads only"


def test_an_empty_run(look: Look, make_run: Make, tmp_path: Path) -> None:
    run = make_run([])
    if look is shown:
        with pytest.raises(RunError, match="run: holds no rows yet"):
            look(run, tmp_path / "out")
        return
    assert look(run, tmp_path / "out") == 0


def test_side_files_of_an_earlier_start_are_not_needed(
    look: Look, make_run: Make, tmp_path: Path
) -> None:
    """Killed between a row and its record: the side file is shorter than the journal."""
    run = make_run([make_row(0), make_row(1)])
    (run / "rows/00000.scores").write_bytes(b"SSOSCORE\1")
    assert look(run, tmp_path / "out") == 2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda part: part.write_bytes(part.read_bytes()[:300] + b"\n"), r"00000\.jsonl:1"),
        (lambda part: part.write_bytes(b"not a row\n"), r"00000\.jsonl:1"),
        (lambda part: write_part(part.parents[1], [make_row(0)], 1), "twice|00001"),
        (lambda part: (part.parents[1] / "run.json").unlink(), "make a run with"),
        (lambda part: (part.parents[1] / "run.json").write_text("{"), r"run\.json"),
    ],
    ids=["torn", "foreign", "a row twice", "no run.json", "a torn run.json"],
)
def test_what_is_wrong_is_named_in_a_line(
    look: Look,
    make_run: Make,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    said: str,
) -> None:
    run = make_run([make_row(0), make_row(1)])
    spoil(run / "rows/00000.jsonl")
    with pytest.raises(RunError, match=said) as caught:
        look(run, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_run_of_the_first_version(look: Look, tmp_path: Path) -> None:
    run = unpacked("run", tmp_path) / "run"
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    count = sum(len(part.read_bytes().splitlines()) for part in (run / "rows").glob("*.jsonl"))
    assert 0 < look(run, tmp_path / "out") <= count
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}


def test_the_folder_of_another_runs_report(make_run: Make, tmp_path: Path) -> None:
    """It is kept, or replaced as a whole where that is asked for; a stranger's never."""
    first, second = make_run([make_row(i) for i in range(70)], "a"), make_run([make_row(0)], "b")
    out = tmp_path / "out"
    report(first, out)
    with pytest.raises(RunError, match="holds an earlier report; use another --out, or --over"):
        report(second, out)
    assert len(list((out / "data").iterdir())) == 2
    report(second, out, overwrite=True)
    assert index_of(out / "index.html")["name"] == "b" and len(list((out / "data").iterdir())) == 1
    (out / "mine.txt").write_text("a note")
    with pytest.raises(RunError, match=r"holds mine\.txt, which report did not write"):
        report(first, out, overwrite=True)
    with pytest.raises(RunError, match="not empty and not made by report"):
        report(first, second, overwrite=True)


def test_a_run_that_breaks_while_it_is_viewed(make_run: Make) -> None:
    run = make_run([make_row(0), make_row(1)])
    part = run / "rows/00000.jsonl"
    with Viewer(run) as viewer:
        part.write_bytes(part.read_bytes().replace(b"A good answer to question 1", b"X"))
        with pytest.raises(RunError, match=r"00000\.jsonl:2"):
            viewer.content("data/00000.js")
        part.write_bytes(part.read_bytes() + to_line(make_row(2)))
        with suppress(RunError):
            viewer.content("")
        assert len(viewer.found.scores) >= 2
