"""The client of OpenAI-compatible servers, against one with real sockets that misbehaves."""

import logging
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any, Literal

import pytest

from sso_data.chat import endpoint as endpoint_home
from sso_data.chat.endpoint import EndpointCompletions
from sso_data.chat.interface import Completion, CompletionRequest
from sso_data.config.section import EndpointSection
from sso_data.core import backoff
from sso_data.core.errors import ConfigError, EngineError
from sso_data.core.records import Message
from sso_data.engines.interface import Refused
from tests.chat.server import Reply, Script, failed, in_turn, said, serving
from tests.waiting import CHILD_SECONDS

KEY = "mysecret-0123456789abcdef"
SCHEMA = {"type": "object", "properties": {"good": {"type": "string"}}, "required": ["good"]}


def request(text: str = "Why?", **changes: Any) -> CompletionRequest:
    fields: dict[str, Any] = {
        "key": text,
        "messages": (Message(role="user", content=text),),
        "max_tokens": 50,
        "seed": 2**47 + 5,
    }
    return CompletionRequest(**fields | changes)


def ask(
    script: Script, *requests: CompletionRequest, patience: float = 20.0, **settings: Any
) -> tuple[dict[str, Completion | Refused], Any, list[str]]:
    """(answers by key, the server, what was told) of a whole exchange."""
    told: list[str] = []
    with serving(script) as server:
        endpoint = EndpointSection(endpoint=server.url, **{"endpoint_timeout": 60.0} | settings)
        client = EndpointCompletions(
            "m", endpoint, tell=told.append, patience=patience, first_wait=0.02
        )
        try:
            client.submit(requests or [request()])
            answers: dict[str, Completion | Refused] = {}
            deadline = time.monotonic() + CHILD_SECONDS
            while len(answers) < max(1, len(requests)):
                assert time.monotonic() < deadline, "the client hangs"
                answers |= {answer.key: answer for answer in client.step()}
            assert client.step() == []
        finally:
            client.close()
    return answers, server, told


def text_of(answers: dict[str, Completion | Refused], key: str = "Why?") -> str:
    answer = answers[key]
    assert isinstance(answer, Completion), answer
    return answer.text


def detail_of(answers: dict[str, Completion | Refused], key: str = "Why?") -> str:
    answer = answers[key]
    assert isinstance(answer, Refused), answer
    return answer.detail


def failure(script: Script, *requests: CompletionRequest, **settings: Any) -> str:
    with pytest.raises(EngineError) as caught:
        ask(script, *requests, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_request_says_everything_that_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    asked = request(temperature=0.3, top_p=0.9, schema=SCHEMA)
    answers, server, told = ask(in_turn(said(" Because. ")), asked, api_key_env="MY_KEY")
    assert answers["Why?"] == Completion(key="Why?", text="Because.", finish_reason="stop")
    [body] = server.bodies
    assert body["model"] == "m"
    assert body["messages"] == [{"role": "user", "content": "Why?"}]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.3, 0.9, 50)
    assert body["seed"] == (2**47 + 5) % 2**31
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert told == []


def test_the_server_learns_nothing_about_this_machine() -> None:
    _, server, _ = ask(in_turn(said("yes")))
    assert not [name for name in server.headers[0] if name.startswith("x-stainless-")
                if name not in ("x-stainless-retry-count", "x-stainless-read-timeout",
                                "x-stainless-timeout")]  # fmt: skip
    assert server.headers[0]["user-agent"] == "sso-data"


@pytest.mark.parametrize(
    ("first", "times"),
    [
        (failed(500), 1),
        (failed(503), 1),
        (failed(429), 1),
        (failed(408), 1),
        (Reply(body={"choices": []}, cut=5), 1),
        (Reply(body={}, cut=0), 1),
        (Reply(body=b"not json"), 1),
        (Reply(body={"choices": []}), 1),
        (Reply(body=[1, 2]), 1),
        (Reply(body="<html>busy</html>"), 1),
    ],
    ids=["500", "503", "429", "408", "cut", "hung up", "no JSON", "no choices", "list", "text"],
)
def test_a_request_that_failed_once_is_made_again(first: Reply, times: int) -> None:
    answers, server, told = ask(in_turn(first, said("now")))
    assert text_of(answers) == "now"
    assert len(server.bodies) == times + 1
    assert len(told) == 1
    assert told[0].startswith(server.url)
    assert "retrying" in told[0]


def test_it_waits_as_long_as_the_server_asks() -> None:
    busy = failed(429, headers={"Retry-After": "0.4"})
    _, server, _ = ask(in_turn(busy, said("now")))
    waited = server.times[1] - server.times[0]
    assert 0.4 <= waited < 30


def test_it_understands_a_date_to_wait_for() -> None:
    busy = failed(503, headers={"Retry-After": formatdate(time.time() + 2, usegmt=True)})
    _, server, _ = ask(in_turn(busy, said("now")))
    assert 0.8 <= server.times[1] - server.times[0] < 30


@pytest.mark.parametrize("value", ["soon", "nan", "-5", "Mon, 99 Foo"])
def test_nonsense_in_that_place_does_no_harm(value: str) -> None:
    answers, _, _ = ask(in_turn(failed(429, headers={"Retry-After": value}), said("now")))
    assert text_of(answers) == "now"


def test_waits_grow_and_are_not_alike() -> None:
    _, server, _ = ask(in_turn(*[failed(429)] * 5, said("now")))
    waits = [
        later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)
    ]
    for number, waited in enumerate(waits):
        assert waited >= 0.02 * 2**number / 2
    drawn = {backoff.seconds_to_wait(None, 3, 1.0) for _ in range(20)}
    assert len(drawn) == 20
    assert all(2.0 <= seconds <= 4.0 for seconds in drawn)
    longest = backoff.seconds_to_wait(None, 40, 1.0)
    assert longest <= backoff.MAX_WAIT_SECONDS


def test_a_slow_reply_is_given_up_and_asked_for_again() -> None:
    slow = Reply(body=said("late").body, delay=20.0)
    answers, server, told = ask(in_turn(slow, said("in time")), endpoint_timeout=5.0)
    assert text_of(answers) == "in time"
    assert len(server.bodies) >= 2
    assert "timed out" in told[0].lower()


def test_a_request_that_alone_fails_again_and_again_is_refused() -> None:
    def script(body: dict[str, Any], attempt: int) -> Reply:
        poison = body["messages"][-1]["content"] == "poison"
        return failed(500, "boom") if poison else said("fine")

    others = [request(f"q{number}") for number in range(12)]
    answers, server, _ = ask(script, request("poison"), *others, endpoint_in_flight=2)
    assert "boom" in detail_of(answers, "poison")
    assert all(text_of(answers, one.key) == "fine" for one in others)
    tries = sum(body["messages"][-1]["content"] == "poison" for body in server.bodies)
    assert tries == endpoint_home.TRIES


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_the_server_will_not_take_is_refused_at_once(status: int) -> None:
    answers, server, _ = ask(in_turn(failed(status, "context too long")))
    assert "context too long" in detail_of(answers)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (failed(401, "bad key"), "check the key in the environment variable MY_KEY"),
        (failed(403, "not yours"), "check the key"),
        (failed(404, "no such model"), "no such model; check its address and model name"),
        (failed(404, "Not Found"), "check its address"),
        (failed(429, "pay first", code="insufficient_quota"), "the quota is used up"),
    ],
    ids=["401", "403", "404 model", "404 path", "quota"],
)
def test_what_cannot_be_mended_ends_the_work_with_a_remedy(reply: Reply, words: str) -> None:
    line = failure(in_turn(reply), api_key_env="MY_KEY")
    assert words in line
    assert line.startswith("http://127.0.0.1:")


def test_a_server_that_answers_nothing_any_more_ends_the_work() -> None:
    line = failure(in_turn(failed(503, "loading")), patience=0.6)
    assert "no answer for" in line
    assert "loading" in line
    assert "the same command again to continue" in line


def test_a_server_that_is_not_there() -> None:
    with serving(in_turn(said("x"))) as gone:
        url = gone.url
    client = EndpointCompletions("m", EndpointSection(endpoint=url), patience=0.3, first_wait=0.05)
    client.submit([request()])
    with pytest.raises(EngineError, match="no answer for"):
        for _ in range(100):
            client.step()
    client.close()


def test_an_address_where_something_else_answers() -> None:
    line = failure(in_turn(Reply(body=b"<html>Welcome</html>")))
    assert "does not answer like an OpenAI-compatible server" in line


def test_no_more_requests_are_under_way_than_allowed() -> None:
    def script(body: dict[str, Any], attempt: int) -> Reply:
        return Reply(body=said("x").body, delay=0.05)

    answers, server, _ = ask(script, *[request(f"q{n}") for n in range(20)], endpoint_in_flight=4)
    assert len(answers) == 20
    assert server.most_at_once == 4


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("response_format is not supported by this model", "response_format"),
        ("Unsupported value: 'temperature' does not support 0.7", "temperature"),
        ("unknown field: seed", "seed"),
        ("top_p is fixed for reasoning models", "top_p"),
    ],
)
def test_what_a_server_does_not_know_is_left_out_from_then_on(text: str, left_out: str) -> None:
    def script(body: dict[str, Any], attempt: int) -> Reply:
        return failed(400, text) if left_out in body else said("fine")

    asked = [request(f"q{number}", schema=SCHEMA) for number in range(6)]
    answers, server, _ = ask(script, *asked, endpoint_in_flight=1)
    assert {text_of(answers, one.key) for one in asked} == {"fine"}
    assert len(server.bodies) == 7, "one refusal teaches it"


def test_newer_servers_call_the_limit_otherwise() -> None:
    def script(body: dict[str, Any], attempt: int) -> Reply:
        if "max_tokens" in body:
            return failed(400, "'max_tokens' is not supported, use 'max_completion_tokens'")
        return said(str(body["max_completion_tokens"]))

    answers, _, _ = ask(script)
    assert text_of(answers) == "50"


@pytest.mark.parametrize(
    ("reply", "text", "finish"),
    [
        (said("long", "length"), "long", "length"),
        (said("<think>hm</think>\n\nYes."), "Yes.", "stop"),
        (said("hm, well</think>Yes."), "Yes.", "stop"),
        (said("<think>hm", "length"), "", "length"),
        (said(""), "", "stop"),
        (said("a\u2028b\x00c"), "a\u2028b\x00c", "stop"),
        (said("x" * 100_000), "x" * 100_000, "stop"),
    ],
)
def test_what_a_reply_becomes(reply: Reply, text: str, finish: Literal["stop", "length"]) -> None:
    answers, _, _ = ask(in_turn(reply))
    assert answers["Why?"] == Completion(key="Why?", text=text, finish_reason=finish)


@pytest.mark.parametrize(
    "reply", [said("no", "content_filter"), said(None, refusal="I cannot help with that.")]
)
def test_a_filtered_reply_is_a_refusal(reply: Reply) -> None:
    answers, _, _ = ask(in_turn(reply))
    assert "content filter" in detail_of(answers)


def test_the_key_is_never_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_WORD", KEY)
    echo = failed(400, f"Incorrect key provided: {KEY}")
    answers, _, _ = ask(in_turn(echo), api_key_env="MY_WORD")
    assert KEY not in detail_of(answers)
    _, _, told = ask(in_turn(failed(500, f"key {KEY} failed"), said("x")), api_key_env="MY_WORD")
    assert KEY not in told[0]
    assert KEY not in failure(in_turn(failed(401, f"bad {KEY}")), api_key_env="MY_WORD")
    assert KEY not in caplog.text


def test_a_key_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "schlüssel\nmit Zeile")
    with pytest.raises(ConfigError, match="MY_KEY: not a usable key"):
        EndpointCompletions(
            "m", EndpointSection(endpoint="http://localhost:1/v1", api_key_env="MY_KEY")
        )


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'sso-data\[openai\]'"):
        EndpointCompletions("m", EndpointSection(endpoint="http://localhost:1/v1"))


def test_two_requests_of_one_key_are_a_mistake_of_the_caller() -> None:
    with serving(in_turn(said("x"))) as server:
        client = EndpointCompletions("m", EndpointSection(endpoint=server.url))
        with pytest.raises(ValueError, match="the same key"):
            client.submit([request(), request()])
        client.close()


@pytest.fixture
def hanging() -> Iterator[EndpointCompletions]:
    """A client whose server will not answer for ten minutes."""
    with serving(in_turn(Reply(body={}, delay=600))) as server:
        client = EndpointCompletions("m", EndpointSection(endpoint=server.url))
        client.submit([request(f"q{number}") for number in range(8)])
        client.step()
        yield client


def test_closing_does_not_wait_for_what_is_under_way(hanging: EndpointCompletions) -> None:
    started = time.monotonic()
    assert hanging.step() == []
    assert time.monotonic() - started < 150, "a step waits for a moment only"
    hanging.close()
    hanging.close()
    assert time.monotonic() - started < 300, "the server answers after ten minutes"
    assert not [thread for thread in threading.enumerate() if thread.name == "sso-data endpoint"]
