"""Processes: what runs beside a training, who hears a signal, and who survives whom."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from sso_data.config.training import TrainConfig
from sso_data.iteration.training import RoundTrainingError, Training, train_in_a_process
from sso_data.world import policy_dir
from tests.waiting import until

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and prctl are Linux's")

SLEEPER = "import time, sys; print('up', flush=True); time.sleep(600)"
POLITE = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
    "print('up', flush=True); time.sleep(600)"
)
PARENT = """
import os, subprocess, sys, time
subprocess.Popen(
    [sys.executable, "-m", "sso_data.core.process_guard", str(os.getpid()), sys.argv[1],
     sys.executable, "-c", sys.argv[2]], process_group=0)
time.sleep(600)
"""


def guarded(code: str, *, parent: int | None = None) -> "subprocess.Popen[str]":
    """Python code under the process guard, whose parent is this process."""
    words = ["-m", "sso_data.core.process_guard", str(parent or os.getpid()), "0"]
    return subprocess.Popen(
        [sys.executable, *words, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )


def children_of(pid: int) -> dict[int, str]:
    """Every living descendant of a process, and its command line."""
    parents, words = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if stat[0] != "Z":
            parents[int(folder.name)], words[int(folder.name)] = int(stat[1]), line
    found: dict[int, str] = {}
    wave = {pid}
    while wave:
        wave = {child for child, parent in parents.items() if parent in wave}
        found |= {child: words[child] for child in wave}
    return found


class TestProcessGuard:
    def test_passes_the_exit_code_on(self) -> None:
        assert guarded("import sys; sys.exit(7)").wait(120) == 7
        killed = guarded("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert killed.wait(120) == 128 + signal.SIGKILL

    def test_passes_signals_on(self) -> None:
        with guarded(POLITE) as process:
            assert process.stdout is not None and process.stdout.readline() == "up\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 5

    def test_a_parent_that_is_gone_already(self) -> None:
        assert guarded(SLEEPER, parent=1).wait(120) == 128 + signal.SIGKILL

    @linux
    @pytest.mark.parametrize("grace", ["0", "20"])
    def test_ends_with_its_parent(self, grace: str) -> None:
        code = SLEEPER if grace == "0" else POLITE
        with subprocess.Popen(
            [sys.executable, "-c", PARENT, grace, code], stdout=subprocess.PIPE, text=True
        ) as parent:
            assert parent.stdout is not None and parent.stdout.readline() == "up\n"
            alive = children_of(parent.pid)
            assert len(alive) == 2
            parent.kill()
            parent.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in alive))

    @linux
    def test_nobody_outlives_a_killed_guard(self) -> None:
        with guarded(SLEEPER) as process:
            assert process.stdout is not None and process.stdout.readline() == "up\n"
            [child] = children_of(process.pid)
            process.kill()
            until(lambda: not Path(f"/proc/{child}").exists())


def training(folder: Path, **fields: Any) -> Training:
    return Training(
        source=folder / "no-such-run",
        out=folder / "model",
        config=TrainConfig(model=str(policy_dir())),
        **fields,
    )


class TestTraining:
    def test_one_that_fails_is_one_line(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Its own line stands above."""
        with pytest.raises(RoundTrainingError, match="exit code 1"):
            train_in_a_process(training(tmp_path))
        said = capfd.readouterr().err
        assert said.count("error: ") == 1 and "no-such-run" in said and "Traceback" not in said

    def test_a_launcher_stands_before_the_command(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "launch.py").write_text("import sys, os\nprint(sys.argv, os.environ['N'])\n")
        launcher = (sys.executable, str(tmp_path / "launch.py"), "--processes", "2")
        environment = {"N": "7"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("N", environment["N"])
            train_in_a_process(training(tmp_path, launcher=launcher, threads=1))
        said = capfd.readouterr()
        assert "'--processes', '2', '-m', 'sso_data', 'train'" in said.err and "7" in said.err
        assert not said.out, "results of `iterate` go to stdout, those of a training do not"

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interruption_is_passed_on(
        self, tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """The training hears of it, and has ended when the exception comes out."""
        (tmp_path / "launch.py").write_text(
            "import os, pathlib, signal, sys, time\n"
            "def heard(number, _):\n"
            f"    print('heard', number, flush=True); sys.exit(1)\n"
            f"signal.signal({int(number)}, heard)\n"
            f"pathlib.Path({str(tmp_path / 'up')!r}).write_text(str(os.getpid()))\n"
            "time.sleep(600)\n"
        )
        before = signal.signal(number, _interrupted)
        sender = Thread(target=_when_there, args=(tmp_path / "up", number))
        sender.start()
        try:
            with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else _Asked):
                train_in_a_process(
                    training(tmp_path, launcher=(sys.executable, str(tmp_path / "launch.py")))
                )
        finally:
            sender.join()
            signal.signal(number, before)
        assert f"heard {int(number)}" in capfd.readouterr().err
        assert not Path(f"/proc/{(tmp_path / 'up').read_text()}").exists()


class _Asked(BaseException):
    """What SIGTERM becomes in a command."""


def _interrupted(number: int, _frame: object) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else _Asked


def _when_there(file: Path, number: int) -> None:
    until(lambda: file.exists() and file.read_text())
    os.kill(os.getpid(), number)
