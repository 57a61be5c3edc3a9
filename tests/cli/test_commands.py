"""The commands end to end on the tiny policy: what they write, print and return."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from tests.cli.conftest import INLINE, Cli, rows_of
from tests.exporting.making import make_run
from tests.factories import make_row


def test_generate_then_filter_again(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    run = tmp_path / "run"
    done = cli("generate", prompts, "--out", run, "--json", *INLINE)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["prompts"] == summary["rows"] == 12
    assert summary["rows"] == summary["kept"] + sum(summary["dropped"].values())
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["logprob_check"]["agreed"]
    assert manifest["engine"]["name"] == "transformers"
    assert manifest["template"]["bos"] == "template"
    assert {row["source_id"] for row in rows_of(run)} == {f"q{n}" for n in range(12)}
    lines = (run / "pairs" / "train.jsonl").read_text().splitlines()
    assert len(lines) == summary["kept"]

    for preset in ("closeness", "reference"):
        again = cli("filter", run, "--preset", preset, "--dry-run", "--json")
        assert again.exit_code == 0
        decided = json.loads(again.stdout)
        assert decided["rows"] == decided["kept"] + sum(decided["dropped"].values())
    assert (run / "pairs" / "train.jsonl").read_text().splitlines() == lines, "a dry run writes"


def test_the_pairs_load_everywhere(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    run = tmp_path / "run"
    loose = ("--set=filter.closeness=q1.0", "--set=filter.gap=q0.0")
    assert cli("generate", prompts, "--out", run, *INLINE, *loose).exit_code == 0
    read = {}
    for kind, name in (("json", "train.jsonl"), ("parquet", "train.parquet")):
        read[kind] = load_dataset(
            kind,
            data_files=str(run / "pairs" / name),
            split="train",
            cache_dir=str(tmp_path / kind),
        ).to_list()
    assert read["json"] == read["parquet"]
    assert len(read["json"]) > 0
    first = read["json"][0]
    assert first["chosen"] == [first["chosen_message"]]
    assert [turn["role"] for turn in first["prompt"]] == ["user"]
    assert first["chosen_num_tokens"] == len(first["chosen_token_ids"])


def test_the_same_command_again_does_nothing(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    run = tmp_path / "run"
    cli("generate", prompts, "--out", run, *INLINE)
    before = rows_of(run)
    done = cli("generate", prompts, "--out", run, "--json", *INLINE)
    assert json.loads(done.stdout)["new_rows"] == 0
    assert "loading" not in done.stderr
    assert rows_of(run) == before


def test_more_prompts_may_be_added_and_limit_raised(
    cli: Cli, tmp_path: Path, prompts: Path
) -> None:
    run = tmp_path / "run"
    cli("generate", prompts, "--out", run, "--limit", 4, *INLINE)
    first = rows_of(run)
    assert len(first) == 4
    done = cli("generate", prompts, "--out", run, "--json", *INLINE)
    assert json.loads(done.stdout)["new_rows"] == 8
    assert rows_of(run)[:4] == first


def test_shuffled_input_gives_the_same_rows(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    cli("generate", prompts, "--out", tmp_path / "a", *INLINE)
    lines = prompts.read_text().splitlines(keepends=True)
    prompts.write_text("".join(lines[::-1]))
    cli("generate", prompts, "--out", tmp_path / "b", *INLINE)

    one, other = ({row["id"]: row for row in rows_of(tmp_path / name)} for name in "ab")
    assert one.keys() == other.keys() and len(one) == 12
    drawn = ("chosen_token_ids", "rejected_token_ids", "original_token_ids")
    for name, row in one.items():
        for key in ("seed_good", "prompt_hash_bad", "principles", "source_id", "prompt"):
            assert row[key] == other[name][key]
    same = [n for n, row in one.items() if all(row[key] == other[n][key] for key in drawn)]
    assert len(same) >= 11, "a draw on a boundary is rare"


def test_preview_writes_nothing_and_shows_what_generate_makes(
    cli: Cli, tmp_path: Path, prompts: Path
) -> None:
    shown = cli("preview", prompts, "-n", 3, "--json", *INLINE)
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout)["rows"]
    assert sorted(tmp_path.iterdir()) == [prompts]
    cli("generate", prompts, "--out", tmp_path / "run", "--limit", 3, *INLINE)
    made = {row["id"]: row for row in rows_of(tmp_path / "run")}
    assert {row["id"]: row["chosen_token_ids"] for row in rows} == {
        name: row["chosen_token_ids"] for name, row in made.items()
    }


def test_preview_predicts_the_kept_share(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    """The share that `generate` keeps of these rows, and its interval; nothing is written."""
    shown = cli("preview", prompts, "-n", 12, "--summary", *INLINE)
    assert shown.exit_code == 0, shown.output
    assert sorted(tmp_path.iterdir()) == [prompts]
    made = json.loads(cli("generate", prompts, "--out", tmp_path / "run", "--json", *INLINE).stdout)
    low, high = made["explanation"]["kept_share_interval"]
    said = f"{made['kept']} of 12 rows would be kept: expect {made['kept'] / 12:.0%} "
    assert f"{said}[{low:.0%}, {high:.0%}]" in shown.stdout
    assert "the texts move this model" in shown.stderr and "drawn under" not in shown.stdout


def test_preview_for_people(cli: Cli, prompts: Path, opened_sources: list[str]) -> None:
    shown = cli("preview", prompts, "-n", 1, *INLINE)
    for word in ("chosen (drawn under good", "rejected", "original", "log-prob under plain"):
        assert word in shown.stdout
    assert opened_sources == [str(prompts)], "read once"


def test_a_plan_reads_its_source_once(cli: Cli, prompts: Path, opened_sources: list[str]) -> None:
    assert "foretell nothing" in cli("plan", prompts, *INLINE).stderr
    assert opened_sources == [str(prompts)]


def test_preview_drops_what_lies_beyond_a_relative_limit(cli: Cli, prompts: Path) -> None:
    given = ("-n", 8, "--json", "--set=filter.gap=q0.9", "--set=filter.steered=off", *INLINE)
    found = json.loads(cli("preview", prompts, *given).stdout)
    reasons = [row["reason"] for row in found["rows"]]
    assert "gap" in reasons and reasons.count(None) == found["explanation"]["kept"] < 8


def test_the_run_one_is_in(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", [make_row(index) for index in range(3)])
    monkeypatch.chdir(run)
    done = cli("filter", ".")
    assert done.exit_code == 0, done.output
    assert f"--out {run}-model" in done.stdout


def test_principles(cli: Cli) -> None:
    listed = cli("principles", "list")
    for feature in ("Safety", "Logicality", "Comprehensiveness", "Helpfulness"):
        assert feature in listed.stdout
    shown = cli("principles", "show", "helpfulness")
    assert shown.stdout.startswith("Helpfulness (Helpful / Unhelpful)")


def test_doctor(cli: Cli) -> None:
    done = cli("doctor", "--model", INLINE[-1].partition("=")[2], "--json")
    assert done.exit_code == 0
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert found["BOS"]["detail"] == "one, from the template"
    assert found["system role"]["detail"] == "native"
    assert found["control tokens typed by users"]["detail"] == "stay text"
    assert found["generation_config.json"]["state"] == "ok"
    broken = cli("doctor", "--model", "/nowhere")
    assert broken.exit_code == 1
    assert "no such model" in broken.stdout


def test_a_filter_that_keeps_nothing_warns_and_exits_0(
    cli: Cli, tmp_path: Path, prompts: Path
) -> None:
    run = tmp_path / "run"
    cli("generate", prompts, "--out", run, *INLINE)
    done = cli("filter", run, "--set", "filter.gap=50")
    assert done.exit_code == 0
    assert "warning: no pairs: 0 of 12 rows are kept" in done.stderr
    assert "most are lost at gap" in done.stderr and "the texts move this model" in done.stderr
    assert (run / "pairs" / "train.jsonl").read_text() == ""
    step = next(line for line in done.stderr.splitlines() if line.startswith("try: "))
    kept = json.loads(cli(*step.partition(" (tried")[0].split()[2:], "--json").stdout)["kept"]
    assert f"(tried: keeps {kept} of 12 rows)" in step


def test_demo_measures_the_signal_and_trains(cli: Cli, tmp_path: Path) -> None:
    """Twenty pairs or so suffice for a round that the oracle notices."""
    done = cli("demo", "-n", 48, "--json", "--out", tmp_path / "demo")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["account"] == {
        "prompts": 48,
        "rows": 48,
        "failed": 0,
        "samples": 1,
        "elsewhere": 0,
    }
    assert result["signal_all"]["accuracy"] > 0.8
    assert result["signal_kept"]["accuracy"] >= result["signal_all"]["accuracy"] - 0.05
    assert result["signal_all"]["chosen"] > result["signal_all"]["original"]
    assert result["signal_all"]["original"] > result["signal_all"]["rejected"]
    assert result["unprompted"]["after"] >= result["unprompted"]["before"] + 0.06
    assert (tmp_path / "demo" / "trained" / "model.safetensors").is_file()


def test_filter_says_when_a_run_is_unfinished(cli: Cli, tmp_path: Path, prompts: Path) -> None:
    run = tmp_path / "run"
    cli("generate", prompts, "--out", run, *INLINE)
    part = run / "rows" / "00000.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:7]))
    done = cli("filter", run, "--dry-run")
    assert "the run is unfinished: 7 of 12 prompts are done" in done.stderr


def test_a_run_remembers_the_thresholds_it_was_last_made_with(
    cli: Cli, tmp_path: Path, prompts: Path
) -> None:
    run = tmp_path / "run"
    cli("generate", prompts, "--out", run, *INLINE)
    cli("generate", prompts, "--out", run, *INLINE, "--set", "filter.gap=0.9")
    decided = json.loads(cli("filter", run, "--dry-run", "--json").stdout)
    assert decided["thresholds"]["gap"] == 0.9


def test_preview_keeps_the_order_of_the_file(cli: Cli, prompts: Path) -> None:
    rows = json.loads(cli("preview", prompts, "-n", 8, "--json", *INLINE).stdout)["rows"]
    assert [row["source_id"] for row in rows] == [f"q{number}" for number in range(8)]


def test_brackets_in_a_users_text_are_text(cli: Cli, tmp_path: Path) -> None:
    principle = {
        "name": "Warmth",
        "adjectives": {"good": "Warm", "bad": "Cold"},
        "meaning": "How [/b] warm [red]it is.",
        "good": "Be warm.",
        "bad": "Be cold.",
    }
    (tmp_path / "[x]").mkdir()
    (tmp_path / "[x]" / "warmth.yaml").write_text(json.dumps(principle))
    listed = cli("principles", "list", "--principles", tmp_path / "[x]")
    assert listed.exit_code == 0
    assert "[/b] warm [red]it is." in listed.stdout
    assert cli("doctor", "--model", tmp_path / "[/x]").exit_code == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["demo", "--help"], ["principles", "list"]])
def test_a_full_disk_behind_stdout_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sso_data", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "error: stdout cannot be written: No space left on device; files written so far are kept\n"
    )
