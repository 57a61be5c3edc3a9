"""Commands on run directories: the state each one starts from, the content it must end in."""

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sso_data.config.run import RunConfig
from sso_data.generation.merge import merge
from sso_data.generation.retry import retry
from tests.reliability.flow import (
    ROWS,
    Flow,
    HashEngine,
    Silent,
    check_whole,
    content,
    scripted,
)
from tests.reliability.injector import Tree, plant, tree_of, whole_lines


class Scenario:
    """`command` is what a user runs again and again, on `run` below a directory of its own.

    `fewest`: calls to the operating system that it surely makes; far fewer would test nothing.
    `step`: CI takes every so-manieth point of it.
    """

    fewest: ClassVar[int]
    step: ClassVar[int]

    def __init__(self, flow: Flow, disk: Path, patch: pytest.MonkeyPatch) -> None:
        self.flow = flow
        self._disk, self._patch = disk, patch
        self._number = 0
        flow(disk / "whole")
        self.expected = content(disk / "whole")
        (disk / "before").mkdir()
        self.before(disk / "before")
        self._start = tree_of(disk / "before")

    def before(self, root: Path) -> None:
        """Put a directory into the state in which the command finds it."""

    def command(self, root: Path) -> None:
        """The command under test."""
        self.flow(root / "run")

    def check(self, root: Path) -> None:
        """The command has ended well: its run is whole."""
        check_whole(root / "run", self.expected)

    def check_half(self, tree: Tree) -> None:
        """What holds at any instant."""

    def begin(self, tree: Tree | None = None) -> Path:
        """A new directory with a state in it: the given one, or that from which it starts."""
        self._number += 1
        return plant(self._start if tree is None else tree, self._disk / f"root-{self._number}")

    def finish(self, root: Path) -> None:
        """The command again, unharmed; then the run is whole. The directory is deleted."""
        self.command(root)
        self.check(root)
        shutil.rmtree(root)

    def _other(self, **sections: Any) -> Flow:
        """The same command with another configuration."""
        config = RunConfig.model_validate({**self.flow.config.model_dump(), **sections})
        return Flow(prompts=self.flow.prompts, config=config)


class Fresh(Scenario):
    """A run from nothing."""

    fewest, step = 180, 1


class Torn(Scenario):
    """An interrupted run as bad as it gets: torn lines, holes, leftovers, a swap half done."""

    fewest, step = 100, 4

    def before(self, root: Path) -> None:
        run = root / "run"
        self.flow(run)
        second = run / "rows" / "00001.jsonl"
        lines = whole_lines(second.read_bytes())
        hole = lines[1][:100] + bytes(600) + lines[1][700:]
        second.write_bytes(lines[0] + hole + lines[2] + lines[3][:50])
        side = run / "rows" / "00001.scores"
        side.write_bytes(side.read_bytes()[:-70])
        failed = run / "failed.jsonl"
        failed.write_bytes(b"".join(whole_lines(failed.read_bytes())[:2]) + b'{"schema_ver')
        (run / ".run.json.tmp").write_bytes(b'{"schema_version": 1, "iden')
        (run / "pairs").rename(run / ".pairs.old")
        (run / ".pairs.new").mkdir()
        (run / ".pairs.new" / "train.jsonl").write_bytes(b'{"schema_')


class Overwrite(Scenario):
    """--overwrite of another run, whose pairs were being swapped when it died."""

    fewest, step = 180, 12

    def before(self, root: Path) -> None:
        self._other(seed=7)(root / "run")
        (root / "run" / "pairs").rename(root / "run" / ".pairs.old")

    def command(self, root: Path) -> None:
        self.flow(root / "run", overwrite=True)

    def check_half(self, tree: Tree) -> None:
        """Where run.json is the new run's, no row and no pair of the old one is left."""
        manifest, pairs = tree.get("run/run.json"), tree.get("run/pairs/train.jsonl")
        if manifest and json.loads(manifest)["identity"]["seed"] == self.flow.config.seed:
            rows = [line for name, data in tree.items() if is_part(name) for line in lines(data)]
            assert set(rows) <= set(self.expected["rows"])
            assert pairs is None or sorted(lines(pairs)) == self.expected["pairs"]


class FilterAgain(Scenario):
    """The same rows under other thresholds: only the pairs are replaced."""

    fewest, step = 30, 4

    def before(self, root: Path) -> None:
        self._other(filter={"gap": 0.0, "closeness": 9.0})(root / "run")


class Retry(Scenario):
    """`retry` with an engine that now answers what it refused before."""

    fewest, step = 60, 4

    def before(self, root: Path) -> None:
        self.flow(root / "run")
        scripted(self._patch, lambda: HashEngine(refused=None))
        retried = root.with_name("retried")
        retry(shutil.copytree(root / "run", retried), self.flow.config, Silent())
        self.expected = content(retried)

    def command(self, root: Path) -> None:
        retry(root / "run", self.flow.config, Silent())

    def check(self, root: Path) -> None:
        """As after one retry; a prompt that failed again may count more attempts."""
        found = content(root / "run")
        for key in ("rows", "pairs", "table", "filter", "names"):
            assert found[key] == self.expected[key], key
        assert len(set(found["rows"])) == len(found["rows"]) == ROWS + 1
        assert ids_of(found["failures"]) == ids_of(self.expected["failures"])


class Merge(Scenario):
    """`merge` of the runs of two shards: the same as one run without shards."""

    fewest, step = 100, 6

    def before(self, root: Path) -> None:
        for number in (1, 2):
            source = self.flow.config.source.model_dump() | {"shard": f"{number}/2"}
            self._other(source=source)(root / f"shard-{number}")

    def command(self, root: Path) -> None:
        merge([root / "shard-1", root / "shard-2"], root / "run")


SCENARIOS: dict[str, type[Scenario]] = {
    "fresh": Fresh,
    "torn": Torn,
    "overwrite": Overwrite,
    "filter again": FilterAgain,
    "retry": Retry,
    "merge": Merge,
}


def is_part(name: str) -> bool:
    """Whether a path is that of a part of the journal."""
    return name.startswith("run/rows/") and name.endswith(".jsonl")


def lines(data: bytes | None) -> list[bytes]:
    """The whole lines of a file's content."""
    return whole_lines(data or b"")


def ids_of(failures: list[bytes]) -> set[str]:
    """The prompts that failure lines are about."""
    return {json.loads(line)["id"] for line in failures}
