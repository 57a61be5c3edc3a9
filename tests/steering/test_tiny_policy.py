"""The tiny policy chooses features and writes principles for real, and then obeys what it wrote."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sso_data.cli import app
from sso_data.steering.rules import CONCISION, FREE_FORM
from sso_data.world import catalogue_dir, policy_dir, queries, score, skill_templates_dir
from sso_data.world.query import parse
from tests.engines.conftest import needs_vllm
from tools.tiny_world.guidelines import feature_pairs

PROMPTS = 40
ENGINES = [
    pytest.param("transformers", id="transformers, free answers"),
    pytest.param("vllm", id="vLLM, answers held to the schema", marks=needs_vllm),
]
Rows = list[dict[str, Any]]


def generate(engine: str, folder: Path, *settings: str) -> tuple[dict[str, Any], Rows]:
    """(the summary, the rows) of a run over held-out queries."""
    prompts = folder / "prompts.jsonl"
    texts = queries(PROMPTS, seed=21, held_out=True)
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    command = [
        *("generate", str(prompts), "--out", str(folder / "run"), "--json"),
        *("--model", str(policy_dir()), "--principles", str(catalogue_dir())),
        *("--templates", str(skill_templates_dir()), "--engine", engine),
        *("--set", "engine.isolation=inline", "--set", "engine.dtype=float32"),
        *("--set", "engine.threads=1", "--set", "engine.max_model_len=1024"),
        *("--set", "sampling.max_tokens=192", "--set", "steering.max_tokens=64"),
        *("--set", "steering.checks=form"),  # its sides differ in a word, as it was taught them
        *(word for setting in settings for word in ("--set", f"steering.{setting}")),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (done.output, done.exception)
    rows = (folder / "run" / "rows" / "00000.jsonl").read_text().splitlines()
    return json.loads(done.stdout)["steering"], [json.loads(row) for row in rows]


@pytest.fixture(scope="module", params=ENGINES)
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Rows]:
    folder = tmp_path_factory.mktemp("tiny")
    return generate(request.param, folder, "choose=policy", "principles=written")


def test_nearly_all_of_its_answers_are_of_use(run: tuple[dict[str, Any], Rows]) -> None:
    told, rows = run
    assert len(rows) == told["prompts"] == told["choices"] == PROMPTS
    assert told["fallbacks"] <= 0.05 * told["choices"]
    assert told["replaced"] <= 0.1 * told["texts"]
    assert {row["chosen_by"] for row in rows} <= {"policy", "fallback"}


def test_it_chooses_features_that_apply(run: tuple[dict[str, Any], Rows]) -> None:
    chosen = [row for row in run[1] if row["chosen_by"] == "policy"]
    for row in chosen:
        assert len([name for name in row["principles"] if name != CONCISION]) == 2
    applies = [
        set(row["principles"]) - {CONCISION} <= set(parse(row["prompt"][0]["content"]).features)
        for row in chosen
    ]
    assert sum(applies) >= 0.9 * len(applies)
    assert len({tuple(row["principles"]) for row in chosen}) >= 10, "not always the same"


def test_it_writes_for_the_query(run: tuple[dict[str, Any], Rows]) -> None:
    known = topical = written = 0
    for row in run[1]:
        query = parse(row["prompt"][0]["content"])
        for place, feature in enumerate(row["principles"]):
            if row["written_by"][place] != "policy":
                continue
            pair = (row["principles_good"][place], row["principles_bad"][place])
            pairs = feature_pairs(feature, query)
            written += 1
            known += pair in pairs
            topical += pair in pairs[3:]
    assert known >= 0.85 * written
    assert topical >= 0.2 * written, "some name what the query is about"


def test_it_obeys_what_it_wrote(run: tuple[dict[str, Any], Rows]) -> None:
    """The oracle, on the features that were chosen: the good side's answer scores higher."""
    wins: list[float] = []
    for row in run[1]:
        text = row["prompt"][0]["content"]
        named = [name for name in row["principles"] if name in parse(text).features]
        good, bad = (score(text, row[side][0]["content"]) for side in ("chosen", "rejected"))
        for name in named:
            high, low = good.features[name], bad.features[name]
            wins.append(float(high > low) + 0.5 * float(high == low))
    assert sum(wins) / len(wins) >= 0.8


def test_a_free_pair_for_each_query(tmp_path: Path) -> None:
    told, rows = generate(
        "transformers", tmp_path, "choose=none", "principles=written", "concision_probability=0"
    )
    assert told["choices"] == 0
    free = [row for row in rows if row["chosen_by"] == "none"]
    assert len(free) >= 0.9 * len(rows)
    for row in free:
        assert row["principles"] == [FREE_FORM]
        assert row["written_by"] == ["policy"]
        assert f"- {row['principles_good'][0]}\n" in row["system_good"]


def test_another_model_on_this_machine_writes_what_the_policy_chose(tmp_path: Path) -> None:
    """The policy is loaded to choose, closed for the writer, and loaded again for the rows."""
    writer = tmp_path / "bigger"
    shutil.copytree(policy_dir(), writer)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": q}) + "\n" for q in queries(6, seed=4)))
    command = [
        *("generate", str(prompts), "--out", str(tmp_path / "run"), "--engine", "transformers"),
        *("--model", str(policy_dir()), "--principles", str(catalogue_dir())),
        *("--templates", str(skill_templates_dir()), "--principle-model", str(writer)),
        *("--set", "engine.isolation=inline", "--set", "engine.dtype=float32"),
        *("--set", "sampling.max_tokens=16", "--set", "steering.max_tokens=64"),
        *("--set", "steering.choose=policy", "--set", "steering.checks=form", "--json"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (done.output, done.exception)
    loaded = [line for line in done.stderr.splitlines() if line.startswith("loading ")]
    assert loaded == [f"loading {name}" for name in (policy_dir(), writer, policy_dir())]
    rows = (tmp_path / "run" / "rows" / "00000.jsonl").read_text().splitlines()
    for row in map(json.loads, rows):
        assert row["chosen_by"] in ("policy", "fallback")
        assert set(row["written_by"]) <= {"bigger", "catalogue"}
    kinds = Counter(
        json.loads(line)["kind"]
        for line in (tmp_path / "run" / "steering.jsonl").read_text().splitlines()
    )
    assert kinds == {"choice": 6, "steering": 6}
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0
    assert "loading" not in again.stderr
    assert json.loads(again.stdout)["new_rows"] == 0
