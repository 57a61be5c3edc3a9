"""The run of `flow.py` in forked children that die for real: by SIGKILL, or under `strace`.

    python -m tests.reliability.children killed FOLDER K...
    python -m tests.reliability.children traced FOLDER SYSCALL:WHAT:when=K...

Forked from a process of its own, since that of pytest has more threads. After each death or
failure the same command goes on in this process, and the run must be whole. Prints JSON.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sso_data.core.errors import SsoDataError
from tests.reliability.flow import Flow, check_whole, content, scripted, write_prompts
from tests.reliability.injector import Os, in_place_of_os, line_of
from tests.waiting import CHILD_SECONDS

DONE, REFUSED, UNEXPECTED = 0, 1, 99


class Killer(Os):
    """SIGKILLs its own process after the k-th call."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self._k = k

    def around(self, name: str, real: Callable[..., Any], *args: Any) -> Any:
        try:
            return real(*args)
        finally:
            if self.count == self._k:
                os.kill(os.getpid(), signal.SIGKILL)


def forked(body: Callable[[], None]) -> int:
    """A child that runs `body`.

    A thread of a flow that is just ending holds a lock of CPython, for which a child that is forked
    at that moment waits for ever: it is killed before it has begun, and another one is forked.
    """
    while True:
        begun, said = os.pipe()
        child = os.fork()
        if not child:
            os.write(said, b"x")
            os.close(begun)
            os.close(said)
            _leave(body)
        os.close(said)
        has_begun = select.select([begun], [], [], 10)[0]
        os.close(begun)
        if has_begun:
            return child
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _leave(body: Callable[[], None]) -> None:
    """Run `body` in a forked child, and end it at once with a code that says how it went."""
    code = UNEXPECTED
    try:
        body()
        code = DONE
    except SsoDataError as error:
        line_of(error)
        code = REFUSED
    finally:
        os._exit(code)


def killed(flow: Flow, folder: Path, numbers: Sequence[str]) -> dict[str, Any]:
    """A real SIGKILL after each of these calls."""
    counter = Os()
    with in_place_of_os(counter):
        flow(folder / "whole")
    expected = content(folder / "whole")
    deaths = 0
    for k in map(int, numbers or map(str, range(1, counter.count + 1))):
        run = folder / f"killed-{k}"

        def body(run: Path = run, k: int = k) -> None:
            with in_place_of_os(Killer(k)):
                flow(run)

        status = os.waitpid(forked(body), 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        deaths += 1
        flow(run)
        check_whole(run, expected)
        shutil.rmtree(run)
    return {"calls": counter.count, "deaths": deaths}


def traced(flow: Flow, folder: Path, injections: Sequence[str]) -> dict[str, Any]:
    """The kernel's own calls fail, or kill: `strace` attaches to a child and injects."""
    flow(folder / "whole")
    expected = content(folder / "whole")
    ends: Counter[str] = Counter()
    for number, injection in enumerate(injections):
        run = folder / f"traced-{number}"
        status, hits = _under_strace(partial(flow, run), injection, folder / "strace.txt")
        assert hits == 1, (injection, hits)
        how = _how(status)
        assert how in ("killed", "refused", "done"), (injection, how)
        assert (how == "killed") == ("SIGKILL" in injection), (injection, how)
        ends[how] += 1
        flow(run)
        check_whole(run, expected)
        shutil.rmtree(run)
    return {"injections": len(injections), **ends}


def _under_strace(body: Callable[[], Any], injection: str, log: Path) -> tuple[int, int]:
    """The wait status of a traced child, and how often the injection happened."""
    ours, theirs = os.pipe()

    def once_attached() -> None:
        os.close(theirs)
        os.read(ours, 1)
        body()

    child = forked(once_attached)
    os.close(ours)
    tracer = subprocess.Popen(
        ["strace", "-o", str(log), "-p", str(child), "-e", f"inject={injection}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise SystemExit(f"strace cannot attach: {said.strip()}")
    os.write(theirs, b"x")
    os.close(theirs)
    status = os.waitpid(child, 0)[1]
    tracer.communicate(timeout=CHILD_SECONDS)
    text = log.read_text()
    return status, text.count("(INJECTED)") + ("SIGKILL" in injection and "+++ killed" in text)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) == signal.SIGKILL else str(status)
    return {DONE: "done", REFUSED: "refused"}.get(os.WEXITSTATUS(status), str(status))


def main() -> None:
    mode, folder, *words = sys.argv[1:]
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch)
        flow = Flow(prompts=write_prompts(Path(folder) / "prompts.jsonl"))
        flow(Path(folder) / "warm")  # whatever is imported late is imported now
        shutil.rmtree(Path(folder) / "warm")
        work = {"killed": killed, "traced": traced}[mode]
        print(json.dumps(work(flow, Path(folder), words)))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # native threads of libraries, forked before, may abort an orderly end
