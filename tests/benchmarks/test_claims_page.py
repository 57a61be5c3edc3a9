"""docs/claims.md says what its measurements and the list of changes say, and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import claims_report
from benchmarks.claims_grid import CHANGED, declared
from benchmarks.claims_report import (
    HIGH,
    Training,
    by_chain,
    effect,
    page_text,
    sure,
    trainings,
    write_report,
)
from benchmarks.claims_statistics import Judged, judged

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINES = [json.loads(line) for line in (DOCS / "claims.jsonl").read_text().splitlines()]
CHANGES = yaml.safe_load((DOCS / "claims_changes.yaml").read_text())
TEMPLATE = (ROOT / "benchmarks" / "claims_page.md.j2").read_text()


def test_the_committed_page_is_the_generated_one() -> None:
    again = "run `python -m benchmarks.claims page`"
    assert (DOCS / "claims.md").read_text() == page_text(LINES, CHANGES), again


def test_the_template_holds_no_figure() -> None:
    """Neither in its text nor in the sentences of its expressions; names of claims may."""
    names = {one.text for one in declared()}
    text = re.sub(r"{#.*?#}", "", TEMPLATE, flags=re.DOTALL)
    inside = " ".join(re.findall(r"{{.*?}}|{%.*?%}", text, re.DOTALL))
    sentences = [one for one in re.findall(r'"([^"]*)"', inside) if " " in one and one not in names]
    outside = re.sub(r"{{.*?}}|{%.*?%}", "", text, flags=re.DOTALL)
    outside = re.sub(r"^    .*$|`[^`\n]*`", "", outside, flags=re.MULTILINE)
    words = r"\b(two|three|four|five|six|seven|eight|nine|ten|third|quarter|twice)\b"
    for sentence in [outside, *sentences]:
        typed = re.sub(r"%[+.0-9]*[dfgs]|`[^`]*`|< \.001|\by0\b", "", sentence)
        assert not re.search(r"\d|" + words, typed), typed[:200]


def change(lines: list[dict[str, Any]], arm: str, **by: float) -> list[dict[str, Any]]:
    """The lines, with numbers added to what one arm shows after its last training."""
    return [
        line | {name: line[name] + number for name, number in by.items()}
        if line["arm"] == arm and line["trained"] == 3
        else line
        for line in lines
    ]


@pytest.mark.parametrize(
    ("arm", "by", "sentence"),
    [
        ("pbaa", {"signal_accuracy": 0.5}, "The signal falls"),
        ("sso g=.1", {"unprompted": -0.18}, "makes a better policy"),
        ("pbaa", {"tokens_plain": 20}, "become shorter"),
        ("sso g=1", {"signal_accuracy": 0.3}, "A larger g keeps more"),
        ("sso g=1", {"unprompted": 0.3}, "may be tried"),
        ("sso without W", {"signal_accuracy": -0.5}, "no effect of W"),
    ],
)
def test_a_sentence_that_no_longer_follows_is_refused(
    arm: str, by: dict[str, float], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        page_text(change(LINES, arm, **by), CHANGES)


def test_sure() -> None:
    assert sure(True, "It is so.") == "It is so."
    with pytest.raises(ValueError, match=r"does not follow.*It is so"):
        sure(False, "It is so.")


def found(study: str, text: str, at: str = "end") -> Judged:
    return next(
        one
        for one in judged(LINES)
        if (one.claim.study, one.claim.text, one.at) == (study, text, at)
    )


def test_every_claim_is_judged_by_both_measures_in_one_family() -> None:
    every = judged(LINES)
    expected = sum(2 if one.metric in CHANGED else 1 for one in declared())
    assert len(every) == expected == 53
    run = [one for one in every if one.pooled.n]
    assert len(run) == 52 and {one.pooled.n for one in run} == {3, 8}
    smallest = min(run, key=lambda one: one.adjusted)
    assert smallest.word == "holds" and not any(one.remains for one in run if one.pooled.n == 3)


def test_the_declared_measure_of_w() -> None:
    """The signal after the last training was lower with W by the interval; not once corrected."""
    one = found("primary", "W keeps the signal")
    assert one.word == "reversed" and not one.remains
    assert (one.pooled.mean, one.pooled.low, one.pooled.high) == pytest.approx(
        (-0.0445, -0.0805, -0.0085), abs=5e-4
    )
    assert {name: one.n for name, one in one.by_checkpoint.items()} == {"shipped": 4, "second": 4}


def counts(trained: list[Training]) -> tuple[int, int, int, int]:
    checkpoints = ("shipped", "second", "rambling")
    high = effect(trained, checkpoints, signal=(HIGH, 2))
    low = effect(trained, checkpoints, signal=(0, HIGH))
    return high.better, high.n, low.worse, low.n


def test_the_figures_that_were_taken_back() -> None:
    """What the list of changes says of the first page: with all chains, and with those it named."""
    every = trainings(by_chain(LINES))
    assert counts(every) == (139, 145, 64, 92)
    left_out = ("labelled pairs", "T=1 steered", "T=1 all")
    named = [
        one
        for one in every
        if one.rows["checkpoint"] != "rambling" and one.rows["arm"] not in left_out
    ]
    assert counts(named) == (105, 110, 53, 55)
    last = effect(every, ["rambling"], number=3)
    assert (last.better, last.n) == (11, 15)
    text = next(one["what"] for one in CHANGES if "105 of 110" in one["what"])
    for figure in ("105 of 110", "53 of 55", "139 of 145", "64 of 92"):
        assert figure in text


def test_no_other_text_repeats_what_was_taken_back() -> None:
    """Advice of `iterate` and pages: that a larger g, W or IPO keeps signal, nearness or length."""
    taken_back = r"train\.loss\.g up|raise train\.loss\.g|use_w on|train\.loss\.type=ipo|105 of 110"
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    pages.remove(DOCS / "claims.md")
    for file in (*pages, *(ROOT / "sso_data").rglob("*.py"), *(ROOT / "templates").glob("*.*")):
        assert not re.search(taken_back, file.read_text()), file


def test_the_changes_are_dated_in_order_and_whole() -> None:
    dates = [str(one["date"]) for one in CHANGES]
    assert dates == sorted(dates)
    assert all({"date", "commit", "what", "seen"} <= one.keys() for one in CHANGES)
    commits = [one["commit"] for one in CHANGES]
    assert {"75ce1a1", "9a5239e", "a777360", "39c696c"} <= set(commits)


def test_report_writes_what_the_page_is_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its plots is drawn here, of few results; drawing takes seconds."""
    draw, drawn = claims_report.draw, []

    def draw_one(lines: list[dict[str, Any]], study: str, file: Path) -> None:
        drawn.append((study, file.name))
        if study == "length":
            assert draw(lines, study, file) and file.stat().st_size > 1000

    monkeypatch.setattr(claims_report, "draw", draw_one)
    page = tmp_path / "claims.md"
    (tmp_path / "claims_changes.yaml").write_bytes((DOCS / "claims_changes.yaml").read_bytes())
    write_report(LINES, page)
    assert page.read_text() == (DOCS / "claims.md").read_text()
    assert (tmp_path / "claims.jsonl").read_text() == (DOCS / "claims.jsonl").read_text()
    assert drawn == [("primary", "claims.png"), ("length", "claims_length.png")]
    assert not draw([], "length", tmp_path / "none.png")
