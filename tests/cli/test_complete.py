"""`scoring.when=needed` on the tiny policy: `generate`, `filter`, `complete`, and what they say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sso_data.generation import generate as module
from sso_data.publishing.card import CardConfig, dataset_card, read_facts
from tests.cli.conftest import INLINE, Cli, rows_of

OPTIONS = (*INLINE, "--set=sampling.max_tokens=48", "--set=scoring.verify_rows=2", "--seed=3")
UNCUT = "--set=filter.drop_truncated=false"
CHECKED = ("--set=filter.steered=contrast", "--set=filter.gap=0.05", UNCUT)
LOOSE = ("--set=filter.steered=contrast", "--set=filter.gap=0", UNCUT)


def by_id(run: Path) -> dict[str, dict[str, Any]]:
    """Rows without log-probs, which differ by rounding."""
    return {
        row["id"]: {key: value for key, value in row.items() if not key.startswith("logp_")}
        for row in rows_of(run)
    }


def kept_ids(run: Path) -> set[str]:
    """The rows whose pairs are there."""
    lines = (run / "pairs" / "train.jsonl").read_text().splitlines()
    return {json.loads(line)["id"] for line in lines}


def test_a_run_is_made_filtered_and_completed(
    cli: Cli, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_ROWS", 2)
    whole, lean = tmp_path / "whole", tmp_path / "lean"
    options = (*OPTIONS, *CHECKED)
    assert cli("generate", prompts, "--out", whole, *options).exit_code == 0
    needed = ("generate", prompts, "--out", lean, *options, "--set=scoring.when=needed")
    done = cli(*needed)
    assert done.exit_code == 0, done.output
    assert "not asked for" in done.stdout
    assert "were not asked for everything (scoring.when=needed)" in done.stdout
    summary = json.loads(cli("filter", lean, "--json").stdout)
    partial = [row for row in rows_of(lean) if "rest_not_asked" in row]
    assert 0 < len(partial) == summary["not_asked"] <= sum(summary["dropped"].values())
    assert summary["rows"] == summary["kept"] + sum(summary["dropped"].values()) == 12
    assert sum(stage.get("not_asked", 0) for stage in summary["funnel"]) == len(partial)
    kept = kept_ids(whole)
    assert kept == kept_ids(lean) and 0 < len(kept) == summary["kept"] < 12

    refused = cli("filter", lean, *LOOSE)
    assert refused.exit_code == 1
    (said,) = refused.stderr.strip().splitlines()[-1:]
    assert "of 12 rows need scores that were not asked for" in said
    assert f"sso-data complete {lean} --set filter." in said
    assert cli("filter", lean, "--sweep", *LOOSE).exit_code == 0
    another = cli("generate", prompts, "--out", lean, *options)
    assert another.exit_code == 1
    assert 'scoring.when is "needed" there and "all" here' in another.stderr

    done = cli("complete", lean, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["completed"] == len(partial)
    assert "not_asked" not in found
    assert by_id(lean) == by_id(whole)
    assert kept_ids(lean) == kept
    for ours, theirs in ((row, other) for row in rows_of(lean) for other in rows_of(whole)):
        if ours["id"] == theirs["id"]:
            names = [name for name in theirs if name.startswith("logp_")]
            assert [ours[name] for name in names] == pytest.approx(
                [theirs[name] for name in names], abs=1e-3
            )
    assert json.loads(cli("complete", lean, "--json").stdout)["completed"] == 0
    assert all(cli("filter", run, *LOOSE).exit_code == 0 for run in (lean, whole))
    assert kept < kept_ids(lean) == kept_ids(whole)


def test_a_card_says_what_was_not_asked_for(
    cli: Cli, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_ROWS", 2)
    run = tmp_path / "run"
    cli("generate", prompts, "--out", run, *OPTIONS, "--set=scoring.when=needed", *LOOSE[:1])
    facts = read_facts(run)
    not_asked = sum(stage.get("not_asked", 0) for stage in facts.decided["funnel"])
    pairs = CardConfig(name="pairs", path="train.jsonl", rows=facts.decided["kept"], default=True)
    card, _ = dataset_card(facts, repo="me/pairs", configs=[pairs])
    assert not_asked
    assert f"{not_asked} of the dropped rows lack scores, `chosen` or `original`" in card.page
    assert f"score once it was dropped: {not_asked} rows lack some (`rest_not_asked`" in card.page
    assert "with all its scores" not in card.page
    engine = facts.config.engine.model_copy(update={"servers": ("http://10.0.0.5:8000",)})
    config = facts.config.model_copy(update={"engine": engine})
    facts.manifest["config"] = config.model_dump(mode="json")
    shown, _ = dataset_card(replace(facts, config=config), repo="me/pairs", configs=[pairs])
    assert "10.0.0.5" not in shown.page and "engine.servers" not in shown.page
