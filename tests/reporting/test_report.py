"""The files of a report: the filter's own numbers, found rows, the same bytes, no text as HTML."""

import base64
import gzip
import json
import re
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sso_data.augmentation.duplicates import near_duplicates
from sso_data.cli.app import app
from sso_data.core.errors import RunError
from sso_data.core.records import STEERED_VIEWS, Row, View
from sso_data.filtering.filters import decide, distance, smaller_gap
from sso_data.filtering.ranking import margin
from sso_data.filtering.refilter import refilter, run_config
from sso_data.reporting.checks import Checks
from sso_data.reporting.page import report
from sso_data.runs.columns import row_key
from sso_data.runs.journal import FIRST_ROWS, load_scores
from sso_data.runs.workdir import write_json
from tests.factories import encode_rows, make_row, strict
from tests.reporting.conftest import HOSTILE, Make, asked


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def index_of(page: Path) -> dict[str, Any]:
    match = re.search(r'id="index">([^<]+)<', page.read_text())
    assert match
    found: dict[str, Any] = unpacked(match[1])
    return found


def rows_of(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for file in sorted((out / "data").iterdir()):
        match = re.fullmatch(r'block\((\d+),"([^"]+)"\);\n', file.read_text())
        assert match and int(match[1]) == int(file.stem)
        found += unpacked(match[2])
    return found


def test_reasons_and_numbers_are_the_filters(run: Path, tmp_path: Path) -> None:
    found = index_of(report(run, tmp_path / "out").page)
    scores = load_scores(run, dry=True)
    decision = decide(scores.rows, strict())
    assert found["columns"]["reason"] == decision.reason_code.tolist()
    assert [found["reasons"][code] for code in found["columns"]["reason"][8:]] == [
        "not_steered", "truncated", "kept", "kept",
    ]  # fmt: skip
    for name, values in (("margin", margin(scores.rows)), ("closeness", distance(scores.rows))):
        assert found["columns"][name] == pytest.approx(values.tolist(), abs=1e-5)
    gaps = np.array([found["columns"]["gap_good"], found["columns"]["gap_bad"]])
    assert gaps.min(axis=0) == pytest.approx(smaller_gap(scores.rows).tolist(), abs=1e-5)
    assert found["account"] == "prompts 13 = rows 12 + failed 1"
    assert found["kept"] + sum(found["dropped"].values()) == found["rows"] == 12
    assert found["thresholds"] == {"min_tokens": 1, "closeness": 0.3, "gap": 0.05}
    details = rows_of(tmp_path / "out")
    row = make_row(3, tokens={"good": 12})
    assert details[3]["means"]["plain.good"] == pytest.approx(row.mean("plain", "good"), abs=1e-5)
    assert details[8]["means"]["good.good"] == -2.5


def test_a_report_shows_what_filter_decided_last(run: Path, tmp_path: Path) -> None:
    refilter(run, run_config(run, ["filter.gap=9"], preset=None))
    found = index_of(report(run, tmp_path / "out").page)
    assert found["kept"] == 0 and found["dropped"]["gap"] == 10
    assert found["checks"][0]["of"] == 0, "what was dropped is not trained on"


def early(index: int, *views: View) -> Row:
    """A row that was decided before answers under other views were asked for."""
    row = make_row(index, means={("good", "good"): -2.5, ("bad", "bad"): -2.5})
    known = {view: row.responses[view] for view in views}
    logp = {cell: nats for cell, nats in row.logp.items() if cell[1] in views}
    return replace(row, responses=known, logp=logp, rest_not_asked="not_steered")


def test_rows_that_were_decided_early(make_run: Make, tmp_path: Path) -> None:
    lean = (early(3, "bad", "good"), early(4, "bad"))
    run = make_run([*(make_row(index) for index in range(3)), *lean])
    manifest = json.loads((run / "run.json").read_text())
    manifest[FIRST_ROWS] = [f"{row_key(make_row(index).id):016x}" for index in range(2)]
    write_json(run / "run.json", manifest)
    done = report(run, tmp_path / "out")
    found = index_of(done.page)
    assert found["columns"]["tokens_plain"] == [8, 8, 8, None, None] and found["kept"] == 3
    assert found["columns"]["tokens_good"] == [8, 8, 8, 8, None]
    lengths = next(one for one in found["histograms"] if one["key"] == "tokens_plain")
    assert sum(lengths["all"]) == sum(lengths["kept"]) == 2, "the third is whole as it passed"
    row, shorter = rows_of(tmp_path / "out")[3:]
    assert row["answers"].keys() == {"good", "bad"} and "plain.plain" not in row["means"]
    assert shorter["answers"].keys() == {"bad"} and "good.good" not in shorter["means"]
    manifest["config"]["filter"]["preset"] = "none"
    write_json(run / "run.json", manifest)
    with pytest.raises(RunError, match=r"were not asked for .*`sso-data complete"):
        report(run, tmp_path / "other")


def test_each_number_stands_beside_what_the_filter_asks(run: Path, tmp_path: Path) -> None:
    report(run, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    gaps = [one for one in rows[3]["tests"] if one[0] == "gap"]
    row = make_row(3, tokens={"good": 12})
    assert gaps[0][4] == pytest.approx(row.mean("good", "good") - row.mean("bad", "good"), abs=1e-5)
    assert all(one[1] is False and one[5:] == [">=", 0.05] for one in gaps)
    missed = [one[:4] for one in rows[8]["tests"] if one[1]]
    assert missed == [
        ["not_steered", True, "own - plain", "chosen"],
        ["not_steered", True, "own - opposite", "chosen"],
        ["gap", True, "gap", "chosen"],
    ], "numbers of a test that drops the row may pass"
    assert rows[8]["verdict"].startswith("dropped by not_steered: own - plain of chosen is -1.5")


def test_the_checks_hold_no_answers() -> None:
    """Two answers of 4,000 letters a row, all of them different: hashes of them are held."""
    rows = [
        make_row(n, texts={view: f"{n} {view} " + "word " * 800 for view in STEERED_VIEWS})
        for n in range(60)
    ]
    checks = Checks(decide(encode_rows(rows), strict()), rows.__getitem__)
    for position, row in enumerate(rows[:10]):
        checks.add(position, row)  # what is loaded, and the first sizes of tables
    tracemalloc.start()
    for position, row in enumerate(rows[10:], 10):
        checks.add(position, row)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 50 * 1500
    same = {one.name: one.rows for one in checks.found()}
    assert same["contradicting"] == [] and len(same["shorter"]) + len(same["longer"]) == 0


def test_histograms_count_every_row(run: Path, tmp_path: Path) -> None:
    for one in index_of(report(run, tmp_path / "out").page)["histograms"]:
        assert sum(one["all"]) == 12 and sum(one["kept"]) == 10
        assert np.all(np.diff(one["edges"]) > 0)
        assert all(kept <= every for kept, every in zip(one["kept"], one["all"], strict=True))


def test_a_single_value_is_in_the_middle(make_run: Make, tmp_path: Path) -> None:
    """64 tokens: a bar from 63.5 to 64.5, five empty bins on each side; a gap of 1.5 of 41 bins."""
    run = make_run([make_row(i, tokens={"good": 64, "bad": 60 + i % 3}) for i in range(9)])
    found = {one["key"]: one for one in index_of(report(run, tmp_path / "out").page)["histograms"]}
    assert found["tokens_good"]["edges"] == [58.5 + n for n in range(12)]
    assert found["tokens_good"]["all"] == [0] * 5 + [9] + [0] * 5
    assert found["tokens_good"]["only"] == 64 and found["tokens_bad"]["only"] is None
    gap = found["gap"]
    assert gap["all"] == gap["kept"] == [0] * 20 + [9] + [0] * 20
    assert gap["edges"][0] == gap["only"] - 0.5 and gap["edges"][-1] == gap["only"] + 0.5


def test_how_the_run_was_made(run: Path, tmp_path: Path) -> None:
    """Public names and settings, the filter as it stands; no folder, address or token."""
    manifest = json.loads((run / "run.json").read_text())
    config = manifest["config"]
    config |= {"model": "/secret/place/policy", "principles": "/secret/own"}
    config["sampling"]["max_tokens"] = 64
    config["engine"] |= {"servers": ["http://inside:8000"], "vllm": {"x": "/secret/file"}}
    config["steering"] |= {"choose": "fixed", "features": ["Tact"], "weights": {"Tact": 2}}
    manifest["engine"] = {"name": "vllm", "version": "9.9", "device": "cuda", "dtype": "bfloat16"}
    write_json(run / "run.json", manifest)
    refilter(run, run_config(run, ["filter.gap=0.25"], preset=None))
    made = index_of(report(run, tmp_path / "out").page)["made"]
    found = dict(made["rows"])
    assert found["model"] == "policy" and found["engine"] == "vllm 9.9 cuda bfloat16"
    assert found["principles"] == (
        'own, steering.choose=fixed, steering.features=["Tact"], steering.principles=catalogue'
    )
    assert found["sampling"].startswith("temperature=0.7, top_p=0.8,")
    assert "max_tokens=64" in found["sampling"] and "gap=0.25" in found["filter"]
    assert found["filter"].startswith("preset closeness, ")
    assert found["other settings"] == 'steering.weights={"Tact": 2.0}, engine.vllm={"x": "file"}'
    assert found["made by"] == "sso-data 0.2.0, 2026-01-02"
    assert made["line"] == (
        "policy, vllm 9.9 cuda bfloat16; principles own; temperature 0.7, at most 64 tokens; "
        "filter preset closeness; 2026-01-02"
    )
    assert not re.search(r"secret|inside", json.dumps(made))


def checks_of(run: Path, out: Path) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in index_of(report(run, out).page)["checks"]}


def test_checks_name_their_rows(run: Path, tmp_path: Path) -> None:
    found = checks_of(run, tmp_path / "out")
    assert found["refusal_chosen"]["rows"] == [11] and found["refusal_chosen"]["warning"]
    assert found["refusal_rejected"]["rows"] == [] and not found["refusal_rejected"]["warning"]
    assert found["longer"]["rows"] == list(range(8)) and found["longer"]["of"] == 10
    assert found["longer"]["interval"] == pytest.approx([0.490, 0.943], abs=1e-3)
    assert not found["longer"]["warning"]


def test_pairs_that_teach_length_alone_are_told(make_run: Make, tmp_path: Path) -> None:
    for name, side in (("longer", "good"), ("shorter", "bad")):
        rows = [make_row(index, tokens={side: 12}) for index in range(9)] + [make_row(9)]  # type: ignore[dict-item]
        found = checks_of(make_run(rows, name), tmp_path / f"out-{name}")
        assert found[name]["warning"].startswith(f"chosen is the {name} answer in 9 of 10 pairs")
        assert found[name]["title"] == f"chosen is {name}"
        assert found[name]["rows"] == list(range(9))
        other = found["shorter" if name == "longer" else "longer"]
        assert other["rows"] == [] and not other["warning"]


def test_repeats_and_contradictions(make_run: Make, tmp_path: Path) -> None:
    same = "What is a kite?"
    rows = [
        asked(0, same, texts={"good": "It flies.", "bad": "It swims."}),
        asked(1, same, texts={"good": "It swims.", "bad": "It sinks."}),
        asked(2, "what is  a KITE", texts={"good": "It flies."}),
        make_row(3),
    ]
    found = checks_of(make_run(rows), tmp_path / "out")
    assert found["prompts"]["rows"] == [0, 1, 2]
    assert found["contradicting"]["rows"] == [0, 1] and found["contradicting"]["warning"]


def test_near_duplicate_prompts_but_not_samples_of_one(make_run: Make, tmp_path: Path) -> None:
    """Two of seventeen words differ: Jaccard of 5-grams .8; the other pair is one of samples."""
    text = "Please tell me how a kite stays in the air when the wind is strong near the {}"
    rows = [asked(0, text.format("sea")), asked(1, text.format("lake")), make_row(2)]
    again = make_row(3)
    rows += [again, replace(again, id=f"{again.id}.2")]
    found = checks_of(make_run(rows), tmp_path / "out")["prompts"]
    assert found["rows"] == [0, 1] and "MinHash" in found["title"]


def test_prompts_of_one_pattern_take_linear_time() -> None:
    began = time.monotonic()
    text = "Write a poem of four lines about the number {} and the colour of the sea at night"
    texts = [("", text.format(number)) for number in range(1000)]
    assert near_duplicates(texts) == set(range(1000))
    assert near_duplicates([("", "a"), ("x", "a")]) == set(), "another conversation"
    assert time.monotonic() - began < 5


def test_words_of_principles_and_languages_of_answers(make_run: Make, tmp_path: Path) -> None:
    four = "give the exact number"
    told = replace(make_row(0).steering, good=(f"Always {four} that was asked for.",))
    french = "Bien sûr, je peux vous aider à comprendre ce que c'est qu'un cerf-volant."
    english = "what keeps a kite in the air, and why does it need a tail?"
    rows = [
        make_row(0, texts={"good": f"Yes: {four}."}, steering=told),
        asked(1, f"What does '{four}' mean?", texts={"good": f"Yes: {four}."}, steering=told),
        asked(
            2,
            f"Please explain it to me: {english}",
            texts={"good": french, "bad": f"{french} Oui."},
        ),
    ]
    found = checks_of(make_run(rows), tmp_path / "out")
    assert found["copied_chosen"]["rows"] == [0] and found["copied_chosen"]["warning"]
    assert found["foreign_chosen"]["rows"] == found["foreign_rejected"]["rows"] == [2]
    assert found["language"]["rows"] == []


def test_languages_and_openings(make_run: Make, tmp_path: Path) -> None:
    french = "Bien sûr, je peux vous aider à comprendre ce que c'est qu'un cerf-volant."
    rows = [
        make_row(index, texts={"good": f"Sure thing, here we go again {index}."})
        for index in range(4)
    ]
    rows.append(make_row(4, texts={"good": french, "bad": "It is a toy that flies in the wind."}))
    found = checks_of(make_run(rows), tmp_path / "out")
    assert found["language"]["rows"] == [4] and found["language"]["warning"]
    assert found["opening_chosen"]["rows"] == [0, 1, 2, 3]
    assert found["opening_chosen"]["title"] == 'chosen opens with "sure thing here we go"'


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        report(run, tmp_path / name)
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*.*"))
    assert [str(file) for file in files] == ["data/00000.js", "index.html", "report.json"]
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )


def test_no_text_of_a_row_is_html(run: Path, tmp_path: Path) -> None:
    for single in (False, True):
        out = tmp_path / f"out-{single}"
        report(run, out, single=single)
        assert (out / "data").exists() is not single
        for file in out.rglob("*.*"):
            assert "taken" not in file.read_text() and "onerror=alert" not in file.read_text()
    assert rows_of(tmp_path / "out-False")[10]["answers"]["good"] == HOSTILE
    page = (tmp_path / "out-True" / "index.html").read_text()
    inside = re.findall(r'class="block">([^<]+)<', page)
    assert [one for block in inside for one in unpacked(block)] == rows_of(tmp_path / "out-False")


def test_blocks_of_many_rows(make_run: Make, tmp_path: Path) -> None:
    report(make_run([make_row(index) for index in range(130)]), tmp_path / "out")
    found = rows_of(tmp_path / "out")
    assert len(found) == 130 and found[129]["source"] == "source-129"
    assert len(list((tmp_path / "out" / "data").iterdir())) == 3


def test_runs_without_rows_and_of_one_row(make_run: Make, tmp_path: Path) -> None:
    for count in (0, 1):
        done = report(make_run([make_row(i) for i in range(count)], f"run{count}"))
        assert done.rows == count and done.page.parent.name == f"run{count}-report"
        assert index_of(done.page)["kept"] == count


def test_torn_rows_are_named(run: Path, tmp_path: Path) -> None:
    refilter(run, run_config(run, [], preset=None))
    part = run / "rows" / "00000.jsonl"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    with pytest.raises(RunError, match=r"00000\.jsonl"):
        report(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(run: Path, tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "out"
    done = runner.invoke(app, ["report", str(run), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["rows"] == 12 and Path(told["page"]) == out / "index.html"
    again = runner.invoke(app, ["report", str(run), "--out", str(out)])
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    assert runner.invoke(app, ["report", str(run), "--out", str(out), "--overwrite"]).exit_code == 0
    for _ in range(2):  # at its default place it is made anew
        assert runner.invoke(app, ["report", str(run)]).exit_code == 0
    missing = runner.invoke(app, ["report", str(tmp_path / "none")])
    assert missing.exit_code == 1 and "none" in missing.stderr


def test_one_file_has_a_limit(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sso_data.reporting.page.MOST_SINGLE", 11)
    words = ["report", str(run), "--single", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and "leave --single out" in done.stderr
    assert CliRunner().invoke(app, [word for word in words if word != "--single"]).exit_code == 0
