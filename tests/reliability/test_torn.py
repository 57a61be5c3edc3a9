"""Files of a run that are cut, empty, half-written or spoiled on purpose, and what becomes of them.

What a crash can leave is put in order without a word. What only a person, a disk or another program
can have done is named in one line, and nothing is destroyed.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sso_data.core.errors import RunError
from tests.reliability.flow import Flow, check_whole, content, scripted, write_prompts
from tests.reliability.injector import line_of, tree_of, whole_lines

Spoil = Callable[[Path], None]


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    scripted(monkeypatch)
    return Flow(prompts=write_prompts(tmp_path / "prompts.jsonl"))


def cut(name: str, left: int) -> Spoil:
    """Leave that many bytes of a file (negative: take that many away)."""

    def spoil(run: Path) -> None:
        file = run / name
        file.write_bytes(file.read_bytes()[:left])

    return spoil


def append(name: str, data: bytes) -> Spoil:
    def spoil(run: Path) -> None:
        with (run / name).open("ab") as stream:
            stream.write(data)

    return spoil


def write(name: str, data: bytes) -> Spoil:
    def spoil(run: Path) -> None:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(data)

    return spoil


def remove(name: str) -> Spoil:
    def spoil(run: Path) -> None:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()

    return spoil


def zeros_in(name: str, start: int, count: int) -> Spoil:
    """A hole, as a power failure leaves where a block never arrived."""

    def spoil(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[start : start + count] = bytes(count)
        (run / name).write_bytes(data)

    return spoil


def moved(name: str, to: str) -> Spoil:
    def spoil(run: Path) -> None:
        (run / name).rename(run / to)

    return spoil


LAST = "rows/00001.jsonl"
MENDED: dict[str, Spoil] = {
    "torn last line": cut(LAST, -700),
    "last line without its newline": cut(LAST, -1),
    "only a newline left of the last line": append(LAST, b'{"schema_version'),
    "last part cut to nothing": cut(LAST, 0),
    "empty last part": write("rows/00002.jsonl", b""),
    "empty last part and torn side file": write("rows/00002.scores", b"SSO"),
    "one byte in the last part": write("rows/00002.jsonl", b"{"),
    "hole in the last part": zeros_in(LAST, 5000, 6000),
    "hole over a line's end": zeros_in(LAST, 3000, 1024),
    "zeros after the end": append(LAST, bytes(9000)),
    "torn side file": cut("rows/00001.scores", -50),
    "side file cut in its header": cut("rows/00000.scores", 10),
    "side file of zeros": write("rows/00000.scores", bytes(2000)),
    "no side files": remove("rows/00000.scores"),
    "torn failure": cut("failed.jsonl", -30),
    "no failures file": remove("failed.jsonl"),
    "half-written run.json beside the whole one": write(
        ".run.json.tmp", b'{"schema_version": 1, "'
    ),
    "half-written new pairs": write(".pairs.new/train.jsonl", b'{"schema'),
    "pairs torn": cut("pairs/train.jsonl", 100),
    "half a Parquet file": cut("pairs/train.parquet", 9000),
    "half of filter.json": cut("pairs/filter.json", 200),
    "no pairs": remove("pairs"),
    "pairs moved aside": moved("pairs", ".pairs.old"),
    "old pairs not yet deleted": write(".pairs.old/train.jsonl", b"{}\n"),
    "no lock file": remove(".rows.lock"),
}
"""What a crash or a power failure may leave (and what can be made again in any case)."""


@pytest.mark.parametrize("name", MENDED)
def test_mended_without_a_word(name: str, flow: Flow, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flow(run)
    expected = content(run)
    MENDED[name](run)
    flow(run)
    check_whole(run, expected)


def _spoil_line(file: str, number: int, line: bytes) -> Spoil:
    def spoil(run: Path) -> None:
        lines = whole_lines((run / file).read_bytes())
        lines[number] = line
        (run / file).write_bytes(b"".join(lines))

    return spoil


def _without_side(spoil: Spoil) -> Spoil:
    """The journal is read only where the side file does not vouch for it."""

    def both(run: Path) -> None:
        spoil(run)
        for side in (run / "rows").glob("*.scores"):
            side.unlink()

    return both


NAMED: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "run.json cut": (cut("run.json", 300), ("run.json", "not readable", "from a copy")),
    "run.json empty": (cut("run.json", 0), ("run.json", "from a copy")),
    "run.json of zeros": (write("run.json", bytes(2000)), ("run.json", "from a copy")),
    "run.json not UTF-8": (write("run.json", b"\xff\xfe{"), ("run.json", "from a copy")),
    "run.json a list": (write("run.json", b"[]"), ("run.json", "from a copy")),
    "run.json very deep": (write("run.json", b"[" * 100_000), ("run.json", "from a copy")),
    "run.json gone": (remove("run.json"), ("but no run.json", "--out")),
    "journal line no JSON": (
        _without_side(_spoil_line("rows/00000.jsonl", 3, b"{oops}\n")),
        ("00000.jsonl:4", "delete the line"),
    ),
    "journal line of another program": (
        _without_side(_spoil_line(LAST, 0, b'{"hello": 1}\n')),
        ("00001.jsonl:1", "delete the line"),
    ),
    "journal line blank": (
        _without_side(_spoil_line("rows/00000.jsonl", 2, b"\n")),
        ("00000.jsonl:3", "delete the line"),
    ),
    "failure no JSON": (_spoil_line("failed.jsonl", 1, b"oops\n"), ("failed.jsonl:2", "remove")),
    "failure of another program": (
        _spoil_line("failed.jsonl", 0, b"[1, 2]\n"),
        ("failed.jsonl:1", "remove"),
    ),
}
"""What we never leave: how it is done, and words of the line that the user reads."""


@pytest.mark.parametrize("name", NAMED)
def test_named_and_nothing_destroyed(name: str, flow: Flow, tmp_path: Path) -> None:
    spoil, words = NAMED[name]
    run = tmp_path / "run"
    flow(run)
    expected, whole = content(run), tree_of(run)
    spoil(run)
    spoiled = tree_of(run)
    with pytest.raises(RunError) as refused:
        flow(run)
    line = line_of(refused.value)
    assert all(word in line for word in words), line
    after = tree_of(run)
    assert {k: v for k, v in after.items() if not k.endswith(".scores")} == {
        k: v for k, v in spoiled.items() if not k.endswith(".scores")
    }
    for file, data in whole.items():  # the user follows the advice: from a copy
        if data is not None:
            (run / file).write_bytes(data)
    flow(run)
    check_whole(run, expected)


def test_a_deleted_line_is_made_again(flow: Flow, tmp_path: Path) -> None:
    """The other advice: delete the spoiled line, and its prompt is redone."""
    run = tmp_path / "run"
    flow(run)
    expected = content(run)
    part = run / "rows" / "00000.jsonl"
    lines = whole_lines(part.read_bytes())
    part.write_bytes(b"".join(lines[:3] + lines[4:]))
    flow(run)
    check_whole(run, expected)


def test_overwrite_makes_a_spoiled_run_anew(flow: Flow, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flow(run)
    expected = content(run)
    (run / "run.json").write_text("{")
    flow(run, overwrite=True)
    check_whole(run, expected)
    assert json.loads((run / "run.json").read_text())["identity"]
