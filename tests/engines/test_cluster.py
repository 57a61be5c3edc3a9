"""Engines as actors of a real local Ray: their messages, deaths and places; addresses that fail."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.run import EngineConfig
from sso_data.core.errors import ConfigError, EngineDeadError, EngineError, ModelError
from sso_data.engines import cluster as module
from sso_data.engines import start_engine
from sso_data.engines.cluster import ActorEngine, Cluster
from sso_data.engines.fleet import Fleet
from sso_data.engines.interface import EngineInfo, Scored
from sso_data.world import policy_dir, queries
from tests.engines.calls import ask, score
from tests.engines.fake import FakeEngine, start_fake, start_refusing
from tests.local_ray import local_ray
from tests.waiting import CHILD_SECONDS, until

pytest.importorskip("ray")


class PlacedEngine(FakeEngine):
    """Its version says which GPUs it sees, and the bundles of its placement group."""

    @property
    def info(self) -> EngineInfo:
        import ray

        group = ray.util.get_current_placement_group()
        bundles = group and group.bundle_specs
        seen = [os.environ.get("CUDA_VISIBLE_DEVICES"), bundles]
        return replace(super().info, version=json.dumps(seen))


def start_placed(model_path: Path, config: EngineConfig) -> PlacedEngine:
    return PlacedEngine()


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """A cluster of one node with two CPUs; this process joins it."""
    with local_ray(cpus=2) as found:
        yield found


def config_of(local: Any, **settings: Any) -> EngineConfig:
    return EngineConfig(cluster=local.address, threads=1, **settings)


def placed(cluster: Cluster) -> list[Any]:
    """What an engine sees of its place."""
    engine = cluster.start(cluster.config)
    try:
        return list(json.loads(engine.info.version))
    finally:
        engine.close()


def begun(local: Any, start: Any = start_fake, **settings: Any) -> ActorEngine:
    cluster = Cluster(Path("/"), config_of(local, **settings), "transformers", start=start)
    return cluster.start(cluster.config)


@pytest.mark.long
def test_an_actor_answers_and_dies_like_a_child(local: Any) -> None:
    engine = begun(local)
    found = ask(engine, [score("a/x", (1, 2), (3,)), score("a/noise", (1,), (3,))])
    assert found["a/x"] == Scored(key="a/x", total_nats=-2.0)
    with pytest.raises(EngineDeadError, match=r"actor on \S+ was lost: .*; requests in flight: 1"):
        ask(engine, [score("a/die", (1,), (3,))])
    engine.close()
    engine = begun(local)
    with pytest.raises(EngineDeadError, match=r"^the engine failed: RuntimeError: one two"):
        ask(engine, [score("a/fail", (1,), (3,))])
    engine.close()
    engine = begun(local, step_timeout=1.0, heartbeat_timeout=5.0)
    with pytest.raises(EngineDeadError, match="no heartbeat"):
        ask(engine, [score("a/hang", (1,), (3,))])
    engine.close()
    engine = begun(local, start_refusing)
    with pytest.raises(ModelError, match="not today"):
        assert engine.info
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.long
def test_a_dead_actor_is_replaced_and_the_row_that_kills_is_found(local: Any) -> None:
    told: list[str] = []
    cluster = Cluster(Path("/"), config_of(local), "transformers", start=start_fake)
    assert cluster.text == "2 engines of 1 CPU on a Ray cluster of 1 node"
    names = ["engine 1", "engine 2"]
    fleet = Fleet([cluster.start] * 2, cluster.config, names=names, tell=told.append)
    found = ask(fleet, [score(f"r{row}/{'die' * (row == 3)}", (1,), (3,)) for row in range(8)])
    refused = [key for key, result in found.items() if not isinstance(result, Scored)]
    fleet.close()
    assert refused == ["r3/die"] and told


@pytest.mark.long
def test_places_on_gpus(local: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no room for an engine of 3 CPUs: .* 0 GPUs and 2 CPUs"):
        Cluster(tmp_path, config_of(local).model_copy(update={"threads": 3}), "transformers")
    node = local.add_node(num_cpus=2, num_gpus=4)
    other = local.add_node(num_cpus=1, num_gpus=1)
    try:
        pair = config_of(local, tensor_parallel_size=2)
        cluster = Cluster(tmp_path, pair, "vllm", start=start_placed)
        assert (cluster.count, cluster.room()) == (2, 2)
        assert cluster.config.vllm == {"distributed_executor_backend": "mp"}
        seen, bundles = placed(cluster)
        assert seen in ("0,1", "2,3") and bundles == [{"GPU": 2, "CPU": 1}]
        wide = config_of(local, tensor_parallel_size=5)
        cluster = Cluster(tmp_path, wide, "vllm", start=start_placed)
        assert cluster.text == "1 engine of 5 GPUs on a Ray cluster of 3 nodes"
        assert cluster.config.vllm == {"distributed_executor_backend": "ray"}
        sees, bundles = placed(cluster)
        assert not sees and [bundle["GPU"] for bundle in bundles] == [1] * 5
        # an engine takes a CPU, too, and the second node has only two
        assert Cluster(tmp_path, config_of(local), "vllm").count == 2 + 1
        many = Cluster(tmp_path, config_of(local, count=9), "vllm")
        assert many.text.startswith("9 engines of 1 GPU")
        assert many.text.endswith("of 3 nodes, which has room for 3 now")
    finally:
        local.remove_node(node)
        local.remove_node(other)
    on_cpu = Cluster(tmp_path, config_of(local), "transformers")
    until(lambda: on_cpu.room() == 2)


@pytest.mark.long
def test_a_command_on_a_cluster(local: Any, tmp_path: Path) -> None:
    """Rows come, stdout is JSON alone, Ray says nothing; the cluster is no part of the identity."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in queries(4, seed=3)))
    command = [
        *(sys.executable, "-m", "sso_data", "generate", str(prompts), "--out", str(tmp_path / "o")),
        *("--model", str(policy_dir()), "--engine", "transformers", "--json", "--cluster", "auto"),
        *("--set", "engine.threads=1", "--set", "sampling.max_tokens=16", "--engines", "1"),
    ]
    environment = os.environ | {"RAY_ADDRESS": local.address}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 4
    assert "1 engine of 1 CPU on a Ray cluster" in done.stderr and "raylet" not in done.stderr
    manifest = json.loads((tmp_path / "o" / "run.json").read_text())
    assert manifest["engine"]["engines"] == 1 and manifest["config"]["engine"]["cluster"] == "auto"
    assert not [key for key in manifest["identity"] if "cluster" in key]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has joined no cluster."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 3.0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("listens", ["nobody", "silence", "web"])
def test_an_address_that_does_not_answer(scheme: str, listens: str) -> None:
    handler = http.server.BaseHTTPRequestHandler
    with (
        http.server.HTTPServer(("127.0.0.1", 0), handler) as web,
        socket.create_server(("127.0.0.1", 0)) as silence,
    ):
        threading.Thread(target=web.serve_forever, daemon=True).start()
        port = {"nobody": 1, "silence": silence.getsockname()[1], "web": web.server_port}[listens]
        before = time.monotonic()
        with pytest.raises(EngineError, match=rf"{port}: no Ray cluster answers there"):
            start_engine(policy_dir(), EngineConfig(cluster=f"{scheme}127.0.0.1:{port}"))
        assert time.monotonic() - before < CHILD_SECONDS
        web.shutdown()


@pytest.mark.usefixtures("alone")
def test_no_cluster_here_and_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    def no_cluster(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(services, "canonicalize_bootstrap_address_or_die", no_cluster)
    with pytest.raises(EngineError, match="no Ray cluster found; on this machine `ray start --hea"):
        module.join("auto")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"pip install 'sso-data\[ray\]'"):
        module.join("auto")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cluster": "http://host:8265"}, "write auto, ray://host:10001 or host:6379"),
        ({"cluster": "auto", "servers": ["http://h:1"]}, "not together with engine.servers"),
        ({"cluster": "auto", "isolation": "inline"}, "not together with engine.isolation"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=said):
        EngineConfig(**settings)
