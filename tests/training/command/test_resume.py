"""Killed at any moment, the same command ends in the same weights, bit for bit on one thread."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sso_data.cli import app
from sso_data.config.migration import FORMAT
from sso_data.runs.workdir import write_json
from sso_data.world import policy_dir
from tests.training.command.conftest import QUICK, Train, lines_of
from tests.training.command.test_train import same
from tests.waiting import CHILD_SECONDS, until

STEPS = 6
LONGER = (f"--set=optim.max_steps={STEPS}", "--set=checkpoints.every=2")


def command(run: Path, out: Path) -> list[str]:
    arguments = ["train", str(run), "--out", str(out), "--model", str(policy_dir())]
    return [sys.executable, "-m", "sso_data", *arguments, *QUICK, *LONGER]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    until(lambda: file.exists() or process.poll() is not None, every=0.002)


def logged(out: Path) -> list[dict[str, Any]]:
    """The metrics that do not depend on the clock."""
    return [{key: line[key] for key in ("step", "loss", "margin_base")} for line in lines_of(out)]


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training."""
    out = tmp_path_factory.mktemp("whole") / "out"
    options = ("--model", str(policy_dir()), *QUICK, *LONGER)
    done = CliRunner().invoke(app, ["train", str(run), "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    return out


@pytest.mark.parametrize(
    "mark",
    [
        "checkpoint-2/complete.json",
        pytest.param("checkpoint-4/optimizer.pt", marks=pytest.mark.long),
    ],
)
def test_killed_it_ends_like_an_uninterrupted_training(
    train: Train, run: Path, whole: Path, tmp_path: Path, mark: str
) -> None:
    """Killed after a whole checkpoint, and in the middle of writing one, which then does not
    count; nor does one that lies there half written."""
    out = tmp_path / "out"
    process = start(command(run, out))
    wait_for(out / "checkpoints" / mark, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    assert "finished" not in json.loads((out / "train.json").read_text())
    torn = out / "checkpoints" / "checkpoint-5"
    shutil.copytree(out / "checkpoints" / "checkpoint-2", torn)
    (torn / "complete.json").unlink()
    (torn / "model.safetensors").write_bytes(b"")
    done = train(run, out, *LONGER)
    assert done.exit_code == 0, done.output
    assert "continuing after step" in done.stderr
    same(whole, out)
    assert logged(out) == logged(whole)
    assert not (out / "checkpoints").exists()


def test_a_finished_training_is_not_done_again(train: Train, run: Path, whole: Path) -> None:
    before = (whole / "model.safetensors").stat().st_mtime_ns
    done = train(run, whole, *LONGER, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["new_steps"] == 0
    assert "loading" not in done.stderr
    assert (whole / "model.safetensors").stat().st_mtime_ns == before


def test_ctrl_c_says_how_to_continue(run: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(command(run, out))
    wait_for(out / "checkpoints" / "checkpoint-2" / "complete.json", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=CHILD_SECONDS)
    assert process.returncode == 143, errors
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors


def test_another_training_is_refused_by_name(
    train: Train, run: Path, whole: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    done = train(run, out, *LONGER, "--loss-type", "dpo")
    assert done.exit_code == 1
    assert 'loss.type is "ipo" there and "dpo" here' in done.stderr
    assert "--overwrite" in done.stderr
    done = train(run, out, *LONGER, "--set=data.limit=20")
    assert "data is" in done.stderr
    assert train(run, out, *LONGER, "--loss-type", "dpo", "--overwrite").exit_code == 0
    assert json.loads((out / "train.json").read_text())["config"]["loss"]["type"] == "dpo"


def test_memory_settings_may_change(train: Train, run: Path, whole: Path) -> None:
    done = train(run, whole, *LONGER, "--set=optim.micro_batch_rows=2", "--set=log.every=2")
    assert done.exit_code == 0, done.output


def test_a_continued_training_keeps_the_defaults_that_it_was_begun_with(
    train: Train, run: Path, whole: Path, tmp_path: Path
) -> None:
    """As if the default of weight_decay had changed since; a key that is given counts as ever."""
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    manifest = json.loads((out / "train.json").read_text())
    assert manifest["schema_version"] == FORMAT
    assert manifest["defaults"]["optim"]["weight_decay"] == 0.1
    assert "lr" not in manifest["defaults"]["optim"]
    manifest["defaults"]["optim"]["weight_decay"] = 0.05
    manifest["identity"]["optim.weight_decay"] = 0.05
    write_json(out / "train.json", manifest)
    done = train(run, out, *LONGER, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["new_steps"] == 0
    done = train(run, out, *LONGER, "--set=optim.weight_decay=0.1")
    assert "optim.weight_decay is 0.05 there and 0.1 here" in done.stderr


def test_a_training_of_a_later_format_is_refused(
    train: Train, run: Path, whole: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    manifest = json.loads((out / "train.json").read_text())
    later = manifest | {"schema_version": FORMAT + 1, "sso_data": "9.9.9"}
    write_json(out / "train.json", later)
    done = train(run, out, *LONGER)
    assert done.exit_code == 1
    assert "of sso-data 9.9.9" in done.stderr
    assert "upgrade sso-data" in done.stderr
