"""A run on a real local Ray: an actor is killed, a node leaves, the command is killed."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.local_ray import local_ray
from tests.reliability.test_fleet import ENGINES, worst
from tests.reliability.test_kill import command, journal_size, left_alone, rows_of
from tests.waiting import CHILD_SECONDS, until

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.long]
PROMPTS = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with a CPU each."""
    with local_ray(cpus=1) as found:
        found.second = None
        yield found


@pytest.fixture
def nodes(cluster: Any) -> Any:
    cluster.second = cluster.second or cluster.add_node(num_cpus=1, num_gpus=0)
    return cluster


def actors(nodes: Any) -> list[int]:
    """The processes of the actors that are there."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in nodes.list_all_nodes()}
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_one = entry.read_bytes().startswith(b"ray::Host")
            is_one = is_one and parent_of(int(entry.parent.name)) in raylets
        except OSError:
            continue
        if is_one:
            found.append(int(entry.parent.name))
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def begin(engine: str, nodes: Any, prompts: Path, run: Path) -> subprocess.Popen[str]:
    arguments = [*command(engine, prompts, run), "--cluster", nodes.address, "--json"]
    pipe = subprocess.PIPE
    # Ray ends a command a minute after the head is gone, as it does by default
    environment = {name: value for name, value in os.environ.items() if "_reconnect_" not in name}
    process = subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, env=environment)
    until(lambda: journal_size(run) > 0 or process.poll() is not None)
    return process


@pytest.mark.parametrize("engine", ENGINES)
def test_the_command_is_killed_and_continued(
    engine: str, nodes: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prompts, one = left_alone(tmp_path_factory, engine, PROMPTS)
    run = tmp_path / "run"
    process = begin(engine, nodes, prompts, run)
    assert actors(nodes)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not actors(nodes))
    assert len(rows_of(run)) < PROMPTS
    process = begin(engine, nodes, prompts, run)
    _, errors = process.communicate(timeout=CHILD_SECONDS)
    assert process.returncode == 0, errors
    assert "2 engines of 1 CPU on a Ray cluster of 2 nodes" in errors
    difference = worst(rows_of(run), rows_of(one))
    print(f"command killed: largest difference {difference:.2g} nats a response")
    assert difference <= 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_an_actor_is_killed_and_a_node_leaves(
    engine: str, nodes: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prompts, one = left_alone(tmp_path_factory, engine, PROMPTS)
    run = tmp_path / "run"
    process = begin(engine, nodes, prompts, run)
    until(lambda: len(actors(nodes)) == 2 or process.poll() is not None)
    leaving = nodes.second.all_processes["raylet"][0].process.pid
    staying = [pid for pid in actors(nodes) if parent_of(pid) != leaving]
    assert len(staying) == 1
    os.kill(staying[0], signal.SIGKILL)
    time.sleep(2)  # its last answers are written
    size = journal_size(run)
    until(lambda: journal_size(run) > size or process.poll() is not None)
    assert process.poll() is None, "the run was over before the node left"
    nodes.remove_node(nodes.second, allow_graceful=False)
    nodes.second = None
    output, errors = process.communicate(timeout=CHILD_SECONDS)
    assert process.returncode == 0, errors
    found = json.loads(output)
    assert (found["rows"], found["failed"]) == (PROMPTS, 0)
    print(errors)
    assert "was lost: " in errors and "raylet" not in errors
    difference = worst(rows_of(run), rows_of(one))
    print(f"actor killed, node removed: largest difference {difference:.2g} nats a response")
    assert difference <= 1e-4


def test_the_head_is_lost_and_the_command_goes_on_here(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With its only engine: one line; without the cluster the same command continues."""
    prompts, one = left_alone(tmp_path_factory, "transformers", PROMPTS)
    run = tmp_path / "run"
    with local_ray(cpus=1) as alone:
        process = begin("transformers", alone, prompts, run)
        for pid in (alone.head_node.all_processes["gcs_server"][0].process.pid, *actors(alone)):
            os.kill(pid, signal.SIGKILL)
        output, errors = process.communicate(timeout=CHILD_SECONDS)
    assert process.returncode == 1 and "Traceback" not in errors, errors
    assert "the head of this Ray cluster is" in json.loads(output)["error"]["text"]
    assert 0 < len(rows_of(run)) < PROMPTS
    subprocess.run(command("transformers", prompts, run), check=True, capture_output=True)
    assert worst(rows_of(run), rows_of(one)) <= 1e-4
