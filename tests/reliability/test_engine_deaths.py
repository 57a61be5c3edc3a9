"""The engine's process is killed or stopped again and again: the run goes on to the same content.

Two deaths an engine in `make test-long`; `make chaos` asks for twenty by SSO_DATA_ENGINE_DEATHS.
In `make test` one real process is killed and one stopped: tests/engines/test_fleet.py.
"""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sso_data.world import queries
from tests.reliability.test_kill import command, is_same, journal_size, left_alone, rows_of
from tests.waiting import CHILD_SECONDS

DEATHS = int(os.environ.get("SSO_DATA_ENGINE_DEATHS", "2"))
PROMPTS = max(40, 6 * DEATHS)
ENGINES = ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)]


def write_prompts(file: Path, count: int) -> Path:
    file.write_text("".join(json.dumps({"prompt": q}) + "\n" for q in queries(count, seed=3)))
    return file


def engines_of(pid: int) -> list[int]:
    """The engines' processes, children of the command's."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    found = []
    for child in listing.read_text().split() if listing.exists() else []:
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in words:
            found.append(int(child))
    return found


def end_engines(
    process: subprocess.Popen[bytes], run: Path, rng: random.Random, ended: set[int]
) -> list[str]:
    """Kill and stop engines in turn, each time a moment after the journal grew."""
    done: list[str] = []
    grown = journal_size(run)
    while process.poll() is None and len(done) < DEATHS:
        if journal_size(run) == grown:
            time.sleep(0.005)
            continue
        time.sleep(rng.uniform(0, 0.2))
        if alive := [pid for pid in engines_of(process.pid) if pid not in ended]:
            engine = rng.choice(alive)
            ended.add(engine)
            number = (signal.SIGKILL, signal.SIGSTOP)[len(done) % 2]
            os.kill(engine, number)
            done.append(number.name)
        grown = journal_size(run)
    return done


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("engines", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_outlives_its_engines(
    engine: str, engines: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prompts, whole = left_alone(tmp_path_factory, engine, PROMPTS)
    wounded = tmp_path / "wounded"
    patient = ["--set", "engine.heartbeat_timeout=20", "--set", "engine.max_num_seqs=8"]
    process = subprocess.Popen(
        [*command(engine, prompts, wounded), *patient, "--engines", f"{engines}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    ended: set[int] = set()
    done = end_engines(process, wounded, random.Random(engine), ended)
    _, errors = process.communicate(timeout=CHILD_SECONDS * (1 + DEATHS / 2))
    told = errors.decode()
    assert process.returncode == 0, told[-2000:]
    assert len(done) == DEATHS, f"only {len(done)} engines were ended: {told[-2000:]}"
    # of several engines, one that is ended while it starts is started again without a line, and
    # one that is stopped when the others do the rest is not missed
    assert told.count("; restarting in ") >= (DEATHS if engines == 1 else DEATHS // 2)
    causes = [cause in told for cause in ("SIGKILL", "no heartbeat")]
    assert all(causes) if engines == 1 else any(causes)
    assert not any(Path(f"/proc/{pid}").exists() for pid in ended)
    expected, found = rows_of(whole), rows_of(wounded)
    assert found.keys() == expected.keys() and len(found) == PROMPTS
    assert not (wounded / "failed.jsonl").read_bytes()
    same = [name for name, row in expected.items() if is_same(found[name], row)]
    different = PROMPTS - len(same)
    print(f"{engines} x {engine}: {len(done)} engine deaths, {different} of {PROMPTS} rows differ")
    assert different <= (PROMPTS // 10 if engine == "transformers" else 0)
