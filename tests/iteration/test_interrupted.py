"""Interrupted at any call to the operating system, the same call ends in the same table.

Rows come from a scripted engine, and a training is stood in for by a file that depends on its rows
alone, so that hundreds of interruptions take seconds; everything else is real. The trainings
themselves are killed in `test_kill.py` and in `tests/training/command`.
"""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sso_data.config.iteration import IterateConfig
from sso_data.core.errors import RunError
from sso_data.generation import generate as generate_module
from sso_data.iteration import run as run_module
from sso_data.iteration.report import Iterated
from sso_data.iteration.training import Training
from sso_data.models.directory import model_fingerprint
from sso_data.runs.files import write_atomic
from sso_data.runs.workdir import write_json
from tests.iteration.conftest import run, tiny
from tests.reliability.chaos import CHAOS
from tests.reliability.flow import HashEngine, scripted
from tests.reliability.injector import CTRL_C, FAULTS, Faults, Os, in_place_of_os

ROWS, ROUNDS = 5, 2
EVERY = 1 if CHAOS else 17
"""Of the calls, every so-manyth is interrupted, and fails; all of them by `make chaos`."""


def stand_in(training: Training) -> None:
    """A model whose weights are a hash of the pairs, in any order."""
    pairs = training.source / "pairs" / "train.jsonl"
    digest = hashlib.sha256("".join(sorted(pairs.read_text().splitlines())).encode()).digest()
    training.out.mkdir(exist_ok=True)
    save_file({"w": np.frombuffer(digest, np.uint8)}, training.out / "model.safetensors")
    (training.out / "config.json").write_text("{}")
    (training.out / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    manifest = {
        "identity": {},
        "model": {"fingerprint": model_fingerprint(Path(training.config.model))},
        "data": {"training": pairs.read_text().count("\n"), "fingerprint": digest.hex()[:16]},
        "references": {"source": "recorded"},
        **{"steps": 1, "stopped": None, "finished": "now"},
    }
    write_json(training.out / "train.json", manifest)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IterateConfig:
    """Two rounds of five prompts with the scripted engine."""
    scripted(monkeypatch, lambda: HashEngine(refused="Question 3?"))
    prepared = generate_module.prepare

    def prepare(config: Any, *, date: str | None = None, progress: object = None) -> Any:
        setup = prepared(config, date=date)
        return replace(setup, identity={**setup.identity, "model": config.model})

    for module in (generate_module, run_module):
        monkeypatch.setattr(module, "prepare", prepare)
    first = tmp_path / "first"
    first.mkdir()
    save_file({"w": np.zeros(8, np.uint8)}, first / "model.safetensors")
    (first / "config.json").write_text("{}")
    prompts = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"Question {number}?"}) for number in range(ROWS * ROUNDS)]
    prompts.write_text("\n".join(lines) + "\n")
    return tiny(
        prompts,
        model=str(first),
        slices={"prompts": ROWS},
        held_out={"judge": {"kind": "python", "callable": _judge(tmp_path)}},
    )


def _judge(folder: Path) -> str:
    (folder / "judge.py").write_text(
        "def said(comparisons):\n"
        "    return [(len(one['a']), len(one['b'])) for one in comparisons]\n"
    )
    return f"{folder / 'judge.py'}:said"


def check(done: Iterated, expected: Iterated, out: Path) -> None:
    assert list(done.lines) == list(expected.lines)
    manifest = json.loads((out / "iterate.json").read_text())
    assert [one["round"] for one in manifest["rounds"]] == [1, 2]
    assert done.to_json()["totals"]["prompts"] == ROWS * ROUNDS
    assert done.to_json()["totals"]["failed"] == 1
    for number in (1, 2):
        assert len((out / f"round-{number}" / "prompts.jsonl").read_text().splitlines()) == ROWS


def calls(config: IterateConfig, out: Path) -> tuple[Iterated, int]:
    """An iteration that was left alone, and how many calls it makes."""
    counter = Os()
    with in_place_of_os(counter):
        done = run(config, out, by=stand_in)
    return done, counter.count


def test_interrupted_after_a_call(config: IterateConfig, tmp_path: Path) -> None:
    expected, count = calls(config, tmp_path / "whole")
    assert count > 150 and expected.new_rounds == ROUNDS
    for k in range(1, count, EVERY):
        out = tmp_path / f"interrupted-{k}"
        with pytest.raises(KeyboardInterrupt), in_place_of_os(Faults(k, CTRL_C)):
            run(config, out, by=stand_in)
        check(run(config, out, by=stand_in), expected, out)
        shutil.rmtree(out)


def test_a_call_that_fails_is_one_line(config: IterateConfig, tmp_path: Path) -> None:
    expected, count = calls(config, tmp_path / "whole")
    for k in range(4, count, EVERY):
        out = tmp_path / f"failed-{k}"
        with in_place_of_os(Faults(k, FAULTS["ENOSPC"])):
            try:
                run(config, out, by=stand_in)
            except RunError as error:
                assert "\n" not in str(error)
        check(run(config, out, by=stand_in), expected, out)
        shutil.rmtree(out)


def test_a_death_between_two_steps(config: IterateConfig, tmp_path: Path) -> None:
    """Killed when a training has just finished, before that is written down."""
    expected, _ = calls(config, tmp_path / "whole")
    trained: list[Path] = []

    def dies_after(training: Training) -> None:
        stand_in(training)
        trained.append(training.out)
        raise SystemExit

    out = tmp_path / "out"
    for _ in range(ROUNDS):
        with pytest.raises(SystemExit):
            run(config, out, by=dies_after)
    check(run(config, out, by=dies_after), expected, out)
    assert trained == [out / "round-1" / "model", out / "round-2" / "model"], "each one once"


def test_a_torn_mark_is_named(config: IterateConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(config, out, by=stand_in)
    write_atomic(out / "round-2" / "round.json", b'{"round": 2,')
    with pytest.raises(RunError, match=r"round\.json: not readable"):
        run(config, out, by=stand_in)
