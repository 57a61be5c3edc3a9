"""Disks that are full, read-only or somebody else's: one line, nothing corrupted, it goes on later.

The failures are the kernel's own: a tmpfs of a few KiB, the process's file-size limit, modes and
owners. `test_exhaustive.py` makes each call fail; here the same is seen from the outside.
"""

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.run import RunConfig
from sso_data.core.errors import RunError
from sso_data.filtering.refilter import refilter
from tests.factories import strict
from tests.reliability.chaos import CHAOS, some
from tests.reliability.disks import (
    FILLER,
    FullFrom,
    as_nobody,
    file_size_limit,
    small_disk,
)
from tests.reliability.flow import Flow, check_whole, content, scripted, write_prompts
from tests.reliability.injector import in_place_of_os, line_of, tree_of
from tests.training.command.conftest import run as run  # a fixture: rows to train on
from tests.training.command.test_resume import command as train_command
from tests.training.command.test_train import same as same_weights


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory that other users may look into; those of pytest are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    scripted(monkeypatch)
    return Flow(prompts=write_prompts(tmp_path / "prompts.jsonl"))


@pytest.fixture
def whole(flow: Flow, tmp_path: Path) -> dict[str, Any]:
    flow(tmp_path / "whole")
    return content(tmp_path / "whole")


def refusal(flow: Flow, run: Path) -> str:
    """The line of the error that the command ends with; "" where it succeeds."""
    try:
        flow(run)
    except RunError as error:
        assert str(run) in line_of(error)
        return str(error)
    return ""


def named(line: str) -> str:
    """The file that an error names, journal parts as one."""
    name = Path(line.partition(": ")[0]).name
    return f"part{Path(name).suffix}" if name.startswith("0000") else name


SIZES = range(8, 340, 4)
"""KiB: from a disk that takes next to nothing to one on which everything fits."""


def test_a_disk_of_any_size_fills_up_somewhere(
    flow: Flow, whole: dict[str, Any], tmp_path: Path
) -> None:
    full: Counter[str] = Counter()
    for size in some(SIZES, 5):
        with small_disk(tmp_path / "disk", f"size={size}k") as disk:
            run = disk.path / "run"
            line = refusal(flow, run)
            full[named(line)] += 1
            assert not line or "the disk is full" in line
            disk.remount("size=4m")
            flow(run)
            check_whole(run, whole)
    print(f"{full.total()} disk sizes; full at {dict(full)}")
    assert {"part.jsonl", "train.jsonl", "train.parquet", ""} <= set(full)


def test_no_inodes_left(flow: Flow, whole: dict[str, Any], tmp_path: Path) -> None:
    """Names cannot be made although there is space: also "full" for the kernel."""
    full: Counter[str] = Counter()
    for inodes in range(2, 18):
        with small_disk(tmp_path / "disk", f"size=4m,nr_inodes={inodes}") as disk:
            line = refusal(flow, disk.path / "run")
            full[named(line)] += 1
            assert not line or "no inodes left" in line
            disk.remount("nr_inodes=100")
            flow(disk.path / "run")
            check_whole(disk.path / "run", whole)
    print(f"{full.total()} inode limits; none left at {dict(full)}")
    assert len(full) >= 8 and "" in full


@pytest.mark.parametrize(
    "name",
    [
        *("00000.jsonl", "00000.scores", "00001.jsonl", "failed.jsonl", ".run.json.tmp"),
        *("train.jsonl", "train.parquet", "filter.json"),
    ],
)
def test_the_disk_fills_up_before_this_file(
    flow: Flow, whole: dict[str, Any], tmp_path: Path, name: str
) -> None:
    with small_disk(tmp_path / "disk", "size=600k") as disk:
        full = FullFrom(disk.path, name)
        with in_place_of_os(full):
            line = refusal(flow, disk.path / "run")
        assert full.filled
        assert "the disk is full" in line
        assert Path(line.partition(": ")[0]).name == name.removesuffix(".tmp").lstrip(".")
        (disk.path / FILLER).unlink()
        disk.remount("size=4m")
        flow(disk.path / "run")
        check_whole(disk.path / "run", whole)


def test_any_file_size_limit(flow: Flow, whole: dict[str, Any], tmp_path: Path) -> None:
    hit: Counter[str] = Counter()
    limits = [0, 100, 700, 1000, 1200, 2000, 3000, 20_000, 38_000, 43_000, 50_000, 57_000, 90_000]
    for number, limit in enumerate(limits):
        run = tmp_path / f"run-{number}"
        if number % 2 == 0:  # run.json, which is longer than some limits, is there already
            run.mkdir()
            (run / "run.json").write_bytes((tmp_path / "whole" / "run.json").read_bytes())
        with file_size_limit(limit):
            line = refusal(flow, run)
        hit[named(line)] += 1
        assert not line or "the file-size limit is reached" in line
        flow(run)
        check_whole(run, whole)
    print(f"{len(limits)} file-size limits; reached at {dict(hit)}")
    assert {"run.json", "part.scores", "part.jsonl", "train.jsonl", ""} <= set(hit)


def test_read_only(flow: Flow, whole: dict[str, Any], tmp_path: Path) -> None:
    """Nothing is written, and a dry filter still works."""
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        disk.remount("ro")
        assert "read-only" in refusal(flow, disk.path / "new")
        disk.remount("rw")
        flow(disk.path / "run")
        before = tree_of(disk.path)
        disk.remount("ro")
        assert "read-only" in refusal(flow, disk.path / "run")
        with pytest.raises(RunError, match="read-only"):
            refilter(disk.path / "run", RunConfig())
        strictly = RunConfig(filter=strict())
        assert len(refilter(disk.path / "run", strictly, dry_run=True).decision.kept) == 14
        assert tree_of(disk.path) == before
        disk.remount("rw")
        flow(disk.path / "run")
        check_whole(disk.path / "run", whole)


LOCKED = {
    ".": 0o555,
    "rows": 0o555,
    "rows/00001.jsonl": 0o444,
    "rows/00000.jsonl": 0o000,
    "failed.jsonl": 0o444,
    ".rows.lock": 0o444,
    "run.json": 0o000,
    "pairs": 0o555,
}
"""What may not be written or read, and its mode."""


@pytest.mark.parametrize("name", LOCKED)
def test_no_permission(flow: Flow, whole: dict[str, Any], tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    _interrupted(flow, root / "run")
    target = root / "run" / name
    mode = target.stat().st_mode
    target.chmod(LOCKED[name])
    with as_nobody(root):
        line = refusal(flow, root / "run")
    for path in (target, root / "run" / ".pairs.old"):
        if path.exists():
            path.chmod(mode)
    assert "permission" in line or "not readable" in line or not line, line
    assert line or name in PASSABLE
    with as_nobody(root):
        flow(root / "run")
    check_whole(root / "run", whole)


PASSABLE = {"rows"}
"""Nothing new is made in `rows/` where the last part goes on."""


def _interrupted(flow: Flow, run: Path) -> None:
    """A run whose last part lost its last lines, so that there is something left to do."""
    flow(run)
    last = run / "rows" / "00001.jsonl"
    last.write_bytes(last.read_bytes()[:9000])


def test_a_file_where_a_directory_belongs(flow: Flow, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "file" / "a" / "b"):
        with pytest.raises(RunError) as refused:
            flow(out)
        line_of(refused.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.skipif(not CHAOS, reason="test_bad_input.py of train limits one checkpoint")
@pytest.mark.timeout(3600)
def test_a_training_on_disks_of_any_size(run: Path, tmp_path: Path) -> None:
    """Full at the first checkpoint, at its optimizer, at the second one, at the model itself."""
    whole = tmp_path / "whole"
    assert started(train_command(run, whole))[0] == 0
    full: Counter[str] = Counter()
    for size in ("8k", "12k", "600k", "2m", "3m", "5m", "7m", "8m", "9m", "10m", "12m", "20m"):
        with small_disk(tmp_path / "disk", f"size={size}") as disk:
            out = disk.path / "out"
            code, errors = started(train_command(run, out))
            if code:
                line = errors.strip().splitlines()[-1]
                assert code == 1 and line.startswith("error: ") and "Traceback" not in errors
                full[named(line.removeprefix("error: "))] += 1
            disk.remount("size=100m")
            assert started(train_command(run, out))[0] == 0
            same_weights(whole, out)
    print(f"training on small disks: full at {dict(full)}, then ended with equal weights")
    assert full["checkpoint-2"] and len(full) >= 3


def started(arguments: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a command in a process of its own."""
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    return done.returncode, done.stderr
