"""Runs side by side: joined by prompt, differences with their intervals, judges, the same bytes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sso_data.cli.app import app
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.statistics import Estimate, difference, wilson
from sso_data.filtering.refilter import refilter, run_config
from sso_data.reporting.compare import compare
from sso_data.reporting.page import report
from sso_data.runs.columns import row_key
from sso_data.runs.journal import FIRST_ROWS
from sso_data.runs.jsonl import sealed
from sso_data.runs.workdir import write_json
from tests.factories import make_row
from tests.reporting.conftest import HOSTILE, Make, asked, rows_of_all_kinds
from tests.reporting.test_report import checks_of, early, index_of, rows_of


@pytest.fixture
def two(make_run: Make) -> tuple[Path, Path]:
    """Forty rows each, in another order; y+ of the second run has two or four tokens more."""
    before = [make_row(i) for i in range(40)]
    after = [make_row(i, tokens={"good": 10 + 2 * (i % 2)}) for i in reversed(range(40))]
    after[0] = replace(after[0], messages=asked(0, HOSTILE).messages)
    return make_run(before, "a"), make_run(after, "b")


def tables_of(found: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    return {one["title"]: {row[0]: row[1:] for row in one["rows"]} for one in found["tables"]}


def test_answers_are_joined_by_prompt(two: tuple[Path, Path], tmp_path: Path) -> None:
    done = compare(two, tmp_path / "out")
    found: dict[str, Any] = index_of(done.page)
    rows: list[Any] = list(rows_of(tmp_path / "out"))
    assert found["compared"] == ["a", "b"] and found["rows"] == 40 and done.rows == 80
    assert found["columns"]["id"] == [make_row(i).id for i in range(40)]
    for i, (first, second) in enumerate(rows):
        assert first["source"] == second["source"] == f"source-{i}"
        assert first["tokens"]["good"] == 8 and second["tokens"]["good"] == 10 + 2 * (i % 2)
    assert found["columns"]["tokens_good"][1][:2] == [10, 12]
    assert found["columns"]["reason"][0] == [0] * 40 and found["notes"] == []


def test_differences_are_paired(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Twenty rows by 2 and twenty by 4 tokens: 3 +- 2.023 x 1.0127 / sqrt(40)."""
    table = tables_of(index_of(compare(two, tmp_path / "out").page))["Shares and means"]
    assert table["length of chosen (tokens)"] == [
        "8 [8, 8]",
        "11 [10.7, 11.3]",
        "rose (+3 [+2.68, +3.32])",
    ]
    assert table["kept (%)"][-1].startswith("no difference shown (+0 ")
    assert table["y+: own > plain (%)"][:1] == ["100 [91.2, 100]"]


def test_paired_shares() -> None:
    """Newcombe (1998), table II: 36, 12, 2 and 0 pairs give .2 [.0569, .3404]."""
    before, after = Estimate(38 / 50, *wilson(38 / 50, 50)), Estimate(48 / 50, *wilson(48 / 50, 50))
    phi = (36 * 0 - 12 * 2) / (48 * 2 * 38 * 12) ** 0.5
    found = difference(after, before, phi)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


def test_runs_without_a_common_prompt(make_run: Make, tmp_path: Path) -> None:
    runs = (
        make_run([make_row(i) for i in range(9)], "a"),
        make_run([make_row(i, tokens={"good": 9}) for i in range(50, 59)], "b"),
    )
    refilter(runs[1], run_config(runs[1], ["filter.gap=9"], preset=None))
    found = index_of(compare(runs, tmp_path / "out").page)
    assert found["rows"] == 0 and not (tmp_path / "out/data/00000.js").exists()
    assert "They have no prompt in common: no answers stand side by side." in found["notes"]
    assert any("different filters" in note for note in found["notes"])
    tables = tables_of(found)
    assert tables["Shares and means"]["kept (%)"] == [
        "100 [70.1, 100]", "0 [0, 29.9]", "fell (-100 [-100, -57.7])",
    ]  # fmt: skip
    assert tables["Funnel"]["gap"] == ["9 (0)", "0 (9)"]
    assert tables["By principle"]["Accuracy"][0].startswith(
        "9 of 9: 100 [70.1, 100]; gaps 1.5 / 1.5"
    )
    opens = tables["Checks of the pairs"]['chosen opens with "a good answer to question"']
    assert opens == ["9 of 9: 100 [70.1, 100]", "-", "-"], "in b nothing is kept"


def test_what_was_set_to_other_values(make_run: Make, tmp_path: Path) -> None:
    """Keys, fingerprints and versions that differ; wording 2 of Accuracy; nothing that is equal."""
    rows = [make_row(i) for i in range(4)]
    told = replace(rows[0].steering, bad=("Be unhelpful.", "Guess wildly."))
    written = replace(told, good=("Be kind.", "Be exact."), written_by=("policy", "policy"))
    steered = [replace(rows[0], steering=told), replace(rows[1], steering=written), *rows[2:]]
    runs = make_run(rows, "a"), make_run([steered[0], steered[1]], "b")
    found = tables_of(index_of(compare(runs, tmp_path / "same").page))
    assert found["Settings that differ"] == {}
    manifest = json.loads((runs[1] / "run.json").read_text())
    manifest["config"]["sampling"]["max_tokens"] = 128
    manifest["config"]["model"] = f"{tmp_path}/other"
    manifest["identity"] |= {"model": "f00d", "views.date": "2026-01-02"}
    manifest["sso_data"] = "0.3.0"
    write_json(runs[1] / "run.json", manifest)
    found = tables_of(index_of(compare(runs, tmp_path / "out").page))
    assert found["Settings that differ"] == {
        "model": ["org/policy", "other"],
        "views.date": ["null", "2026-01-02"],
        "sampling.max_tokens": ["2048", "128"],
        "model (fingerprint)": ["-", "f00d"],
        "sso-data": ["0.2.0", "0.3.0"],
    }
    assert found["Principle texts that differ"] == {
        "Accuracy, bad, wording 2": ["Be inaccurate.", "Guess wildly."]
    }


def test_openings_that_are_rare_in_one_run(make_run: Make, tmp_path: Path) -> None:
    """Three of 10 pairs are told, of 100 five; two of ten are rarer than that."""
    common = [make_row(i, texts={"good": f"Sure thing, here we go again {i}."}) for i in range(3)]
    runs = [
        make_run([*common, *(make_row(i) for i in range(3, 10))], "a"),
        make_run([*common[:2], *(make_row(i) for i in range(2, 10))], "b"),
    ]
    checks = tables_of(index_of(compare(runs, tmp_path / "out").page))["Checks of the pairs"]
    assert checks['chosen opens with "sure thing here we go"'] == [
        "3 of 10: 30 [10.8, 60.3]", "under 3 of 10", "-",
    ]  # fmt: skip


def test_runs_of_other_scales_have_their_own_bins(make_run: Make, tmp_path: Path) -> None:
    sizes = {"a": range(10, 50), "b": range(10, 4010, 100)}
    runs = [
        make_run([make_row(i, tokens={"good": n, "bad": 8 + i % 9}) for i, n in enumerate(some)], k)
        for k, some in sizes.items()
    ]
    found = index_of(compare(runs, tmp_path / "out").page)["histograms"]
    edges = {sides[0]["key"]: [one["edges"] for one in sides] for sides in found}
    assert edges["tokens_bad"][0] == edges["tokens_bad"][1]
    (first, *_, last), (low, *_, high) = edges["tokens_good"]
    assert (first, last, low) == (10, 49, 49) and high > 3800


def test_the_same_runs_give_the_same_bytes(two: tuple[Path, Path], tmp_path: Path) -> None:
    for name, single in (("a", False), ("b", False), ("c", True), ("d", True)):
        compare(two, tmp_path / "out" / name, single=single)
    pages = [(tmp_path / "out" / name / "index.html").read_bytes() for name in "abcd"]
    assert pages[0] == pages[1] and pages[2] == pages[3] != pages[0]
    assert HOSTILE.encode() not in pages[2] and str(tmp_path).encode() not in pages[2]
    assert "taken" not in (tmp_path / "out/a/data/00000.js").read_text()


def test_the_command(
    two: tuple[Path, Path], make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = make_run(rows_of_all_kinds(), "c")
    runs = [str(one) for one in (*two, many)]
    done = CliRunner().invoke(app, ["report", *runs, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert Path(told["page"]) == tmp_path / "c-against-a/index.html" and told["rows"] == 3 * 12
    assert index_of(Path(told["page"]))["name"] == "a and b and c"
    tinted = CliRunner().invoke(app, ["report", *runs, "--tokens", "3"])
    assert tinted.exit_code == 1 and "one run" in tinted.stderr
    twice = CliRunner().invoke(app, ["report", runs[0], runs[0]])
    assert twice.exit_code == 1 and "named twice" in twice.stderr
    monkeypatch.setattr("sso_data.reporting.page.MOST_SINGLE", 79)
    with pytest.raises(ConfigError, match="leave --single out"):
        compare(two, tmp_path / "single", single=True)


def judged(run: Path, *lines: dict[str, Any]) -> Path:
    """The run as that of a round whose judge said this."""
    place = run.parent / f"round-{run.name}"
    (place / "judges/llm-1").mkdir(parents=True)
    (place / "round.json").write_text("{}")
    named = [{"key": "judge", "name": "X as judge"}, *lines]
    (place / "judges/llm-1/verdicts.jsonl").write_bytes(b"".join(map(sealed, named)))
    return run.rename(place / "run")


def test_verdicts_of_judges(make_run: Make, tmp_path: Path) -> None:
    rows = [make_row(index) for index in range(4)]
    said = [
        {"key": f"{row.id}/signal", "preference": float(index != 1), "detail": f"said {index}"}
        for index, row in enumerate(rows[:3])
    ]
    own = {"key": f"{rows[0].id}/own", "preference": 0.5, "scores": [0.25, 0.25]}
    run = judged(make_run(rows), *said, own)
    found = index_of(report(run, tmp_path / "out").page)
    signal, score = found["judges"]
    assert signal["question"] == "chosen against rejected" and signal["rows"] == 3
    assert signal["rates"][1] == pytest.approx([2 / 3, 0.2077, 0.9385, 3], abs=1e-4)
    assert score["question"] == "score of original" and score["mean"] == 0.25
    details = rows_of(tmp_path / "out")
    assert details[1]["verdicts"] == [
        ["X as judge", "chosen against rejected", 0.0, None, "said 1"]
    ]
    assert len(details[0]["verdicts"]) == 2 and details[3]["verdicts"] == []
    assert checks_of(run, tmp_path / "again")["judge"]["rows"] == [1]
    other = judged(make_run(rows, "b"), *said)
    table = tables_of(index_of(compare([run, other], tmp_path / "both").page))["Judges"]
    assert (
        table["X as judge: chosen against rejected"]
        == ["of 3: 66.7 [20.8, 93.9]; kept, of 3: 66.7 [20.8, 93.9]"] * 2
    )
    (run.parent / "generator-run").mkdir()
    found = index_of(report(run, tmp_path / "out2").page)
    assert [one["question"] for one in found["judges"]] == ["score of original"]


def test_verdicts_are_of_all_where_rows_stand_for_all(make_run: Make, tmp_path: Path) -> None:
    """Two rows are complete by design and lose one; the two others are judged as they are kept."""
    rows = [make_row(index) for index in range(4)]
    said = [
        {"key": f"{row.id}/signal", "preference": float(index != 0)}
        for index, row in enumerate(rows)
    ]
    run = make_run([*rows, early(4, "bad")])
    manifest = json.loads((run / "run.json").read_text())
    manifest[FIRST_ROWS] = [f"{row_key(row.id):016x}" for row in rows[:2]]
    write_json(run / "run.json", manifest)
    run = judged(run, *said)
    (signal,) = index_of(report(run, tmp_path / "out").page)["judges"]
    assert [(rate[0], rate[3]) for rate in signal["rates"]] == [(0.5, 2), (0.75, 4)]
    assert (signal["rows"], signal["mean"]) == (2, 0.5)


@pytest.mark.parametrize(
    "line",
    [
        {"key": "a/signal"},
        {"key": "a/signal", "preference": 1.0, "mood": "good"},
        {"key": "a/signal", "preference": "1"},
        {"key": "a/signal", "preference": 1.0, "scores": 3},
        {"key": "a/signal", "preference": 1.0, "orders": [1.0]},
        {"key": "judge"},
        {"preference": 1.0},
    ],
)
def test_a_line_that_is_no_verdict(make_run: Make, tmp_path: Path, line: dict[str, Any]) -> None:
    run = judged(make_run([make_row(0)]), line)
    told = r"verdicts\.jsonl:2: not a valid line; remove the line"
    with pytest.raises(RunError, match=told):
        report(run, tmp_path / "out")
