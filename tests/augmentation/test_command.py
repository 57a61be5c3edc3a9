"""`sso-data augment` as a user types it: on the tiny policy, and at an endpoint."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sso_data.cli import app
from sso_data.world import catalogue_dir, policy_dir, queries
from tests.augmentation.scripted import SEEDS, rows, write_seeds
from tests.augmentation.server import serving

TINY = (
    f"--model={policy_dir()}",
    "--engine=transformers",
    "--set=engine.isolation=inline",
    "--set=engine.dtype=float32",
)


LONG = "x" * 5000


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["augment", *map(str, arguments)])


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    return write_seeds(tmp_path / "seeds.jsonl", queries(40, seed=5))


def test_nonsense_of_the_tiny_policy_is_rejected_with_reasons(seeds: Path, tmp_path: Path) -> None:
    """It was never taught to read the shipped template, which asks for JSON."""
    limits = ("--set=limits.attempts_per_query=3", "--set=answers.max_tokens=24")
    done = cli(seeds, "--out", tmp_path / "new.jsonl", "--n", 2, "--json", *limits, *TINY)
    assert done.exit_code == 3, done.output
    report = json.loads(done.stdout)
    assert (report["accepted"], report["attempts"], report["state"]) == (0, 6, "attempts")
    assert set(report["rejected"]) <= {"cut_off", "unparsable", "empty"}
    assert sum(report["rejected"].values()) == 6
    assert "warning: 0 of 2 queries after 6 attempts" in done.stderr
    assert (tmp_path / "new.jsonl").read_text() == ""


def test_the_tiny_policy_with_a_template_of_its_own(seeds: Path, tmp_path: Path) -> None:
    """What it says to a query is an answer, but text; the file and the exit code are as always."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "augment.j2").write_text("{{ seeds[-1] }}")
    arguments = (seeds, "--out", tmp_path / "new.jsonl", "--n", 3, "--templates", own)
    text = ("--set=answers.form=text", "--set=answers.max_tokens=160")
    loose = ("--set=checks.max_ratio=50", "--set=duplicates.threshold=1")
    done = cli(*arguments, *text, *loose, *TINY)
    assert done.exit_code == 0, done.output
    assert "3 new queries of" in done.stdout
    first = rows(tmp_path / "new.jsonl")
    assert len(first) == 3
    assert first[0]["provenance"]["model"].startswith(f"{policy_dir().name}@")
    again = cli(*arguments, *text, *loose, "--json", *TINY)
    assert json.loads(again.stdout)["new_attempts"] == 0
    assert "loading" not in again.stderr
    few = ("--limit=2", "--set=sampling.max_tokens=16", f"--principles={catalogue_dir()}")
    made = CliRunner().invoke(
        app, ["generate", str(tmp_path / "new.jsonl"), f"--out={tmp_path / 'run'}", *few, *TINY]
    )
    assert made.exit_code == 0, made.output
    run = {row["id"]: row for row in rows(tmp_path / "run" / "rows" / "00000.jsonl")}
    assert set(run) == {row["id"] for row in first[:2]}, "finished in any order"
    for row in first[:2]:
        assert json.loads(run[row["id"]]["metadata"]) == {"provenance": row["provenance"]}


def test_at_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers as servers give them: JSON, JSON in prose, prose, errors that pass."""
    pytest.importorskip("openai")
    monkeypatch.setenv("MY_KEY", "sk-thisisasecretofthetest")
    seeds = write_seeds(tmp_path / "seeds.jsonl", SEEDS)

    def script(body: dict[str, Any], number: int) -> tuple[int, str]:
        if number == 2:
            return 500, "a hiccup"
        rng = random.Random(body["seed"])
        words = " ".join("".join(rng.choices("aeioubdfgklmnprst", k=6)) for _ in range(8))
        said = json.dumps({"query": f"What can you tell me about {words}?"})
        return 200, rng.choice((said, f"Gladly!\n```json\n{said}\n```", "I had rather not."))

    bench = tmp_path / "bench.txt"
    bench.write_text("Which knight told the tale of the three wise owls and the old mill?\n")
    with serving(script) as (url, bodies):
        done = cli(
            *(seeds, "-m", "big/model", "--endpoint", url, "--out", tmp_path / "new.jsonl"),
            *("--n", 12, "--decontaminate", bench, "--set=api_key_env=MY_KEY", "--json"),
        )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["accepted"] == 12
    assert set(report["rejected"]) == {"unparsable"}
    assert report["contaminated"] == {str(bench): 0}
    assert all(body["model"] == "big/model" for body in bodies)
    assert len(rows(tmp_path / "new.jsonl")) == 12
    for file in tmp_path.iterdir():
        assert "sk-thisisasecret" not in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--n", "2"), "no model given"),
        (("--n", "2", "-m", "/nowhere"), "no such model directory"),
        (
            ("--n", "2", "-m", "x", "--endpoint", "http://127.0.0.1:9", "--out", f"{LONG}.jsonl"),
            "File name too long",
        ),
        (("--n", "2", "-m", "x/y", "--set", "operation.topic=1"), "unknown key 'operation'"),
        (("--n", "2", "-m", "x/y", "--set", "duplicates.threshold=2"), "less than or equal to 1"),
        (("--n", "2", "-m", "x/y", "--endpoint", "nowhere"), "write an address"),
        (("--n", "2", "-m", "x/y", "--templates", "/nowhere"), "not a directory of templates"),
        (
            ("--n", "2", "-m", "x", "--endpoint", "http://127.0.0.1:9", "--decontaminate", "/none"),
            "/none",
        ),
    ],
)
def test_mistakes_are_one_line(
    seeds: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = cli(seeds, "--out", tmp_path / "new.jsonl", *arguments)
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
    assert not (tmp_path / "new.jsonl").exists()


def test_all_weights_zero_is_a_mistake(seeds: Path, tmp_path: Path) -> None:
    none = [f"--set=operations.{name}=0" for name in ("evolve", "rephrase", "topic")]
    none += ["--set=operations.harder=0", "--set=operations.easier=0"]
    done = cli(seeds, "--out", tmp_path / "new.jsonl", "--n", 1, "-m", "x/y", *none)
    assert done.exit_code == 1
    assert "at least one must have a weight above 0" in done.stderr


def test_help_shows_an_example() -> None:
    said = cli("--help")
    assert said.exit_code == 0
    assert "Example: sso-data augment" in " ".join(said.stdout.split())
