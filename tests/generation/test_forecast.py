"""Estimates by the first rows: numbers that can be checked by hand, said in time, beside what came.

The engine is scripted.
"""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.config.run import FilterConfig
from sso_data.core.errors import RunError
from sso_data.core.records import Cell, Row
from sso_data.core.statistics import wilson
from sso_data.generation import generate, preview
from sso_data.generation.forecast import check_room, forecast
from sso_data.runs import columns
from sso_data.runs.columns import Flag, flags_of
from tests.factories import encode_rows, make_row
from tests.reliability.flow import scripted, write_prompts


def test_the_arithmetic() -> None:
    """40 rows of 24 or 30 tokens (27 on average), half of them kept; 20 s for 50 rows' work."""
    rows = [
        make_row(
            n, means={("good", "bad"): -0.5} if n % 2 else {}, tokens={"plain": 8 + 6 * (n % 2)}
        )
        for n in range(40)
    ]
    records = encode_rows(rows)
    found = forecast(records.tobytes(), FilterConfig(), seconds=20.0, work=50.0, total=1000)
    assert found is not None
    assert found.seconds.value == pytest.approx(400) and found.tokens.value == pytest.approx(27_000)
    half = 2.023 * 3 * (40 / 39) ** 0.5 / 40**0.5  # Student's t of 39, spread 3 a row
    assert found.tokens.high - found.tokens.value == pytest.approx(1000 * half, rel=1e-3)
    assert found.seconds.low / 400 == pytest.approx(1 - half / 27, rel=1e-4)
    assert found.kept.value == 0.5 and (found.kept.low, found.kept.high) == wilson(0.5, 40)
    assert found.pairs.value == 500 and found.truncated == 0
    line = records["length"].mean()
    assert found.disk_bytes == pytest.approx(1000 * (1.9 * line + 120))
    assert found.cost(9.0, loading=200.0).value == pytest.approx(1.5)
    assert "1,000 rows take 0:06:40 [" in str(found)
    low, high = found.cost(9.0).low, found.cost(9.0).high
    assert (
        found.cost_text(9.0, 440.0) == f"; cost 1.00 [{low:.2f}, {high:.2f}] at that speed and 1.10"
    )
    assert found.cost_text(None) == ""


def test_cut_responses_are_counted_where_all_were_asked_for() -> None:
    """y+ is cut in every row; 30 of 40 rows were dropped before it was asked for."""
    unlike: dict[Cell, float | None] = {("good", "bad"): -0.25}
    some = [make_row(n, finish={"good": "length"}, means=unlike) for n in range(40)]
    lean = [
        replace(
            row,
            responses={"bad": row.responses["bad"]},
            logp={cell: nats for cell, nats in row.logp.items() if cell[1] == "bad"},
            rest_not_asked="not_steered",
        )
        for row in some[10:]
    ]
    records = encode_rows([*some[:10], *lean])
    first = frozenset(records["key"][:10].tolist())
    found = forecast(
        records.tobytes(),
        FilterConfig(),
        seconds=1.0,
        work=40.0,
        total=99,
        for_all=first.__contains__,
    )
    assert found is not None and found.truncated == 1


def test_few_rows_foretell_nothing() -> None:
    records = encode_rows([make_row(n) for n in range(29)]).tobytes()
    assert forecast(records, FilterConfig(), seconds=1.0, work=29.0, total=99) is None


class Usage(NamedTuple):
    """Of a disk, as far as it is asked for."""

    free: int


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 rows take 1144 bytes each at the least, 114.4 MB, and these 210 MB by the first."""
    monkeypatch.setattr("sso_data.generation.forecast.disk_usage", lambda out: Usage(114_000_000))
    with pytest.raises(RunError, match=r"114\.0 MB of disk are free, and 100000 rows take 114\.4"):
        check_room(tmp_path, 100_000)
    check_room(tmp_path, 99_000)
    monkeypatch.setattr("sso_data.generation.forecast.disk_usage", lambda out: Usage(0))
    check_room(tmp_path, 50_000)  # less than 64 MiB
    records = encode_rows([make_row(n) for n in range(40)])
    assert records["length"].min() > 1024
    found = forecast(records.tobytes(), FilterConfig(), seconds=1.0, work=40.0, total=100_000)
    assert found is not None and found.disk_bytes > 2e8
    assert "0 bytes of disk are free, and the rest" in found.shortage(tmp_path, 40)
    monkeypatch.setattr("sso_data.generation.forecast.disk_usage", lambda out: Usage(1 << 40))
    assert found.shortage(tmp_path, 40) == "" == found.shortage(tmp_path, 100_000)


def questions(file: Path, count: int) -> Path:
    return write_prompts(file, [json.dumps({"prompt": f"What is {n}?"}) for n in range(count)])


def run(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [*map(str, arguments), "-m", "test/model"])
    assert done.exit_code == 0, done.output
    return done


def test_a_long_run_says_what_it_will_take_and_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch)
    prompts = questions(tmp_path / "in.jsonl", 90)
    quick = run("generate", prompts, "--out", tmp_path / "quick")
    assert "by the first" not in quick.stderr, "what ends soon is not estimated"
    monkeypatch.setattr(generate, "_WORTH_SECONDS", -1e9)
    done = run("generate", prompts, "--out", tmp_path / "run", "--json", "--price-per-hour", 3600)
    told = [line for line in done.stderr.splitlines() if line.startswith("by the first ")]
    assert len(told) == 1 and ": 90 rows take 0:00:0" in told[0]
    first = int(told[0].split()[3])
    assert 30 <= first < 60, "as soon as a cohort is done"
    assert "; cost " in told[0]
    assert f"estimated by the first {first} rows and actual: time" in done.stderr
    found = json.loads(done.stdout)
    assert found["cost"] == pytest.approx(found["seconds"], abs=0.006), "3600 an hour, 1 a second"
    assert re.search(r"; cost [\d.]+ \[[\d.]+, [\d.]+\] at that speed and [\d.]+\n", done.stderr)
    assert (found["forecast"]["rows"], found["forecast"]["total"]) == (first, 90)
    low, high = found["forecast"]["kept"][1:]
    assert low <= found["kept"] / 90 <= high or found["kept"] == 0


@pytest.mark.parametrize("command", ["preview", "plan"])
def test_a_record_is_made_once_a_row(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch)
    monkeypatch.setattr(preview, "prepare", generate.prepare)
    monkeypatch.setattr(preview, "planned_scoring", lambda *_: "nothing")
    looked = Counter[str]()

    def flags(row: Row) -> Flag:
        looked[row.id] += 1
        return flags_of(row)

    monkeypatch.setattr(columns, "flags_of", flags)
    run(command, questions(tmp_path / "in.jsonl", 90), "-n", 40)
    assert len(looked) == 40 and set(looked.values()) == {1}


def test_the_plan_is_of_all_prompts_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch)
    monkeypatch.setattr(preview, "prepare", generate.prepare)
    monkeypatch.setattr(preview, "planned_scoring", lambda *_: "nothing")  # there is no model
    prompts = questions(tmp_path / "in.jsonl", 90)
    done = run("plan", prompts, "-n", 40, "--price-per-hour", 3, "--json")
    found = json.loads(done.stdout)
    assert (found["prompts"], found["probed"], found["forecast"]["total"]) == (90, 40, 90)
    assert found["cost"][0] >= 0 and sorted(tmp_path.iterdir()) == [prompts]
    features = found["explanation"]["features"]
    assert sum(one["rows"] for one in features.values()) >= 2 * 40, "which principles, too"
    exact = found["prompt_tokens"]
    assert exact[0] == exact[1] == exact[2] > 3 * 90
    monkeypatch.setattr(preview, "_MOST_COUNTED", 60)
    told = json.loads(run("plan", prompts, "-n", 40, "--json").stdout)["prompt_tokens"]
    assert told[1] < exact[0] < told[2], "by 60 of the 90"
    turned = write_prompts(tmp_path / "b.jsonl", prompts.read_text().splitlines()[::-1])
    again = json.loads(run("plan", turned, "-n", 40, "--json").stdout)
    assert again["forecast"]["tokens"] == found["forecast"]["tokens"], "the order does not matter"
    monkeypatch.setattr(preview, "prepare", None)  # no model is loaded for too few
    few = CliRunner().invoke(app, ["plan", str(questions(tmp_path / "c.jsonl", 9)), "-m", "x"])
    assert few.exit_code == 1 and "has 9 prompts, and fewer than 30 rows" in few.stderr
    assert "-n" not in few.stderr.split("give more prompts")[0]
