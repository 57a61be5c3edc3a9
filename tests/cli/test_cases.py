"""Inputs that people have (`tests/cases`), through the command line: each with its right result."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import Result

from sso_data.world import policy_dir
from tests.cases import models
from tests.cli.conftest import INLINE, Cli, rows_of

CASES = Path(models.__file__).parent
STEPS = (
    *("--objective=pairs", "--set=optim.max_steps=1", "--set=optim.warmup_steps=0"),
    *("--set=log.plot=false", "--set=optim.lr=5e-4"),
)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The odd models, by name."""
    folder = tmp_path_factory.mktemp("models")
    models.main(policy_dir(), folder)
    return folder


def refused(done: Result, *parts: str) -> None:
    assert done.exit_code == 1, done.output
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in line, line


def test_prompts_in_every_layout(cli: Cli, tmp_path: Path) -> None:
    """One directory of files of all layouts, which share no column."""
    folder = tmp_path / "prompts"
    shutil.copytree(CASES / "formats", folder, ignore=shutil.ignore_patterns("*.json", "tools*"))
    done = cli("generate", folder, "--out", tmp_path / "run", *INLINE)
    assert done.exit_code == 0, done.output
    assert "read as" in done.stderr
    asked = {tuple(turn["content"] for turn in row["prompt"]) for row in rows_of(tmp_path / "run")}
    assert asked == {
        ("Sort the numbers.\n3, 1, 2",),
        ("Name some fruits.",),
        ("Be kind.", "Tell me about the tiger."),
        ("How do I make tea?",),
        ("Tell me about the tiger.",),
        ("Be kind.", "How do I make tea?", "Boil water.", "Name some fruits."),
        ("Answer only in French.", "Tell me about the tiger."),
    }
    assert json.loads((tmp_path / "run" / "run.json").read_text())["peoples_chats"] is True


def test_tables_and_line_ends_of_other_programs(cli: Cli, tmp_path: Path) -> None:
    asked: list[set[str]] = []
    for case in ("csv-messages/p.csv", "cr-only/p.txt", "cr-only/p.csv", "formats/alpaca.json"):
        run = tmp_path / case.replace("/", "-")
        assert cli("generate", CASES / case, "--out", run, *INLINE).exit_code == 0
        asked.append({row["prompt"][0]["content"] for row in rows_of(run)})
    both = {"Name some fruits.", "Tell me about the tiger."}
    assert asked == [both, both, both, {"Sort.\n3"}]


def test_a_system_column_of_pairs_is_the_system_message(cli: Cli, tmp_path: Path) -> None:
    pairs = CASES / "system-column" / "pairs.jsonl"
    done = cli("train", pairs, "--out", tmp_path / "model", f"--model={policy_dir()}", *STEPS)
    assert done.exit_code == 0, done.output
    assert "read as prompt (prompt: prompt, system)" in done.stderr
    lines = pairs.read_text().splitlines()
    others = tmp_path / "plain.jsonl"
    others.write_text("".join(f"{line}\n" for line in lines).replace("system", "note"))
    done = cli("train", others, "--out", tmp_path / "plain", f"--model={policy_dir()}", *STEPS)
    assert "(prompt: prompt)" in done.stderr
    read = [json.loads((tmp_path / name / "train.json").read_text()) for name in ("model", "plain")]
    assert read[0]["data"]["fingerprint"] != read[1]["data"]["fingerprint"]


def test_tools_are_refused_before_the_model_is_loaded(cli: Cli, tmp_path: Path) -> None:
    done = cli("generate", CASES / "formats" / "tools.jsonl", "--out", tmp_path / "run", *INLINE)
    refused(done, "tools.jsonl:1", "column 'tools' belongs to the prompt")
    assert "loading" not in done.stderr


def test_a_prompt_that_ends_with_an_answer_fails(cli: Cli, tmp_path: Path) -> None:
    """The rule for pairs (below) is that of prompts."""
    prompts = CASES / "prefill-pairs" / "pairs.jsonl"
    assert cli("generate", prompts, "--out", tmp_path / "run", *INLINE).exit_code == 3
    [failure] = (tmp_path / "run" / "failed.jsonl").read_text().splitlines()
    assert json.loads(failure)["reason"] == "ends_with_assistant"


def test_a_turn_end_that_no_list_names_is_a_stop(cli: Cli, odd: Path, tmp_path: Path) -> None:
    prompts = CASES / "eos-mismatch" / "prompts.jsonl"
    done = cli("generate", prompts, "--out", tmp_path / "run", *INLINE, f"--model={odd / 'eos'}")
    assert done.exit_code in (0, 2), done.output
    said = "the chat template ends turns with '<|end|>', which no EOS list of the model names"
    assert said in done.stderr
    rows = rows_of(tmp_path / "run")
    assert {row[f"{side}_finish_reason"] for row in rows for side in ("chosen", "original")} == {
        "stop"
    }
    found = json.loads(cli("doctor", f"--model={odd / 'eos'}", "--json").stdout)
    assert any(said in str(one) for one in (found if isinstance(found, list) else found.values()))


def test_pairs_in_every_layout_and_a_generation_config_that_cannot_be_saved(
    cli: Cli, odd: Path, tmp_path: Path
) -> None:
    pairs = CASES / "uf-pairs" / "pairs.jsonl"
    model = odd / "gencfg"
    given = ("train", pairs, "--out", tmp_path / "model", "--model", model, *STEPS)
    refused(cli(*given), "pairs.jsonl:6: rejected holds no text", "--skip-bad-rows")
    done = cli(*given, "--skip-bad-rows")
    assert done.exit_code == 0, done.output
    assert "rows 8 = encoded 6 + too long 0 + malformed 2" in done.stderr
    name = "generation_config.json"
    assert (tmp_path / "model" / name).read_bytes() == (model / name).read_bytes()


def test_pairs_with_reasoning_continue_their_prompts(cli: Cli, odd: Path, tmp_path: Path) -> None:
    pairs, model = CASES / "think-pairs" / "pairs.jsonl", odd / "think"
    given = ("train", pairs, "--out", tmp_path / "model", "--model", model, *STEPS)
    refused(
        cli(*given, "--set=views.template_kwargs.enable_thinking=false"),
        "row 1",
        "does not continue its prompt",
        "views.template_kwargs",
    )
    done = cli(*given)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("tool-pairs", ("pairs.jsonl:1", "the key 'tool_calls', which is not supported")),
        ("prefill-pairs", ("row 1", "the last turn is not the user's")),
    ],
)
def test_pairs_that_cannot_be_shown(
    cli: Cli, odd: Path, tmp_path: Path, case: str, parts: tuple[str, ...]
) -> None:
    pairs = CASES / case / "pairs.jsonl"
    done = cli("train", pairs, "--out", tmp_path / "model", "--model", odd / "tool", *STEPS)
    refused(done, *parts)
    assert not (tmp_path / "model").exists()
    left_out = ("--out", tmp_path / "other", "--skip-bad-rows", *STEPS)
    done = cli("train", pairs, "--model", odd / "tool", *left_out)
    refused(done, "holds no preference pairs" if case == "tool-pairs" else "no row is left")
