"""The state of stdout and stderr decides neither the work nor its exit code, in any command."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sso_data.cli import main
from sso_data.cli.app import _COMMANDS
from sso_data.world import catalogue_dir, policy_dir, queries
from tests.cli.conftest import INLINE
from tests.once import once
from tests.tiny_runs import tiny_run
from tests.waiting import CHILD_SECONDS

STATES = ("file", "closed", "broken", "full", "slow", "terminal", "hung up")
"""Slow: a pipe that does not block and is read in sips. Hung up: a terminal that is gone."""
_STREAMS = {1: "stdout", 2: "stderr"}
ASKING = ("--engine=transformers", "--set=engine.isolation=inline", f"--model={policy_dir()}")


class Ended(NamedTuple):
    code: object
    out: str
    err: str


def sip(descriptor: int, into: list[bytes]) -> None:
    """Read a few bytes at a time until everybody has closed the other end."""
    try:
        while data := os.read(descriptor, 2048):
            into.append(data)
            time.sleep(0.001)
    except OSError:  # of a terminal that is gone
        pass
    os.close(descriptor)


@contextmanager
def standing(number: int, state: str, shown: list[bytes]) -> Iterator[None]:
    """Put descriptor `number` and its Python stream into a state; collect what is readable."""
    kept, stream = os.dup(number), getattr(sys, _STREAMS[number])
    reader, writer = pty.openpty() if state in ("terminal", "hung up") else os.pipe()
    thread = None
    os.dup2(os.open("/dev/full", os.O_WRONLY) if state == "full" else writer, number)
    os.close(writer)
    if state in ("broken", "hung up", "full", "closed"):
        os.close(reader)
    else:
        os.set_blocking(number, state != "slow")
        thread = threading.Thread(target=sip, args=(reader, shown))
        thread.start()
    if state == "closed":
        os.close(number)
    python = None if state == "closed" else os.fdopen(number, "w", closefd=False)
    setattr(sys, _STREAMS[number], python)
    try:
        yield
    finally:
        setattr(sys, _STREAMS[number], stream)
        os.dup2(kept, number)
        os.close(kept)
        if thread:
            thread.join()


def ran(words: list[str], out: str = "file", err: str = "file") -> Ended:
    """Run a command in this process as `sso-data` would, with the two streams in these states."""
    shown: dict[int, list[bytes]] = {1: [], 2: []}
    code: object = None
    arguments = sys.argv
    with ExitStack() as stack:
        stack.enter_context(standing(2, err, shown[2]))
        stack.enter_context(standing(1, out, shown[1]))
        sys.argv = ["sso-data", *words]
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv = arguments
    texts = [b"".join(shown[number]).decode() for number in _STREAMS]
    return Ended(code, *texts)


def words_of(command: str, made: Path, place: Path) -> list[str]:
    """A cheap call of a command: `made` holds a run, `place` is empty."""
    run, prompts, out = made / "run", made / "prompts.jsonl", f"--out={place / 'out'}"
    tiny = [*INLINE, "--set=sampling.max_tokens=16"]
    quick = [f"--model={policy_dir()}", "--set=optim.max_steps=1", "--set=optim.micro_batch_rows=2"]
    inline = ["--engine=transformers", "--set=generate.engine.isolation=inline"]
    short = [f"--principles={catalogue_dir()}", "--set=generate.sampling.max_tokens=16"]
    judged = [out, "--judge=oracle", *inline, *short]
    calls: dict[str, list[Any]] = {
        "--help": [],
        "--version": [],
        "no such command": [],
        "generate": [prompts, out, "--json", *tiny],
        "generate failing": ["generate", made / "none.jsonl", out, *tiny],
        "generate some failed": ["generate", made / "mixed.jsonl", out, "--skip-bad-rows", *tiny],
        "show": [run],
        "filter": [run, "--json"],
        "filter --sweep": [run],
        "retry": [run],
        "merge": [run, out],
        "augment": [prompts, f"{out}.jsonl", "--n=1", "--set=limits.attempts_per_query=1", *ASKING],
        "export": [run, "--to=trl", out, "--json"],
        "push": [run, "no-namespace"],
        "train": [run, out, "--json", *quick],
        "iterate": [out],
        "eval": [policy_dir(), f"--against={policy_dir()}", f"--prompts={prompts}", *judged],
        "preview": [prompts, "-n2", "--json", *tiny],
        "complete": [run],
        "report": [run, out],
        "view": [made / "none"],
        "verify": [run, "--json"],
        "plan": [prompts, "--set=sampling.samples=8", *tiny],
        "demo": ["-n8"],
        "config init": ["train", f"{out}.yaml"],
        "recipes list": [],
        "doctor": [f"--model={made}", "--json"],
        "config keys": ["train"],
        "recipes show": ["llama3.1-8b-instruct-sso-dpo"],
        "principles list": ["--json"],
        "principles show": ["helpfulness"],
        "principles check": ["short"],
        "principles new": ["a helper", out, "-n1", *ASKING],
        "principles write": [prompts, "-n1", *ASKING],
        "principles stats": [run, "--json"],
    }
    given = [str(word) for word in calls[command]]
    return given if " " in command and given[:1] == ["generate"] else [*command.split(), *given]


COMMANDS = (
    *("--help", "--version", "no such command", "generate failing", "filter", "filter --sweep"),
    *("retry", "complete", "merge", "export", "push", "iterate", "doctor", "principles list"),
    *("show", "report", "view", "verify", "config keys", "config init"),
    "recipes show",
    *("principles show", "principles check", "principles stats"),
)
SLOWER = (
    *("generate", "generate some failed", "preview", "augment", "eval", "train"),
    *("principles new", "principles write", "recipes list"),
)
MEASURING = ("plan", "demo")
"""Commands that tell times and speeds: what they print is another text each time."""
SOME = (
    ("file", "closed"),
    ("file", "broken"),
    ("file", "full"),
    ("slow", "slow"),
    ("closed", "file"),
    ("broken", "broken"),
    ("full", "full"),
    ("terminal", "hung up"),
)
"""Pairs of states in which every state stands on either side."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(at: Path) -> None:
        tiny_run(at, 6, seed=3, keep=True, max_tokens=200)
        rows = [{"prompt": queries(1, seed=4)[0]}, {"prompt": 7}]
        (at / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return once(tmp_path_factory, "streams", make)


Result = tuple[object, str, list[str]]


@pytest.fixture(scope="module")
def right(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """The result of a command whose streams are files: code, stdout, files it left."""
    known: dict[str, Result] = {}

    def result(command: str) -> Result:
        if command not in known:
            place = tmp_path_factory.mktemp("right")
            ended = ran(words_of(command, made, place))
            known[command] = ended.code, without_times(ended.out, place), files_in(place)
        return known[command]

    return result


def without_times(text: str, place: Path) -> str:
    text = re.sub(
        r'"seconds": [\d.]+|\(\d+:\d\d:\d\d[^)]*\)', "TIME", text.replace(str(place), "PLACE")
    )
    return re.sub(r'"created": "[^"]+"|\d+\.\d GiB free', "TIME", text)


def files_in(place: Path) -> list[str]:
    return sorted(str(file.relative_to(place)) for file in place.rglob("*"))


def check(command: str, out: str, err: str, made: Path, place: Path, right: Result) -> None:
    ended = ran(words_of(command, made, place), out, err)
    code, text, files = right
    assert ended.code == ((code or 1) if out in ("full", "hung up") else code), ended
    assert files_in(place) == files
    if out in ("file", "slow") and command not in MEASURING:
        assert without_times(ended.out, place) == text
    if out == "full" and err in ("file", "slow") and text:
        assert ended.err.endswith("files written so far are kept\n")
    assert "Traceback" not in ended.err + ended.out


@pytest.mark.parametrize(
    "command", [*COMMANDS, *(pytest.param(one, marks=pytest.mark.long) for one in MEASURING)]
)
def test_a_command_in_some_states(
    command: str, made: Path, tmp_path: Path, right: Callable[[str], Result]
) -> None:
    for number, (out, err) in enumerate(SOME):
        place = tmp_path / str(number)
        place.mkdir()
        check(command, out, err, made, place, right(command))


@pytest.mark.parametrize("command", SLOWER)
def test_a_slower_command_without_a_reader(
    command: str, made: Path, tmp_path: Path, right: Callable[[str], Result]
) -> None:
    check(command, "file", "broken", made, tmp_path, right(command))


@pytest.mark.long
@pytest.mark.parametrize("command", [*COMMANDS, *SLOWER])
@pytest.mark.parametrize("err", STATES)
@pytest.mark.parametrize("out", STATES)
def test_every_command_in_every_state(
    command: str, out: str, err: str, made: Path, tmp_path: Path, right: Callable[[str], Result]
) -> None:
    check(command, out, err, made, tmp_path, right(command))


def test_every_command_is_in_the_table() -> None:
    assert {name for name, *_ in _COMMANDS} <= {*COMMANDS, *SLOWER, *MEASURING}


def test_what_the_commands_end_with(made: Path, right: Callable[[str], Result]) -> None:
    """So that equal codes are not equal failures."""
    codes = {command: right(command)[0] for command in (*COMMANDS, *SLOWER)}
    failing = dict.fromkeys(("generate failing", "push", "iterate", "doctor", "view"), 1)
    failing |= {"principles new": 1}
    some = {"generate some failed": 3, "augment": 3, "no such command": 2}
    assert codes == dict.fromkeys(codes, 0) | failing | some
    assert json.loads(right("generate")[1].replace("TIME", '"x": 0'))["rows"] == 6


def test_a_real_run_outlives_the_reader_of_its_log(made: Path, tmp_path: Path) -> None:
    """The engine is a process of its own, and stderr's reader leaves after the first line."""
    words = ["generate", str(made / "prompts.jsonl"), f"--out={tmp_path / 'out'}", *INLINE]
    words.remove("--set=engine.isolation=inline")
    process = subprocess.Popen(
        [sys.executable, "-m", "sso_data", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None and process.stdout is not None
    process.stderr.readline()
    process.stderr.close()
    assert b"prompts 6 = rows 6 + failed 0" in process.stdout.read()
    assert process.wait(CHILD_SECONDS) == 0


def test_a_training_of_its_own_outlives_the_reader_of_its_log(made: Path, tmp_path: Path) -> None:
    """As `iterate` starts it: on the stderr of a process that has none any more."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from sso_data.config.training import TrainConfig\n"
        "from sso_data.iteration.training import Training, train_in_a_process\n"
        f"config = TrainConfig.model_validate({{'model': {str(policy_dir())!r}, "
        "'optim': {'max_steps': 1, 'micro_batch_rows': 2}})\n"
        f"train_in_a_process(Training(source=Path({str(made / 'run')!r}), "
        f"out=Path({str(tmp_path / 'out')!r}), config=config))\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert "finished" in json.loads((tmp_path / "out" / "train.json").read_text())
