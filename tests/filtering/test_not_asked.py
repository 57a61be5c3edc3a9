"""Rows that lack what was not asked for: the same filter decides them, and never otherwise."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sso_data.config.run import FilterConfig
from sso_data.core.records import ALL_CELLS, Row
from sso_data.filtering.explain import effect_of, explain
from sso_data.filtering.filters import NotAskedError, decide, decided_early
from sso_data.filtering.sweep import sweep
from sso_data.iteration.measure import RunRows, numbers_of, sample
from sso_data.runs.columns import Flag, Rows, always_complete, record_of, representative
from sso_data.runs.journal import (
    FIRST_ROWS,
    Journal,
    Scores,
    load_scores,
    read_rows,
    replace_rows,
)
from tests.factories import encode_rows, make_row, strict
from tests.filtering.test_against_naive import CONFIGS, rows

HIDDEN = st.tuples(st.integers(1, 3), st.frozensets(st.sampled_from(ALL_CELLS)))


def early(row: Row, config: FilterConfig) -> str | None:
    """What is decided of one row."""
    return decided_early(record_of(row), config)[0]


def without(row: Row, answers: int, hidden: frozenset[object], why: str = "open") -> Row:
    """The row with so many of y-, y+ and y0, in this order, and as if cells were not asked for."""
    asked = ("bad", "good", "plain")[:answers]
    drawn = {view: one for view, one in row.responses.items() if view in asked}
    logp = {
        cell: nats for cell, nats in row.logp.items() if cell not in hidden and cell[1] in drawn
    }
    return replace(row, responses=drawn, logp=logp, rest_not_asked=why)


@settings(max_examples=200, deadline=None)
@given(rows(), HIDDEN, CONFIGS)
def test_what_is_decided_early_is_dropped_with_everything(
    row: Row, hidden: tuple[int, frozenset[object]], config: FilterConfig
) -> None:
    """Whatever is hidden of any row; and with nothing hidden every row-local drop is seen."""
    reason = early(without(row, *hidden), config)
    everything = early(row, config)
    if reason is not None:
        assert everything is not None
    if everything != "incomplete_scores":  # a cell that was not asked for is not missing
        assert early(without(row, 3, frozenset()), config) == everything


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(rows(), HIDDEN), max_size=24), CONFIGS)
def test_the_same_rows_are_kept(
    some: list[tuple[Row, tuple[int, frozenset[object]]]], config: FilterConfig
) -> None:
    """Relative limits and rankings too: a row is hidden from them only if they would not see it."""
    whole, lean = [row for row, _ in some], []
    reasons = decided_early(encode_rows([without(row, *hidden) for row, hidden in some]), config)
    for (row, hidden), reason in zip(some, reasons, strict=True):
        assert early(without(row, *hidden), config) == reason, "whatever is decided with it"
        lean.append(without(row, *hidden, reason) if reason else row)
    expected, found = decide(encode_rows(whole), config), decide(encode_rows(lean), config)
    assert found.kept.tolist() == expected.kept.tolist()
    assert found.thresholds == pytest.approx(expected.thresholds, nan_ok=True)
    assert found.not_asked == sum(bool(row.rest_not_asked) for row in lean)
    last = found.funnel[-1]
    same = replace(expected.funnel[-1], dropped=last.dropped, not_asked=last.not_asked)
    assert last == same, "the means over the kept rows"
    assert len(some) == len(found.kept) + sum(found.dropped.values())


def test_every_test_waits_for_what_it_looks_at() -> None:
    """By hand: the first cell that decides, of a row that fails one test."""
    bad_gap = make_row(means={("bad", "good"): -0.25})  # y+ is likelier under the bad view
    know = frozenset(ALL_CELLS) - {("good", "good"), ("bad", "bad")}
    contrast = strict(steered="contrast")
    assert early(without(bad_gap, 2, know), contrast) is None
    known = know - {("bad", "good")}
    assert early(without(bad_gap, 2, known), contrast) == "not_steered"
    assert early(without(bad_gap, 2, known), strict()) == "not_steered"
    off = strict(steered="off")
    assert early(without(bad_gap, 2, known), off) == "gap"
    assert early(without(bad_gap, 2, known), FilterConfig(preset="none")) is None
    late = strict(steered="off", closeness="q0.5")
    assert early(without(bad_gap, 2, known), late) is None, "the quantile would see it"
    far = make_row(means={("plain", "bad"): -1.875})
    assert early(without(far, 2, frozenset()), off) is None
    assert early(without(far, 3, know - {("plain", "bad")}), off) is None
    assert early(without(far, 3, frozenset({("plain", "good")})), off) == "off_policy"
    cut = make_row(finish={"good": "length"})
    assert early(without(cut, 2, know), strict()) == "truncated"
    assert early(without(make_row(finish={"plain": "length"}), 2, know), off) is None


def test_a_filter_that_needs_more_says_how_many_rows() -> None:
    """Chain dropped them by one cell; contrast, or no test at all, would need the others."""
    some = [make_row(index) for index in range(6)]
    some[2:4] = [chained(index) for index in (2, 3)]
    records = encode_rows(some)
    assert decide(records, strict()).kept.tolist() == [0, 1, 4, 5]
    for config in (strict(steered="contrast"), FilterConfig(preset="none")):
        with pytest.raises(NotAskedError, match=r"^2 of 6 rows need .* `sso-data complete RUN`"):
            decide(records, config)
    try:
        decide(records, strict(steered="off", keep_best=0.5))
    except NotAskedError as error:
        assert error.positions.tolist() == [2, 3]


def chained(index: int) -> Row:
    """A row that the chain drops and contrast keeps, without what was not asked for."""
    row = make_row(index, means={("plain", "bad"): -0.25})
    known = frozenset({("plain", "bad"), ("bad", "bad"), ("good", "good")})
    return without(row, 2, frozenset(ALL_CELLS) - known, "not_steered")


class TestShares:
    """Of 40 rows, all rows in even places are steered and kept; the others were dropped early."""

    @pytest.fixture
    def records(self) -> Rows:
        odd = make_row(1, means={("plain", "bad"): -0.25, ("good", "bad"): -0.25})
        hidden = frozenset(ALL_CELLS) - {("plain", "bad"), ("bad", "bad"), ("good", "good")}
        lean = without(odd, 2, hidden, "not_steered")
        some = [make_row(i) if i % 2 == 0 else odd if i < 10 else lean for i in range(40)]
        found = encode_rows(some).copy()
        found["flags"][:10] |= np.uint16(Flag.ALWAYS_COMPLETE)
        return found

    def test_they_are_taken_over_the_rows_that_are_complete_by_design(self, records: Rows) -> None:
        """The 25 whole rows would say that 20 of 25 are steered."""
        assert len(representative(records)) == 10
        effect = effect_of(records)
        assert (effect.rows, effect.contrast, effect.reverse) == (10, 5, 0)
        found = explain(records, strict())
        assert (found.rows, found.kept, found.measured) == (40, 20, 10)
        assert found.shares == [[1, 1, 1], [0.5, 0.5, 0.5]]
        assert found.binding is not None
        assert (found.binding.dropped, found.binding.reached) == (5, 10)
        swept = sweep(records, strict())
        assert (swept.rows, swept.steered["contrast"]) == (10, 5)

    def test_the_funnel_means_are_those_of_the_rows_that_stand_for_all(self, records: Rows) -> None:
        decision = decide(records, strict())
        first, last = decision.funnel[0], decision.funnel[-1]
        assert (first.left, first.mean_tokens_original) == (40, 8)
        assert first.mean_gap_bad == pytest.approx((1.5 - 0.25) / 2)
        assert last.left == 20
        assert last.mean_gap_bad == pytest.approx(1.5)
        assert decision.not_asked == 15
        stage = next(stage for stage in decision.funnel if stage.reason == "not_steered")
        assert (stage.dropped, stage.not_asked) == (20, 15)

    def test_few_pairs_are_explained_by_them_and_advice_names_complete(self, records: Rows) -> None:
        found = explain(records, strict(gap=1.75))
        assert (found.kept, found.rows, found.measured) == (0, 40, 10)
        assert [(step.settings, step.kept) for step in found.steps] == [(("filter.gap=1.5",), 5)]
        text = found.text(command="sso-data filter R")
        assert "no pairs: 0 of 40 rows are kept" in text
        assert "what follows is over the 10 rows of which everything was asked for" in text
        assert "try: sso-data complete R --set filter.gap=1.5 (tried: keeps 5 of 10 rows)" in text

    def test_an_iteration_measures_them(self, records: Rows) -> None:
        scores = Scores(rows=records, part=np.zeros(40, np.uint32), parts=())
        kept = decide(records, strict()).kept
        found = numbers_of(RunRows(scores=scores, kept=kept, test="contrast"))
        assert found["steered"] == 0.5
        assert found["all"]["gap_bad"] == pytest.approx(0.625)
        assert found["all"]["tokens_original"] == 8
        assert found["kept"]["gap_bad"] == pytest.approx(1.5)

    def test_a_judge_is_asked_about_them_first_and_about_kept_rows(self, tmp_path: Path) -> None:
        """Of 30 rows 6 stand for all, two of them are kept; 20 more are kept, too."""
        some = [make_row(i, means={("plain", "bad"): -0.25}) for i in range(4)]
        some += [make_row(i) for i in range(4, 24)] + [chained(i) for i in range(24, 30)]
        records = journal_of(tmp_path, some)
        records.rows["flags"] &= ~np.uint16(Flag.ALWAYS_COMPLETE)
        records.rows["flags"][:6] |= np.uint16(Flag.ALWAYS_COMPLETE)
        run = RunRows(scores=records, kept=decide(records.rows, strict()).kept)
        for most in (4, 6, 10, None):
            found = sample(run, most, and_kept=True)
            ids = [row.id for row, *_ in found]
            assert ids == sorted(ids) and len(ids) == min(most or 99, 24)
            assert sum(for_all for *_, for_all in found) == min(most or 99, 6)
            assert all("good" in row.responses for row, *_ in found)
            for row, is_kept, for_all in found:
                place = [one.id for one in some].index(row.id)
                assert (is_kept, for_all) == (4 <= place < 24, place < 6)
        assert {row.id for row, *_ in sample(run, None)} == {row.id for row in some[:6]}

    def test_where_all_are_whole_all_count(self, records: Rows) -> None:
        assert len(representative(records[:10])) == 10
        assert effect_of(records[::2]).rows == 20


def journal_of(folder: Path, rows: list[Row]) -> Scores:
    journal = Journal(folder)
    for one in rows:
        journal.append(one)
    journal.close()
    return load_scores(folder, dry=True)


class TestJournal:
    def test_a_row_knows_what_was_not_asked_and_survives_the_file(self, tmp_path: Path) -> None:
        row, whole = chained(0), make_row(1)
        line = row.to_json()
        assert line["rest_not_asked"] == "not_steered"
        assert not any(key.startswith("original") for key in line)
        assert line["seed_plain"] == row.seed["plain"]
        assert Row.from_json(line) == row
        from_table = line | dict.fromkeys(whole.to_json().keys() - line.keys())
        assert Row.from_json(from_table) == row, "as a table with the columns of all rows has it"
        assert "rest_not_asked" not in whole.to_json()
        with pytest.raises(KeyError):
            Row.from_json({key: line[key] for key in line if key != "rest_not_asked"})
        journal = Journal(tmp_path)
        for one in (row, whole):
            journal.append(one)
        journal.close()
        for _ in ("as written", "made again"):
            flags = load_scores(tmp_path, dry=True).rows["flags"]
            assert (flags & Flag.REST_NOT_ASKED != 0).tolist() == [True, False]
            (tmp_path / "rows" / "00000.scores").unlink(missing_ok=True)

    def test_first_rows_and_two_percent_by_content_are_complete_by_design(
        self, tmp_path: Path
    ) -> None:
        journal = Journal(tmp_path)
        for index in range(200):
            journal.append(make_row(index) if index else chained(0))
        journal.close()
        keys = load_scores(tmp_path, dry=True).keys()
        first = [f"{int(key):016x}" for key in keys[1:4]]
        (tmp_path / "run.json").write_text(f'{{"{FIRST_ROWS}": {first}}}'.replace("'", '"'))
        scores = load_scores(tmp_path, dry=True)
        marked = scores.rows["flags"] & Flag.ALWAYS_COMPLETE != 0
        assert marked[1:4].all()
        assert set(np.flatnonzero(marked)) == {1, 2, 3, *np.flatnonzero(keys % 50 == 0)} - {0}
        (tmp_path / "run.json").write_text(f'{{"{FIRST_ROWS}": ["{int(keys[0]):016x}"]}}')
        joined = load_scores(tmp_path, dry=True).rows["flags"] & Flag.ALWAYS_COMPLETE
        assert not joined[0], "a merged run holds a row that was whole in another one"
        many = np.zeros(10_000, scores.rows.dtype)
        many["key"] = np.random.default_rng(0).integers(0, 2**63, len(many))
        share = always_complete(many, np.empty(0, np.uint64)).mean()
        assert share == pytest.approx(0.02, abs=0.005)

    def test_whole_rows_take_their_places(self, tmp_path: Path) -> None:
        run, beside = tmp_path / "run", tmp_path / "beside"
        lean = [chained(index) if index % 3 == 0 else make_row(index) for index in range(12)]
        whole = [make_row(index) for index in range(12)]
        for path, some in ((run, lean), (beside, whole[9::-3])):
            journal = Journal(path, part_bytes=9000)
            for row in some:
                journal.append(row)
            journal.close()
        assert len(list((run / "rows").glob("*.jsonl"))) > 1
        new = load_scores(beside, dry=True)
        for _ in ("at once", "again after a death"):
            replace_rows(run, new)
            assert list(read_rows(run)) == whole
        assert [row["flags"] for row in load_scores(run, dry=True).rows] == list(flags_of(whole))


def flags_of(some: list[Row]) -> Iterator[int]:
    yield from encode_rows(some)["flags"].tolist()
