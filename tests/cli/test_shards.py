"""Shards: each prompt in exactly one, whatever the order; merged, the run of one machine."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.run import SourceConfig
from sso_data.prompts import read_prompts
from tests.cli.conftest import INLINE, Cli, rows_of

TEXTS = [f"Question {number % 40}?" for number in range(60)]
"""Twenty of them stand twice."""


def write_texts(file: Path, texts: list[str]) -> str:
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return str(file)


def in_shard(source: str, shard: str) -> list[str]:
    config = SourceConfig(shard=shard)
    return sorted(row.messages[0].content for row in read_prompts(source, config))


@pytest.mark.parametrize("count", [1, 4, 7])
def test_every_prompt_is_in_one_shard_whatever_the_order(tmp_path: Path, count: int) -> None:
    source = write_texts(tmp_path / "a.jsonl", TEXTS)
    shuffled = list(TEXTS)
    random.Random(1).shuffle(shuffled)
    other = write_texts(tmp_path / "b.jsonl", shuffled)
    shards = [in_shard(source, f"{which}/{count}") for which in range(1, count + 1)]
    assert sorted(text for shard in shards for text in shard) == sorted(TEXTS)
    assert shards == [in_shard(other, f"{which}/{count}") for which in range(1, count + 1)]
    for text in set(TEXTS):
        assert sum(text in shard for shard in shards) == 1, "duplicates stay together"


def test_a_prefix_is_shared_out_and_bad_rows_have_a_shard(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [*(json.dumps({"prompt": text}) for text in TEXTS[:20]), "[]", *["7"] * 3]
    file.write_text("\n".join(lines))
    found: list[Any] = []
    for which in (1, 2):
        config = SourceConfig(shard=f"{which}/2", limit=22, skip_bad_rows=True)
        found += read_prompts(str(file), config)
    assert len(found) == 22


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "1/0", "a/b", "1/4/2", "-1/4", "１/２"])
def test_what_is_no_shard_is_one_line(cli: Cli, tmp_path: Path, shard: str) -> None:
    source = write_texts(tmp_path / "a.jsonl", TEXTS)
    done = cli("generate", source, "--out", tmp_path / "run", f"--shard={shard}", "-m", "x")
    assert done.exit_code == 1
    assert "write a shard as I/N" in done.stderr and "source.shard" in done.stderr


def sorted_content(run: Path) -> dict[str, Any]:
    return {row["id"]: row for row in rows_of(run)}


def test_merged_shards_are_the_run_of_one_machine(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    """Bit for bit but for rounding: another batch composition moves the last bits of a log-prob."""
    with prompts.open("a") as stream:
        stream.write(json.dumps({"prompt": "", "id": "blank"}) + "\n")
    whole = tmp_path / "whole"
    assert cli("generate", prompts, "--out", whole, *INLINE).exit_code == 3
    parts = [tmp_path / f"part{which}" for which in (1, 2, 3, 4)]
    for which, part in enumerate(parts, start=1):
        done = cli("generate", prompts, "--out", part, f"--shard={which}/4", *INLINE)
        assert done.exit_code in (0, 3), done.output
    out = tmp_path / "out"
    done = cli("merge", *parts, "--out", out, "--json")
    assert done.exit_code == 3, done.output
    account = json.loads(done.stdout)
    four = (account[key] for key in ("prompts", "rows", "failed", "repeated"))
    assert tuple(four) == (13, 12, 1, 0)
    expected, found = sorted_content(whole), sorted_content(out)
    assert found.keys() == expected.keys()
    for name, row in found.items():
        for key in ("seed_good", "prompt_hash_bad", "principles", "source_id", "prompt"):
            assert row[key] == expected[name][key]
    same = [
        n for n, row in found.items() if row["chosen_token_ids"] == expected[n]["chosen_token_ids"]
    ]
    assert len(same) >= 11, "a draw on a boundary is rare"

    again = cli("merge", *parts, "--out", out, "--json")
    assert json.loads(again.stdout) == account
    assert sorted_content(out) == found
    more = cli("generate", prompts, "--out", out, "--json", *INLINE)
    assert json.loads(more.stdout)["new_rows"] == 0, "a merged run is a run"


def test_a_shard_without_prompts_is_an_empty_run(cli: Cli, tmp_path: Path) -> None:
    source = write_texts(tmp_path / "a.jsonl", ["one"])
    exits = set()
    runs = [tmp_path / f"run{which}" for which in range(1, 4)]
    for which, run in enumerate(runs, start=1):
        done = cli("generate", source, "--out", run, f"--shard={which}/3", "--json", *INLINE)
        exits.add((done.exit_code, json.loads(done.stdout)["rows"]))
    assert exits == {(0, 0), (0, 1)}
    merged = cli("merge", *runs, "--out", tmp_path / "out", "--json")
    assert json.loads(merged.stdout)["rows"] == 1


def test_rows_of_two_runs_are_taken_once(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    cli("generate", prompts, "--out", first, "--limit=8", *INLINE)
    copied = tmp_path / "copied.jsonl"
    copied.write_bytes(prompts.read_bytes())
    cli("generate", copied, "--out", second, *INLINE)
    done = cli("merge", first, second, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["repeated"] == 8
    sources = json.loads((tmp_path / "out" / "run.json").read_text())["sources"]
    assert sources == [str(prompts), str(copied)]
    assert len(rows_of(tmp_path / "out")) == 12
    assert "8 rows were in more than one" in done.stderr


def test_what_does_not_belong_together_is_refused(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    cli("generate", prompts, "--out", first, "--limit=2", *INLINE)
    cli("generate", prompts, "--out", second, "--limit=2", "--seed=1", *INLINE)
    done = cli("merge", first, second, "--out", tmp_path / "out")
    assert done.exit_code == 1 and "seed is 0 there and 1 here" in done.stderr
    assert not (tmp_path / "out").exists()
    itself = cli("merge", first, "--out", first)
    assert itself.exit_code == 1 and "is one of the runs" in itself.stderr
    nothing = cli("merge", first, tmp_path / "no", "--out", tmp_path / "out")
    assert nothing.exit_code == 1 and "no such directory" in nothing.stderr
