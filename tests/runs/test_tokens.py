"""Kept log-probs of tokens: the values, what binds them to a row, and what a crash leaves."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sso_data.core.errors import RunError
from sso_data.core.records import Cell, Row
from sso_data.runs.jsonl import CRC, sealed
from sso_data.runs.tokens import (
    TOKENS,
    Tokens,
    TokenStore,
    kept_tokens,
    merge_tokens,
    refuse_other_totals,
)
from tests.factories import make_row

GOOD: Cell = ("good", "good")


def row_of(nats: list[float], *, index: int = 0) -> Row:
    """A row whose chosen answer has these log-probs under the good view."""
    row = make_row(index, tokens={"good": len(nats)})
    return replace(row, logp={**row.logp, GOOD: sum(nats)})


def keep(run: Path, row: Row, nats: list[float], cell: Cell = GOOD) -> None:
    with closing(TokenStore(run)) as store:
        store.add(row, {cell: nats})


def test_values_are_half_precision_and_add_up(tmp_path: Path) -> None:
    nats = [-0.5, -1.25, -0.001, -9.87654321]
    row = row_of(nats)
    keep(tmp_path, row, nats)
    (found,) = kept_tokens(tmp_path, [row]).values()
    assert found[GOOD][:2] == [-0.5, -1.25], "float16 holds these exactly"
    assert found[GOOD] == pytest.approx(nats, rel=2**-11) and found[GOOD][3] != nats[3]
    assert kept_tokens(tmp_path, [make_row(1)]) == {}
    assert kept_tokens(tmp_path / "elsewhere", [row]) == {}


def test_values_of_something_else_are_not_used(tmp_path: Path) -> None:
    nats = [-0.5, -1.25]
    row = row_of(nats)
    said = row.responses["good"]
    another = replace(said, token_ids=(7, *said.token_ids[1:]))
    others = [
        replace(row, logp={**row.logp, GOOD: -1.752}),
        row_of([*nats, 0.0]),
        replace(row, responses={**row.responses, "good": another}),
    ]
    keep(tmp_path, row, nats)
    for other in others:
        assert kept_tokens(tmp_path, [other]) == {}, "another total, length, or ids"
    keep(tmp_path, others[2], nats)
    assert kept_tokens(tmp_path, [row])[row.id][GOOD] == nats, "a later line of another row"


def test_cells_come_from_several_lines(tmp_path: Path) -> None:
    row = row_of([-0.5, -1.0])
    row = replace(row, logp={**row.logp, ("bad", "good"): -3.0})
    keep(tmp_path, row, [-0.5, -1.0])
    keep(tmp_path, row, [-1.0, -2.0], ("bad", "good"))
    assert set(kept_tokens(tmp_path, [row])[row.id]) == {GOOD, ("bad", "good")}


def test_torn_and_changed_lines(tmp_path: Path) -> None:
    rows = [row_of([-0.5, -1.0], index=index) for index in range(2)]
    for row in rows:
        keep(tmp_path, row, [-0.5, -1.0])
    file = tmp_path / TOKENS
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert set(kept_tokens(tmp_path, rows)) == {rows[0].id}
    keep(tmp_path, rows[1], [-0.5, -1.0])
    assert file.read_bytes() == whole, "what a crash left is cut off"
    line = json.loads(whole.splitlines()[1])
    file.write_bytes(whole.replace(line["logp_good_good"].encode(), b"AAAAAAAA"))
    with pytest.raises(RunError, match=r"tokens.jsonl:1: was changed .* delete it"):
        kept_tokens(tmp_path, rows)
    del line[CRC]
    for foreign in ("%%%", "AAA=", 5, None, ["x"]):
        file.write_bytes(sealed({**line, "logp_good_good": foreign}))
        assert kept_tokens(tmp_path, rows) == {}


def test_merged_runs_bring_theirs(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in "ab"]
    rows = [row_of([-0.5, -1.0], index=index) for index in range(2)]
    for run, row in zip(runs, rows, strict=True):
        run.mkdir()
        keep(run, row, [-0.5, -1.0])
    for _ in range(2):
        merge_tokens(runs, tmp_path)
    assert set(kept_tokens(tmp_path, rows)) == {row.id for row in rows}
    assert len((tmp_path / TOKENS).read_bytes().splitlines()) == 2


def test_scores_of_another_arithmetic_and_of_another_model() -> None:
    row = row_of([-1.0] * 10)
    refuse_other_totals(row, {GOOD: [-1.09] * 10})
    with pytest.raises(RunError, match=r"sum to -11.100 nats, and logp_good_good is -10.000"):
        refuse_other_totals(row, {GOOD: [-1.11] * 10})
    with pytest.raises(RunError, match="another arithmetic"):
        refuse_other_totals(row, {GOOD: [float("nan")]})


def test_pieces_take_the_tokens_of_a_character_together() -> None:
    tokens = Tokens(
        texts=("a", "é", ""),
        sizes=(1, 2, 1),
        nats={"good": [-1.0, -0.5, -0.25, -2.0], "bad": [-2.0, -0.5, -1.25, -1.0]},
    )
    assert tokens.by_piece("good") == [-1.0, -0.75, -2.0]
    assert tokens.tint() == [1.0, 1.0, -1.0]
    assert replace(tokens, nats={"good": tokens.nats["good"]}).tint() == []
    assert tokens.to_json()["logp_bad"] == [-2.0, -0.5, -1.25, -1.0]
