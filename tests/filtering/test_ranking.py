"""Ranking by margin and the sweep over thresholds, on rows a person can check by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sso_data.cli import app
from sso_data.core.records import Row
from sso_data.core.statistics import sign_test, spearman, wilson
from sso_data.filtering.filters import decide
from sso_data.filtering.sweep import sweep
from tests.exporting.making import make_run
from tests.factories import encode_rows, make_row, strict
from tests.filtering.test_explain import noise


def by_margin(*gaps: float) -> list[Row]:
    """Rows with these good gaps (1.5 each way is the usual one); the shorter the larger the gap."""
    return [
        make_row(i, means={("bad", "good"): -0.5 - gap}, tokens={"good": 40 - round(10 * gap)})
        for i, gap in enumerate(gaps)
    ]


def test_the_best_share_is_kept_and_the_lengths_are_told() -> None:
    rows = by_margin(1.0, 2.0, 0.8, 1.9, 1.5)
    decision = decide(encode_rows(rows), strict(keep_best=0.4))
    assert [decision.reason(i) for i in range(5)] == [
        "low_margin",
        None,
        "low_margin",
        None,
        "low_margin",
    ]
    assert decision.thresholds["margin"] == pytest.approx(3.4)
    ranking = decision.ranking
    assert ranking is not None and (ranking.rows, ranking.kept) == (5, 2)
    assert ranking.tokens_kept["chosen"] == 20.5 and ranking.tokens_all["chosen"] == 25.6
    assert ranking.spearman == pytest.approx(-1)
    assert "chosen 20.5 of 25.6" in str(ranking) and "tokens of chosen -1.00" in str(ranking)
    assert ranking.matched_share == 1.0, "every fifth holds one row, which is its best"
    summary = decision.summary(strict(keep_best=0.4))
    assert json.loads(json.dumps(summary))["ranking"]["kept"] == 2


def test_at_equal_lengths_others_are_kept() -> None:
    """Ten rows, the margin falls with length: by margin the five shortest, else one of each two."""
    rows = by_margin(*(1.9 - i / 10 for i in range(10)))
    ranking = decide(encode_rows(rows), strict(keep_best=0.5)).ranking
    assert ranking is not None and ranking.kept == 5
    assert ranking.matched_share == 0.6, "the best of rows 0-1, 2-3 and 4-5 are among the five"
    assert ranking.tokens_kept["chosen"] == 23 and ranking.tokens_matched["chosen"] == 25


def test_equal_margins_are_kept_by_key_in_whatever_order() -> None:
    rows = [make_row(i) for i in range(8)]
    config = strict(keep_best=0.3)
    first = {rows[i].id for i in decide(encode_rows(rows), config).kept}
    turned = rows[::-1]
    assert first == {turned[i].id for i in decide(encode_rows(turned), config).kept}
    assert len(first) == 3, "0.3 of 8 rows, rounded up"
    assert len(decide(encode_rows(rows[:1]), strict(keep_best=0.01)).kept) == 1
    assert decide(encode_rows([]), config).thresholds["margin"] is None


def test_only_rows_that_pass_are_ranked() -> None:
    rows = [*by_margin(1.0, 2.0), make_row(2, texts={"bad": ""}, means={("bad", "good"): -9.0})]
    decision = decide(encode_rows(rows), strict(keep_best=0.5))
    assert [decision.reason(i) for i in range(3)] == ["low_margin", None, "empty"]


def test_a_sweep_counts_what_the_filter_keeps(tmp_path: Path) -> None:
    """Each cell is the filter's own count with those settings."""
    rows = [make_row(i, means=noise(i, 0.3)) for i in range(60)] + [
        make_row(i) for i in range(70, 75)
    ]
    rows += [make_row(90, texts={"bad": ""}), make_row(91, finish={"bad": "length"})]
    records, config = encode_rows(rows), strict(gap=0.03, keep_best=0.5)
    found = sweep(records, config)
    assert (found.rows, found.sound) == (67, 65) and 0.03 in found.gap
    assert found.unsound == {"empty": 1, "truncated": 1}
    for test, counts in found.kept.items():
        for closeness, row in zip(found.closeness, counts, strict=True):
            for gap, kept in zip(found.gap, row, strict=True):
                most = 1e9 if closeness is None else closeness
                same = strict(steered=test, closeness=most, gap=gap)
                assert len(decide(records, same).kept) == kept
    run = make_run(tmp_path / "run", rows)
    before = (run / "pairs" / "filter.json").read_bytes()
    shown = CliRunner().invoke(app, ["filter", str(run), "--sweep"])
    assert (
        shown.exit_code == 0
        and "filter.steered=contrast: " in shown.stdout
        and "of 67 rows" in shown.stdout
    )
    assert shown.stdout.startswith(
        "before any steering test: 65 of 67 rows left; dropped: 1 empty, 1 truncated\n"
    )
    assert "kept: as with contrast, which every gap" in " ".join(shown.stdout.split())
    assert not shown.stderr
    CliRunner().invoke(app, ["filter", str(run), "--set", "filter.drop_truncated=false"])
    again = CliRunner().invoke(app, ["filter", str(run), "--sweep"])
    assert again.stdout == shown.stdout
    assert "decided with filter.drop_truncated=false, which this sweep leaves out" in again.stderr
    CliRunner().invoke(app, ["filter", str(run)])
    before = (run / "pairs" / "filter.json").read_bytes()
    none = CliRunner().invoke(
        app, ["filter", str(run), "--sweep", "--set", "filter.min_tokens=1000"]
    )
    assert none.stdout.splitlines()[1:] == [
        f"filter.steered={test}: 0 of 67 rows reach the thresholds"
        for test in ("chain", "contrast", "off")
    ]
    done = CliRunner().invoke(app, ["filter", str(run), "--sweep", "--json"])
    assert json.loads(done.stdout)["kept"].keys() == {"chain", "contrast", "off"}
    assert (run / "pairs" / "filter.json").read_bytes() == before, "nothing is written"


def test_statistics_by_hand() -> None:
    assert sign_test(0, 0) == sign_test(4, 4) == 1
    assert sign_test(6, 0) == pytest.approx(2 / 64) == sign_test(0, 6)
    assert sign_test(1000, 1100) == pytest.approx(0.0308, abs=2e-4)  # normal: 0.0307
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(np.sqrt(3) / 2)
    assert spearman([1, 1], [1, 2]) is None and spearman([], []) is None
