"""Engines as actors of a Ray cluster: where it has room for them, and as many as it has room for.

Ray places an engine: all its GPUs on one node, where it works as in a child process, or, if no node
has so many, a bundle for each GPU, over which vLLM spreads the engine with actors of its own.
"""

import importlib.util
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from sso_data import __version__
from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineDeadError, EngineError, ModelError, described, one_line
from sso_data.engines import worker
from sso_data.engines.child import GRACE_SECONDS, RemoteEngine
from sso_data.engines.devices import gpus_each
from sso_data.engines.environment import prepare_environment
from sso_data.engines.inline import start_inline
from sso_data.engines.interface import Engine, Request

MISSING = "Ray is not installed: pip install 'sso-data[ray]', on this machine and on every node"
ANSWER_SECONDS = 20.0
HEAD_SECONDS, HEAD_ANSWER_SECONDS = 30.0, 2.0
"""Seconds without a head after which a cluster is gone, as Ray would end this process after 60; and
those that it has to answer in."""
FULL_SECONDS = 30.0
"""Seconds without a place for an engine after which it is said that the cluster is full."""
BEAT_SECONDS = 1.0
GATHER_SECONDS = 0.02
"""Seconds in which more messages may join the first one: each answer costs the driver a call."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
"""What Ray reads when it is imported: no statistics, no cluster of its own in place of one that is
lost, nothing of the cluster on our stdout."""


class Cluster:
    """The cluster that `config.cluster` names, and the places of engines in it.

    `config` is what the engines get, `room` says how many there are to be, `text` what is
    planned. Raises EngineError where no cluster answers, or none of its nodes has room.
    """

    def __init__(
        self,
        model_path: Path,
        config: EngineConfig,
        name: str,
        *,
        tell: Callable[[str], None] = lambda line: None,
        start: worker.Start | None = None,
    ) -> None:
        assert config.cluster is not None
        self._address, self._away = join(config.cluster), 0.0
        self._model_path, self._tell, self._start = model_path, tell, start or start_there
        nodes = _nodes()
        size, vllm = gpus_each(config, name), dict(config.vllm)
        most = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
        self._spans = False
        if not most or (name == "transformers" and config.device in ("cpu", "mps")):
            smallest = min((int(n["CPU"]) for n in nodes if n.get("CPU", 0) >= 1), default=1)
            cpus = config.threads or (smallest if config.count == "auto" else 1)
            self._bundles: list[dict[str, int]] = [{"CPU": cpus}]
            self._options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": 0}
        elif most >= size and vllm.get("distributed_executor_backend") != "ray":
            self._bundles = [{"GPU": size, "CPU": 1}]
            self._options = {"num_cpus": 1, "num_gpus": size}
            if size > 1:  # in a placement group vLLM would take Ray
                vllm.setdefault("distributed_executor_backend", "mp")
        else:
            self._spans = True
            self._bundles = [{"GPU": 1, "CPU": 1}] + [{"GPU": 1}] * (size - 1)
            self._options = {"num_cpus": 1, "num_gpus": 0}
            vllm["distributed_executor_backend"] = "ray"
        self._follows = config.count == "auto"
        room = self._has_room_for()
        self.count = room if config.count == "auto" else config.count
        key, needs = next(iter(self._bundles[0].items()))
        needs = size if key == "GPU" else needs
        self._needs = f"{needs} {key}{'s' * (needs > 1)}"
        if not self.count:
            raise EngineError(
                f"the cluster has no room for an engine of {self._needs}: its nodes have "
                f"{_held()}; see `ray status`"
            )
        self.text = (
            f"{self.count} engine{'s' * (self.count > 1)} of {self._needs} on a Ray cluster of "
            f"{len(nodes)} node{'s' * (len(nodes) > 1)}"
        )
        if room < self.count:
            self.text += f", which has room for {room} now"
        self.config = config.model_copy(
            update={"name": name, "cluster": None, "count": self.count, "vllm": vllm}
        )

    def room(self) -> int:
        """The number of engines to have; for `auto` it follows the cluster.

        Raises EngineError when its head has been away for 30 seconds.
        """
        if why := _silence(self._address, HEAD_ANSWER_SECONDS):
            self._away = self._away or time.monotonic()
            if time.monotonic() - self._away > HEAD_SECONDS:
                raise EngineError(
                    f"{self._address}: the head of this Ray cluster is gone ({why}); what is done "
                    "is kept, run the same command again when there is a cluster"
                )
        else:
            self._away = 0.0
            self.count = self._has_room_for() if self._follows else self.count
        return self.count

    def _has_room_for(self) -> int:
        """The number of engines that the nodes have room for, whatever else works there."""
        if self._spans:
            return int(_total("GPU")) // len(self._bundles)
        needs = self._bundles[0].items()
        return sum(int(min(node.get(key, 0) // need for key, need in needs)) for node in _nodes())

    def start(self, config: EngineConfig) -> "ActorEngine":
        """Begin to start an engine, which Ray places as soon as there is room.

        Raises EngineError where Ray cannot be asked.
        """
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if why := _silence(self._address, HEAD_ANSWER_SECONDS):  # Ray would wait for it
            raise EngineError(f"{self._address}: the head of this Ray cluster is away ({why})")
        try:
            group = placement_group(self._bundles, strategy="PACK")
            place = PlacementGroupSchedulingStrategy(
                group,
                placement_group_bundle_index=0,
                placement_group_capture_child_tasks=self._spans,
            )
            actor = ray.remote(Host).options(
                scheduling_strategy=place, max_concurrency=4, max_restarts=0, **self._options
            )
            made = actor.remote(str(self._model_path), config, self._start, __version__)
            return ActorEngine(config, made, group, self._is_full)
        except Exception as error:  # noqa: BLE001 - Ray raises anything where its head is gone
            raise EngineError(f"Ray cannot start an engine: {_why(error)}") from None

    def _is_full(self) -> None:
        self._tell(f"the cluster is full: waiting for room for an engine of {self._needs}")
        self._tell = lambda line: None


class ActorEngine(RemoteEngine):
    """An engine in an actor of a Ray cluster, which is ended with its placement group.

    A call to the actor is always under way; it brings messages, at least every second. `is_full` is
    called when the actor has had no place for half a minute, which is no failure: it is waited for.
    """

    def __init__(
        self, config: EngineConfig, actor: Any, group: Any, is_full: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._actor, self._group, self._is_full = actor, group, is_full
        self._begun = self._made
        self._where = ""
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._answer = self._ask()

    @property
    def waitables(self) -> tuple[Any, ...]:
        return (self._woken,)

    def close(self) -> None:
        self._end(grace=0.0)

    def _ask(self) -> "Future[list[tuple[Any, ...]]]":
        asked: Future[list[tuple[Any, ...]]] = self._actor.messages.remote().future()
        asked.add_done_callback(lambda _: self._wake())
        return asked

    def _wake(self) -> None:
        with suppress(OSError):  # it is closed, or full
            self._waker.send(b".", socket.MSG_DONTWAIT)

    def _send(self, requests: Sequence[Request]) -> None:
        try:
            self._actor.submit.remote(list(requests))
        except Exception as error:  # noqa: BLE001 - whatever Ray says of a cluster that is lost
            raise self._lost(error) from None

    def _receive(self, timeout: float) -> list[tuple[Any, ...]]:
        if not self._answer.done():
            wait(self.waitables, timeout)
        with suppress(BlockingIOError):
            self._woken.recv(64)
        if not self._answer.done():
            if not self._where:
                self._made, self._silence = time.monotonic(), 0.0
                if self._made - self._begun > FULL_SECONDS:
                    self._is_full()
            return []
        try:
            messages = self._answer.result()
            self._answer = self._ask()
        except Exception as error:  # noqa: BLE001 - whatever Ray says of an actor that is lost
            raise self._lost(error) from None
        for message in messages:
            if message[0] == "here":
                self._where = f" on {message[1]}"
        return messages

    def _lost(self, error: Exception) -> EngineDeadError:
        return EngineDeadError(
            f"the engine's actor{self._where} was lost: {_why(error)}; requests in flight: "
            f"{len(self._open)}"
        )

    def _end(self, grace: float) -> None:
        ending = threading.Thread(target=self._remove, daemon=True)
        ending.start()
        ending.join(GRACE_SECONDS)  # where the head is gone, Ray would wait for it
        self._waker.close()

    def _remove(self) -> None:
        import ray
        from ray.util.placement_group import remove_placement_group

        with suppress(Exception):  # the cluster may be gone
            ray.kill(self._actor)
            remove_placement_group(self._group)


class Host:
    """The actor: it hosts the engine in a thread, and dies with it."""

    def __init__(
        self, model_path: str, config: EngineConfig, start: worker.Start, version: str
    ) -> None:
        prepare_environment(config)
        self._link = _Mailbox(config.step_timeout)
        self._link.send("here", socket.gethostname())
        if version != __version__:
            text = f"{socket.gethostname()} has sso-data {__version__}, the driver {version}"
            self._link.send("failed", "EngineError", text)
            return
        arguments = self._link, Path(model_path), config, start
        threading.Thread(target=worker.work, args=arguments, daemon=True).start()

    def submit(self, requests: list[Request]) -> None:
        self._link.inbox.put(requests)

    def messages(self) -> list[tuple[Any, ...]]:
        return self._link.take()


class _Mailbox(worker.Link):
    """Messages wait here until they are asked for."""

    def __init__(self, step_timeout: float) -> None:
        super().__init__(step_timeout)
        self._outbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

    def send(self, *message: Any) -> None:
        self._outbox.put(message)

    def take(self) -> list[tuple[Any, ...]]:
        """Return what there is to say, after a second at most: a heartbeat, if nothing else."""
        try:
            taken = [self._outbox.get(timeout=BEAT_SECONDS)]
        except queue.Empty:
            return [("beat",)] if self.is_beating else []
        time.sleep(GATHER_SECONDS)
        with suppress(queue.Empty):
            while True:
                taken.append(self._outbox.get_nowait())
        return taken


def start_there(model_path: Path, config: EngineConfig) -> Engine:
    """Start the engine on a node. Raises ModelError where the node has no such model."""
    if not model_path.is_dir():
        raise ModelError(
            f"{model_path}: not on node {socket.gethostname()}: put the model (for the Hub's, "
            "HF_HOME) where every node sees it under the same path"
        )
    return start_inline(model_path, config)


def join(address: str) -> str:
    """Join a Ray cluster, unless this process has; quietly, and without its usage statistics.

    Returns its address. Raises EngineError where the extra is missing, or no cluster answers within
    20 seconds.
    """
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("grpc") is None:
        raise EngineError(MISSING)
    os.environ.update(_QUIET)
    import ray

    address = _answering(address)
    if ray.is_initialized():
        return address
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray raises anything; a user sees one line
        raise EngineError(f"{address}: cannot join this Ray cluster: {described(error)}") from None
    finally:
        if in_main:  # Ray's own would end the command without a word
            signal.signal(signal.SIGTERM, handler)
    return address


def summary(address: str) -> str:
    """Join a cluster and say what it has. Raises EngineError as `join` does."""
    join(address)
    return f"a cluster of {len(_nodes())} nodes with {_held()}"


def _answering(address: str) -> str:
    """Return the address, with `auto` looked up. Raises EngineError unless Ray answers there."""
    from ray._private.services import canonicalize_bootstrap_address_or_die

    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    found = address
    if not address.startswith("ray://"):
        try:
            found = canonicalize_bootstrap_address_or_die(address)
        except (OSError, ValueError):
            raise EngineError(
                f"engine.cluster {address}: no Ray cluster found; on this machine `ray start "
                "--head` starts one, of another one give ray://host:10001"
            ) from None
    if why := _silence(found, ANSWER_SECONDS):
        where = found if address == "auto" else address
        raise EngineError(
            f"engine.cluster {where}: no Ray cluster answers there ({why}); ray://HOST:10001 is "
            "Ray's client port, HOST:6379 the one of `ray start`, for machines that are part of "
            "the cluster"
        )
    return found


def _silence(address: str, seconds: float) -> str | None:
    """Return why no Ray cluster answers at an address within so many seconds, or None."""
    import grpc

    method = "/ray.rpc.NodeInfoGcsService/CheckAlive"
    if address.startswith("ray://"):
        method = "/ray.rpc.RayletDriver/ClusterInfo"
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address.removeprefix("ray://"), options) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=seconds)
        except grpc.RpcError as error:
            absent = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "UNKNOWN", "INTERNAL")
            if error.code().name in absent and os.environ.get("RAY_USE_TLS", "0") == "0":
                return str(error.code().name.lower())
    return None


def _nodes() -> list[Mapping[str, float]]:
    """The resources of each node that is there."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _held() -> str:
    return f"{_total('GPU'):.0f} GPUs and {_total('CPU'):.0f} CPUs"


def _total(resource: str) -> float:
    return sum(node.get(resource, 0.0) for node in _nodes())


def _why(error: Exception) -> str:
    """The part of Ray's message that says what happened, as one line."""
    text = one_line(error)
    for start in ("Worker exit detail: ", "The actor is dead because "):
        _, found, rest = text.partition(start)
        if found:
            text = rest
            break
    return f"{type(error).__name__}: {text.partition(' Some common causes')[0][:200]}"
