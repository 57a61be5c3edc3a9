"""A vLLM server as an engine: against a scripted one, and (long) against vLLM's own on loopback."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sso_data import chat
from sso_data.chat.interface import CompletionRequest
from sso_data.config.run import EngineConfig, ViewsConfig
from sso_data.config.section import EndpointSection
from sso_data.core.errors import EngineDeadError, EngineError
from sso_data.core.progress import NullProgress
from sso_data.core.records import Message
from sso_data.engines import server as home
from sso_data.engines import start_engine
from sso_data.engines.inline import start_server
from sso_data.engines.interface import Engine, Refused, Sampled
from sso_data.engines.server import FLAGS, ServerEngine
from sso_data.world import policy_dir
from tests.engines.calls import ask, many_samples, sample, score
from tests.engines.conftest import needs_vllm
from tests.reliability.test_kill import rows_of
from tests.waiting import CHILD_SECONDS

Body = dict[str, Any]


class Scripted:
    """Draws ids by seed; the log-prob of an id is -id/1000, whatever stands before it."""

    def __init__(self) -> None:
        self.vocab = json.loads((policy_dir() / "config.json").read_text())["vocab_size"]
        self.models: list[Body] = [{"id": "policy", "max_model_len": 1024}]
        self.raw, self.honours_seeds, self.scale_out, self.details = True, True, True, True
        self.cached = 0
        self.busy, self.busy_code = 0, 503
        self.seen: list[Body] = []

    def answer(self, path: str, body: Body) -> tuple[int, Any]:
        if self.busy:
            self.busy -= 1
            return self.busy_code, {"error": "busy"}
        if path == "/v1/models":
            return 200, {"data": self.models}
        if path == "/version":
            return 200, {"version": "0.32.0"}
        generates = path == home.GENERATE
        if generates and not self.scale_out:
            return 403, {"error": "not enabled"}
        params = body["sampling_params"] if generates else body
        ids = body["token_ids"] if generates else body["prompt"]
        self.seen.append(params)
        if max(ids) >= self.vocab:
            return 400, {"error": f"token id {max(ids)} is out of vocabulary"}
        seed = params.get("seed") if self.honours_seeds else None
        drawn = random.Random(seed).choices(range(3, 200), k=params["max_tokens"])
        nats = [-token / 1000 * (1 if self.raw else 0.3) for token in drawn]
        rows = [None, *({str(token): {"logprob": -token / 1000}} for token in ids[1:])]
        choice: Body = {"token_ids": drawn, "finish_reason": "length"}
        found: Body = {"choices": [choice], "usage": {}}
        if self.details:
            skips = params.get("skip_reading_prefix_cache", True)
            tokens = 0 if skips else self.cached
            found["usage"]["prompt_tokens_details"] = {"cached_tokens": tokens}
        if generates:
            choice["logprobs"] = {"content": [{"logprob": one} for one in nats]}
            found["prompt_logprobs"] = rows
        else:
            choice |= {"logprobs": {"token_logprobs": nats}, "prompt_logprobs": rows}
        return 200, found


@contextmanager
def serving(answer: Callable[[str, Body], tuple[int, Any]], port: int = 0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply(*answer(self.path, {}))

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            self.reply(*answer(self.path, json.loads(self.rfile.read(length))))

        def reply(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "FIRST_WAIT_SECONDS", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def reach(url: str, **settings: Any) -> ServerEngine:
    config = EngineConfig.model_validate({"servers": (url,), "max_model_len": 512} | settings)
    return ServerEngine(policy_dir(), config)


@pytest.mark.parametrize("scale_out", [True, False], ids=["generate", "completions"])
def test_ids_in_ids_and_log_probs_out(scale_out: bool) -> None:
    script = Scripted()
    script.scale_out = scale_out
    with serving(script.answer) as url, closing(reach(url)) as engine:
        assert (engine.info.name, engine.info.device) == ("vllm", "server")
        assert engine.info.context_tokens == 511 and engine.info.probe is not None
        script.busy = 2
        found = ask(engine, [*many_samples(20), score("x", (1, 2), (30, 40))])
        assert found["x"].total_nats == pytest.approx(-0.07)
        one = found["s3"]
        expected = tuple(random.Random(1003).choices(range(3, 200), k=24))
        assert one.token_ids == expected
        assert one.total_nats == pytest.approx(-sum(expected) / 1000)
        sent = next(params for params in script.seen if params.get("seed") == 1003)
        neutral = {"repetition_penalty": 1.0, "top_k": 0, "min_p": 0.0, "logprobs": 0}
        assert sent.items() >= neutral.items() and sent["stop_token_ids"]


def test_a_score_whose_rows_come_from_the_cache_is_asked_again() -> None:
    script = Scripted()
    with serving(script.answer) as url, closing(reach(url)) as engine:
        script.seen.clear()
        script.cached = 2
        found = ask(engine, [score("x", (1, 2), (30,)), score("y", (1, 2, 3), (30,))])
        assert found["x"].total_nats == found["y"].total_nats == pytest.approx(-0.03)
        unread = [params.get("skip_reading_prefix_cache", True) for params in script.seen]
        assert sorted(unread) == [False, False, True]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"raw": False}, "its log-probs are not the raw model's; start it with .*raw_logprobs"),
        ({"honours_seeds": False}, "the same seed gave other tokens"),
        ({"details": False}, "does not report cached tokens; start it with .*-details"),
        ({"vocab": 100_000}, "serves another model: its vocabulary has more than"),
        ({"vocab": 400}, "is out of vocabulary"),
        ({"models": [{"id": "policy", "max_model_len": 100}]}, "--max-model-len 512"),
        ({"models": [{"id": "a"}, {"id": "b"}]}, "serves a, b; set engine.server_model"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_server_that_would_give_wrong_rows_is_refused(wrong: Body, line: str) -> None:
    script = Scripted()
    for name, value in wrong.items():
        setattr(script, name, value)
    with serving(script.answer) as url, pytest.raises(EngineError, match=line) as caught:
        reach(url)
    assert not isinstance(caught.value, EngineDeadError) and "\n" not in str(caught.value)


def test_another_model_of_the_hub_is_refused_unless_it_is_named(tmp_path: Path) -> None:
    """Its vocabulary may be the same; names of directories are not compared."""
    ours = tmp_path / "models--Qwen--Qwen3-8B" / "snapshots" / "abc"
    ours.parent.mkdir(parents=True)
    ours.symlink_to(policy_dir())
    script = Scripted()
    with serving(script.answer) as url:
        config = EngineConfig(servers=(url,), max_model_len=512)
        for root, path, named in (
            ("Qwen/Qwen3-8B", ours, None),
            ("/models/x", ours, None),
            ("Qwen/Qwen3-4B", policy_dir(), None),
            ("Qwen/Qwen3-4B", ours, "policy"),
        ):
            script.models[0]["root"] = root
            ServerEngine(path, config.model_copy(update={"server_model": named})).close()
        with pytest.raises(EngineError, match="serves Qwen/Qwen3-4B, and the model is Qwen/Qwen3-"):
            ServerEngine(ours, config)


def test_a_chat_model_of_a_server_needs_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are they hashed: its name says that it is a server's; and the plan is noted."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in policy_dir().iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).symlink_to(file)

    def start(path: Path, config: EngineConfig, tell: Any, note: Any) -> Engine:
        note("the plan")
        return start_server(path, config)

    class Noting(NullProgress):
        def note(self, text: str) -> None:
            noted.append(text)

    noted: list[str] = []
    hello = (Message(role="user", content="Hello"),)
    script = Scripted()
    monkeypatch.setattr(chat, "start_engine", start)
    with serving(script.answer) as url:
        engine = EngineConfig(servers=(url,), max_model_len=512)
        more = {"progress": Noting()}
        with chat.open_chat(str(bare), EndpointSection(), engine, ViewsConfig(), **more) as model:
            assert (model.model, noted) == (f"{bare}@server:bare", ["the plan"])
            model.submit([CompletionRequest(key="a", messages=hello, max_tokens=4, seed=1)])
            while not (found := list(model.step())):
                pass
            assert [one.key for one in found] == ["a"]


def test_no_more_is_under_way_than_an_engine_would_take() -> None:
    """At most five requests, over at most five connections, which are kept."""
    script, lock, under_way = Scripted(), threading.Lock(), [0, 0]
    threads = set[threading.Thread]()

    def slowly(path: str, body: Body) -> tuple[int, Any]:
        with lock:
            threads.add(threading.current_thread())
            under_way[:] = under_way[0] + 1, max(under_way[0] + 1, under_way[1])
        time.sleep(0.005)
        with lock:
            under_way[0] -= 1
        return script.answer(path, body)

    scores = [score(f"x{number}", (1, 2), (30, 40)) for number in range(20)]
    limits = {"max_num_seqs": 3, "score_slots": 2}
    with serving(slowly) as url, closing(reach(url, **limits)) as engine:
        assert len(ask(engine, [*many_samples(20), *scores])) == 40
    assert 1 < under_way[1] <= 5 and len(threads) <= 5


def test_a_lora_adapter_is_asked_for_by_its_name() -> None:
    """The address may end as other clients have it."""
    script = Scripted()
    script.models.append({"id": "tuned", "parent": "policy", "max_model_len": None})
    with serving(script.answer) as url, closing(reach(f"{url}/v1", server_model="tuned")) as engine:
        assert engine.info.context_tokens == 511


def test_a_request_that_the_server_refuses_is_refused_and_a_lost_server_is_a_death() -> None:
    script = Scripted()
    with serving(script.answer) as url, closing(reach(url)) as engine:
        script.vocab = 100
        found = ask(engine, [sample("a", (1, 200))])
        assert isinstance(found["a"], Refused) and "out of vocabulary" in found["a"].detail
        script.busy = 1000
        engine.submit([sample("b")])
        with pytest.raises(EngineDeadError, match="the server does not answer: HTTP 503"):
            for _ in range(1000):
                engine.step()
    with pytest.raises(EngineDeadError, match="does not answer: ConnectError"):
        reach(url)


def test_a_busy_server_is_waited_for() -> None:
    """More often than a failing one is asked: nothing is wrong with it."""
    script = Scripted()
    with serving(script.answer) as url, closing(reach(url)) as engine:
        script.busy, script.busy_code = 2 * home.TRIES, 429
        assert not isinstance(ask(engine, [sample("a")])["a"], Refused)


@pytest.mark.long
def test_two_servers_share_the_work_and_one_may_be_away() -> None:
    """Two fleets of real children: one server not there; then two servers of different models."""
    script, other = Scripted(), Scripted()
    answer = other.answer

    def otherwise(path: str, body: Body) -> tuple[int, Any]:
        status, found = answer(path, body)
        for row in (found.get("prompt_logprobs") or [])[1:] if status == 200 else ():
            next(iter(row.values()))["logprob"] -= 0.5 * (len(body["token_ids"]) == 15)
        return status, found

    told: list[str] = []
    config = EngineConfig(max_model_len=512, servers=("http://127.0.0.1:9",))
    with serving(script.answer) as url, serving(otherwise) as second:
        both = config.model_copy(update={"servers": (*config.servers, url)})
        with closing(start_engine(policy_dir(), both, tell=told.append)) as engine:
            assert len(ask(engine, many_samples(20))) == 20
        different = config.model_copy(update={"servers": (url, second)})
        with pytest.raises(EngineError, match="differ: another model: the same ids"):
            start_engine(policy_dir(), different)


@pytest.mark.slow
@pytest.mark.long
def test_every_server_is_lost_and_the_same_command_goes_on_later(tmp_path: Path) -> None:
    """Two servers that are gone for good after 130 answers; one that is back: the same rows."""
    script = Scripted()
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(24)))

    def generate(out: Path, *urls: str) -> "subprocess.CompletedProcess[str]":
        words = ["generate", str(prompts), f"--out={out}", f"--model={policy_dir()}"]
        words += [f"--server={url}" for url in urls]
        words += ["--set=sampling.max_tokens=16", "--set=engine.max_num_seqs=4"]
        return subprocess.run(
            [sys.executable, "-m", "sso_data", *words], capture_output=True, text=True, check=False
        )

    def leaving(path: str, body: Body) -> tuple[int, Any]:
        if len(script.seen) >= 130:
            return 503, {"error": "gone"}
        return script.answer(path, body)

    with serving(leaving) as url, serving(leaving) as second:
        lost = generate(tmp_path / "run", url, second)
    assert lost.returncode == 1 and "Traceback" not in lost.stderr, lost.stderr[-2000:]
    assert "mend that and run the same command again" in lost.stderr
    made = {line for part in (tmp_path / "run" / "rows").glob("*.jsonl") for line in part.open()}
    assert 0 < len(made) < 24
    with serving(script.answer) as url:
        assert generate(tmp_path / "run", url).returncode == 0
        assert generate(tmp_path / "whole", url).returncode == 0
    found, whole = rows_of(tmp_path / "run"), rows_of(tmp_path / "whole")
    assert len(found) == 24 and found.keys() == whole.keys()
    for key, row in whole.items():
        assert found[key]["chosen_token_ids"] == row["chosen_token_ids"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def vllm_server(port: int, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """vLLM's own server of the tiny policy, when it answers."""
    import urllib.error
    import urllib.request

    own = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--block-size", "32"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", f"{port}"),
            *("--host", "127.0.0.1", "--model", str(policy_dir()), *own, *flags),
            *("--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"),
            *("--kv-cache-memory-bytes", f"{64 << 20}"),
        ],
        env=os.environ | {"VLLM_NO_USAGE_STATS": "1", "TORCH_COMPILE_DISABLE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + CHILD_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        assert process.poll() is None, "vLLM's server ended"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A LoRA adapter that changes the tiny policy noticeably."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(policy_dir(), dtype="float32")
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(tmp_path / "tuned")
    return tmp_path / "tuned"


WITH_LORA = "--enable-lora --max-lora-rank 8 --lora-target-modules q_proj v_proj --lora-modules"


@needs_vllm[0]
@needs_vllm[1]
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("kind", ["cached", "not cached", "adapter"])
def test_vllms_own_server(kind: str, tuned: Path) -> None:
    """The tokens and log-probs of vLLM in this process; killed and restarted on the way."""
    port, flags = free_port(), FLAGS.split()
    config = EngineConfig(servers=(f"http://127.0.0.1:{port}",), max_model_len=512)
    own = EngineConfig(name="vllm", max_model_len=512, threads=1, dtype="float32")
    if kind == "adapter":
        flags += [*WITH_LORA.split(), f"tuned={tuned}"]
        config = config.model_copy(update={"server_model": "tuned"})
        own = own.model_copy(update={"adapter": tuned})
    elif kind == "not cached":
        flags += ["--no-enable-prefix-caching"]
    requests = many_samples(24)
    with closing(start_engine(policy_dir(), own)) as engine:
        expected = ask(engine, requests)
        scores = [
            score(f"{request.key}/score", request.prompt_ids, expected[request.key].token_ids)
            for request in requests
        ]
        expected |= ask(engine, scores)
    with vllm_server(port, *flags) as process:
        engine = start_engine(policy_dir(), config)
        found = ask(engine, [*requests[:12], *scores])
        engine.submit(requests[12:])
        os.killpg(process.pid, signal.SIGKILL)
    with closing(engine), vllm_server(port, *flags):
        while len(found) < len(expected):
            found |= {result.key: result for result in engine.step()}
    for key, one in expected.items():
        assert found[key].total_nats == pytest.approx(one.total_nats, abs=1e-4)
        assert getattr(found[key], "token_ids", None) == getattr(one, "token_ids", None)


@needs_vllm[0]
@needs_vllm[1]
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("no_waiting")
def test_two_of_vllms_own_servers_and_one_goes_for_good() -> None:
    ports, requests = (free_port(), free_port()), many_samples(48)
    config = EngineConfig(
        servers=tuple(f"http://127.0.0.1:{port}" for port in ports), max_model_len=512
    )
    with vllm_server(ports[0], *FLAGS.split()) as first, vllm_server(ports[1], *FLAGS.split()):
        with closing(start_engine(policy_dir(), config)) as engine:
            whole = ask(engine, requests)
        engine = start_engine(policy_dir(), config)
        engine.submit(requests)
        found = {result.key: result for result in engine.step()}
        os.killpg(first.pid, signal.SIGKILL)
        with closing(engine):
            while len(found) < len(requests):
                found |= {result.key: result for result in engine.step()}
    for key, one in whole.items():
        again = found[key]
        assert isinstance(one, Sampled) and isinstance(again, Sampled)
        assert again.token_ids == one.token_ids
        assert again.total_nats == pytest.approx(one.total_nats, abs=1e-4)


@needs_vllm[0]
@needs_vllm[1]
@pytest.mark.slow
@pytest.mark.long
def test_vllms_own_server_with_other_log_probs_is_refused() -> None:
    port = free_port()
    config = EngineConfig(servers=(f"http://127.0.0.1:{port}",), max_model_len=512)
    with (
        vllm_server(port, "--logprobs-mode", "processed_logprobs"),
        pytest.raises(EngineError, match="start it with --gen"),
    ):
        start_engine(policy_dir(), config)
