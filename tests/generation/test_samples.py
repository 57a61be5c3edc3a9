"""Several rows of each prompt, and other places of the principles, on the tiny policy."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from sso_data.config.training import TrainConfig
from sso_data.core.errors import InputError
from sso_data.core.records import Row, View
from sso_data.evaluation.judges import Oracle
from sso_data.evaluation.verdicts import Verdict, signal_comparison
from sso_data.models.training_model import find_policy
from sso_data.runs.journal import read_rows
from sso_data.training.data import load_data
from sso_data.world import policy_dir, queries
from tests.cli.conftest import INLINE, Cli, cli, prompts, rows_of

__all__ = ["cli", "prompts"]
Json = dict[str, Any]
PLACEBO_PROMPTS = 48
BOTH: tuple[tuple[View, View], ...] = (("good", "bad"), ("bad", "good"))
"""A view, and the opposite one."""


def generated(cli: Cli, prompts: Path, run: Path, *options: str) -> Json:
    """The summary of `generate`; short answers do."""
    short = ("--set=sampling.max_tokens=48", "--set=filter.drop_truncated=false")
    done = cli("generate", prompts, "--out", run, *INLINE, *short, "--json", *options)
    assert done.exit_code in (0, 3), done.output
    found: Json = json.loads(done.stdout)
    return found


def by_id(run: Path) -> dict[str, Json]:
    return {row["id"]: row for row in rows_of(run)}


def same_but_rounding(row: Json) -> Json:
    return {key: value for key, value in row.items() if not key.startswith("logp_")}


@pytest.fixture
def few(tmp_path: Path, prompts: Path) -> Path:
    """Two prompts, the first of them once more, and a blank one."""
    lines = prompts.read_text().splitlines()[:2]
    file = tmp_path / "few.jsonl"
    file.write_text("\n".join([*lines, lines[0], json.dumps({"prompt": " "})]) + "\n")
    return file


def test_a_run_grows_in_samples_and_its_rows_stay(cli: Cli, few: Path, tmp_path: Path) -> None:
    run, shards = tmp_path / "run", [tmp_path / f"part{which}" for which in (1, 2)]
    account = generated(cli, few, run)
    assert (account["prompts"], account["samples"], account["rows"], account["failed"]) == (
        4,
        1,
        3,
        1,
    )
    first = rows_of(run)
    account = generated(cli, few, run, "--samples=3")
    assert (account["prompts"], account["samples"], account["rows"], account["failed"]) == (
        4,
        3,
        9,
        3,
    )
    assert account["new_rows"] == 6
    rows = by_id(run)
    assert rows_of(run)[: len(first)] == first
    assert "sample" not in first[0]
    for row in first:
        own = [rows[f"{row['id']}{end}"] for end in ("", ".2", ".3")]
        assert [one.get("sample", 1) for one in own] == [1, 2, 3]
        assert len({one["seed_good"] for one in own}) == 3
        assert all(one["prompt"] == row["prompt"] for one in own)
    assert len({tuple(row["principles"]) for row in rows.values()}) > 2, "each draws its own"
    for which, part in enumerate(shards, start=1):
        generated(cli, few, part, "--samples=3", f"--shard={which}/2")
    done = cli("merge", *shards, "--out", tmp_path / "merged", "--json")
    assert json.loads(done.stdout)["samples"] == 3
    merged = by_id(tmp_path / "merged")
    assert merged.keys() == rows.keys()
    assert all(
        same_but_rounding(merged[key]) == same_but_rounding(row) for key, row in rows.items()
    )
    again = json.loads(cli("retry", run, "--json").stdout)
    assert (again["tried"], again["failed_again"], again["samples"]) == (3, 3, 3)
    shown = cli("filter", run, "--preset=none", "--set=filter.per_prompt=best")
    assert "prompts 4 x samples 3 = rows 9 + failed 3" in shown.stdout
    assert "kept 3 + 6 not_best_of_prompt" in shown.stdout
    kept = [json.loads(line) for line in (run / "pairs" / "train.jsonl").read_text().splitlines()]
    assert len({row["id"].partition(".")[0] for row in kept}) == len(kept) == 3


@pytest.mark.parametrize("placement", ["user", "both"])
def test_training_renders_the_views_as_they_were_seen(
    placement: str, cli: Cli, few: Path, tmp_path: Path
) -> None:
    """`load_data` checks each view's ids by their hash; a row that says otherwise is refused."""
    run = tmp_path / "run"
    settings = [f"--set=steering.placement={placement}", "--set=filter.preset=none"]
    generated(cli, few, run, *settings)
    for row in read_rows(run):
        assert row.steering.placement == placement
        assert row.user["good"].count(row.steering.good[0]) == 1
        assert row.system["good"].count(row.steering.good[0]) == (placement == "both")
    pairs = run / "pairs" / "train.jsonl"
    config = TrainConfig(model=str(policy_dir()))
    assert len(load_data(str(pairs), find_policy(config), config).train) == 3
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    del lines[0]["user_bad"]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match="its bad prompt renders to different token ids"):
        load_data(str(pairs), find_policy(config), config)


PLACEBO = {
    "name": "Placebo",
    "adjectives": {"good": "Metallic", "bad": "Brewed"},
    "meaning": "Nothing that makes an answer better or worse.",
    "good": "Name some metals.",
    "bad": "Show me how to make tea.",
}


def test_placebo_texts_move_the_model_and_make_no_answer_better(cli: Cli, tmp_path: Path) -> None:
    """Contrast is high and reverse contrast low; the oracle sees no more in the rows that show it.

    So a high share of contrast says that the texts move the model, not that they move it anywhere.
    """
    catalogue, run, file = tmp_path / "placebo", tmp_path / "run", tmp_path / "prompts.jsonl"
    catalogue.mkdir()
    (catalogue / "placebo.yaml").write_text(yaml.safe_dump(PLACEBO))
    lines = [json.dumps({"prompt": text}) + "\n" for text in queries(PLACEBO_PROMPTS, seed=4)]
    file.write_text("".join(lines))
    options = (f"--principles={catalogue}", "--set=steering.choose=all")
    generated(cli, file, run, *options, "--set=steering.paraphrase=false")
    rows = {row.id: row for row in read_rows(run)}
    gaps = {
        key: [row.mean(seen, seen) - row.mean(other, seen) for seen, other in BOTH]
        for key, row in rows.items()
    }
    contrast = [key for key, (good, bad) in gaps.items() if good > 0 and bad > 0]
    reverse = [key for key, (good, bad) in gaps.items() if good < 0 and bad < 0]
    assert len(contrast) > 0.6 * len(rows)
    assert len(reverse) < 0.1 * len(rows)
    shown = accuracy([rows[key] for key in contrast])
    assert abs(shown - accuracy([*rows.values()])) < 0.1


def accuracy(rows: list[Row]) -> float:
    """How often the oracle prefers y+ to y-, ties half."""
    said = Oracle().compare([signal_comparison(row) for row in rows])
    return fmean(one.preference for one in said if isinstance(one, Verdict))
