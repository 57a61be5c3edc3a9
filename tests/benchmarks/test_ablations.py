"""The table of ablations: what stands in the file is not done again; errors come from seeds."""

import json
from pathlib import Path

from benchmarks.ablations import Cell, is_done, mean_and_error, note, parse, results, table


def numbers(mean: float) -> dict[str, dict[str, float]]:
    names = ("signal_accuracy_total", "unprompted", "well_formed", "tokens")
    return {name: {"mean": mean, "se": 0.5, "n": 4} for name in names}


def test_a_round_is_done_once(tmp_path: Path) -> None:
    given = parse(["--out", str(tmp_path / "a.jsonl")])
    cells = [Cell(base="ipo", variant="pairs", seed=s, lr=1e-4, rows=8) for s in (1, 2)]
    note(given, cells[0], 1, numbers(0.5), seconds=1.0, pairs=7)
    assert is_done(given, cells[0], 1)
    assert not is_done(given, cells[0], 2)
    assert not is_done(given, cells[1], 1)
    assert not is_done(parse(["--out", str(given.out), "--steps", "3"]), cells[0], 1)


def test_a_torn_line_does_not_count(tmp_path: Path) -> None:
    given = parse(["--out", str(tmp_path / "a.jsonl")])
    given.out.write_text(json.dumps({"a": 1}) + '\n{"b": ')
    assert list(results(given.out)) == [{"a": 1}]
    note(given, Cell(base="ipo", variant="no w", seed=1, lr=1.0, rows=8), 1, {}, seconds=0, pairs=0)
    assert len(list(results(given.out))) == 2


def test_means_and_errors() -> None:
    one, two = {"mean": 0.4, "se": 0.1}, {"mean": 0.6, "se": 0.1}
    assert mean_and_error([one]) == "0.400 +- 0.100"
    assert mean_and_error([one, two]) == "0.500 +- 0.100"
    line = {"base": "ipo", "variant": "no w", "iteration": 1, **numbers(0.5)}
    assert "| ipo | no w | 1 | 1 | 0.500 +- 0.500 |" in table([line])
