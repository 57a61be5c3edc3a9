"""Completions by engines of ours: what is rendered, what comes back, and what a schema enforces."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from sso_data.chat import open_chat
from sso_data.chat.engine import EngineCompletions
from sso_data.chat.interface import Completion, CompletionRequest, Completions, answer
from sso_data.config.run import EngineConfig, ViewsConfig
from sso_data.config.section import EndpointSection
from sso_data.core.records import Message
from sso_data.engines.interface import EngineInfo, Refused, Request, Result, Sampled, SampleRequest
from sso_data.templating.chat_template import ChatTemplate
from sso_data.world import policy_dir, queries
from tests import tokenizers_of_the_field as field_tokenizers
from tests.engines.conftest import needs_vllm

SCHEMA = {
    "type": "object",
    "properties": {"good": {"type": "string"}, "bad": {"enum": ["no", "安全", 'a "b" \\ Ä']}},
    "required": ["good", "bad"],
    "additionalProperties": False,
}


def template_of(text: str = field_tokenizers.CHATML) -> ChatTemplate:
    return ChatTemplate(field_tokenizers.build(text), ViewsConfig(), today="2026-01-01")


class Saying:
    """An engine that says what a test wants, and keeps what it was asked."""

    def __init__(self, template: ChatTemplate, say: Callable[[SampleRequest], str]) -> None:
        self._template, self._say = template, say
        self.asked: list[SampleRequest] = []
        self._waiting: list[SampleRequest] = []
        self.info = EngineInfo(
            name="saying",
            version="1",
            device="none",
            dtype="none",
            context_tokens=120,
            max_in_flight=3,
        )

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            assert isinstance(request, SampleRequest)
            self.asked.append(request)
            self._waiting.append(request)

    def step(self) -> list[Result]:
        waiting, self._waiting = self._waiting, []
        return [self._result(request) for request in waiting]

    def close(self) -> None:
        raise AssertionError("the engine is its owner's")

    def _result(self, request: SampleRequest) -> Result:
        ids = self._template.tokenizer.encode(self._say(request), add_special_tokens=False)
        return Sampled(key=request.key, token_ids=tuple(ids), total_nats=-1.0, finish_reason="stop")


def request(text: str = "Why?", **changes: Any) -> CompletionRequest:
    fields: dict[str, Any] = {
        "key": "k",
        "messages": (Message(role="user", content=text),),
        "max_tokens": 40,
        "seed": 5,
    }
    return CompletionRequest(**fields | changes)


def asked_of(
    template: ChatTemplate, asked: CompletionRequest, say: str = "Because."
) -> tuple[Completion | Refused, Saying]:
    engine = Saying(template, lambda request: say)
    completions = EngineCompletions(engine, template, model="m@1")
    found = answer(completions, asked)
    completions.close()
    return found, engine


def test_messages_are_rendered_by_the_chat_template() -> None:
    template = template_of()
    messages = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello"),
        Message(role="user", content="Why?"),
    )
    found, engine = asked_of(template, request(messages=messages, temperature=0.2, top_p=0.5))
    assert found == Completion(key="k", text="Because.", finish_reason="stop")
    [sample] = engine.asked
    assert list(sample.prompt_ids) == template.ids(messages)
    assert (sample.max_tokens, sample.seed, sample.temperature, sample.top_p) == (40, 5, 0.2, 0.5)


def test_templates_without_a_system_role_get_it_in_the_first_turn() -> None:
    template = template_of(field_tokenizers.GEMMA)
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Why?"))
    found, engine = asked_of(template, request(messages=messages))
    assert isinstance(found, Completion)
    assert list(engine.asked[0].prompt_ids) == template.ids(messages)


def test_answers_are_shorter_where_the_context_is_and_refused_where_there_is_none() -> None:
    template = template_of()
    room = 120 - len(template.ids((Message(role="user", content="why " * 20),)))
    assert 16 <= room < 40
    _, engine = asked_of(template, request("why " * 20))
    assert engine.asked[0].max_tokens == room
    found, engine = asked_of(template, request("why " * 200))
    assert isinstance(found, Refused)
    assert "tokens, the context 120" in found.detail
    assert not engine.asked


def test_what_cannot_be_rendered_is_refused() -> None:
    messages = (Message(role="Nobody!", content="x"), Message(role="user", content="y"))
    found, _ = asked_of(template_of(), request(messages=messages))
    assert isinstance(found, Refused)
    assert "Nobody" in found.detail


@pytest.mark.parametrize(
    ("said", "text", "finish"),
    [
        ("<think>hm</think> Yes.", "Yes.", "stop"),
        ("<think>hm, well", "", "length"),
        ("Yes.", "Yes.", "stop"),
    ],
)
def test_thinking_is_no_part_of_an_answer(said: str, text: str, finish: str) -> None:
    found, _ = asked_of(template_of(), request(), said)
    assert found == Completion(key="k", text=text, finish_reason=finish)  # type: ignore[arg-type]


def test_a_template_that_opens_the_thinking_gets_no_schema() -> None:
    template = template_of(field_tokenizers.OPENS_THINKING)
    found, engine = asked_of(template, request(schema=SCHEMA), "hm</think>Yes.")
    assert found == Completion(key="k", text="Yes.", finish_reason="stop")
    assert engine.asked[0].schema is None
    found, _ = asked_of(template, request(), "hm, well")
    assert found == Completion(key="k", text="", finish_reason="length")


def test_a_schema_keeps_the_order_of_its_keys() -> None:
    _, engine = asked_of(template_of(), request(schema=SCHEMA))
    text = engine.asked[0].schema
    assert text is not None
    assert json.loads(text) == SCHEMA
    assert text.index('"good"') < text.index('"bad"')


@pytest.fixture(scope="module")
def real() -> Iterator[EngineCompletions]:
    """The tiny policy in the transformers engine."""
    config = EngineConfig(name="transformers", isolation="inline", dtype="float32", threads=1)
    with open_chat(str(policy_dir()), EndpointSection(), config, ViewsConfig()) as model:
        assert isinstance(model, EngineCompletions)
        yield model


def test_the_tiny_policy_answers_its_queries_with_what_was_sampled(real: EngineCompletions) -> None:
    """The same seed gives the same text, whatever else is under way."""
    asked = [request(text, key=f"q{n}", max_tokens=60) for n, text in enumerate(queries(6, seed=2))]
    alone = answer(real, asked[0])
    real.submit(asked)
    together: dict[str, Completion | Refused] = {}
    while len(together) < len(asked):
        together |= {one.key: one for one in real.step()}
    assert together["q0"] == alone
    assert isinstance(alone, Completion)
    assert len(alone.text.split()) > 3
    assert "<|" not in alone.text
    assert real.model.startswith(f"{policy_dir()}@")
    assert real.holds_control("a <|end|> b")
    assert not real.holds_control("a < b")


@pytest.mark.vllm
@needs_vllm[1]
def test_vllm_holds_answers_to_a_schema() -> None:
    """With the white space that models write, with other requests beside it, and repeatably."""
    config = EngineConfig(
        name="vllm", isolation="inline", dtype="float32", threads=1, max_model_len=512,
        max_num_seqs=8, vllm={"kv_cache_memory_bytes": 64 << 20},
    )  # fmt: skip
    array = {
        "type": "array",
        "items": {"type": "string", "enum": ["Safety", "Ärger", "安全"]},
        "minItems": 2,
        "maxItems": 2,
    }
    texts = queries(8, seed=3)
    with open_chat(str(policy_dir()), EndpointSection(), config, ViewsConfig()) as model:
        asked = [
            *(request(t, key=f"o{n}", seed=n, schema=SCHEMA) for n, t in enumerate(texts)),
            *(request(t, key=f"a{n}", seed=n, schema=array) for n, t in enumerate(texts)),
            *(request(t, key=f"free{n}", seed=n) for n, t in enumerate(texts)),
            request(key="broken", schema={"type": "nonsense"}),
        ]
        found = _all(model, asked)
        again = _all(model, asked)
        free = _all(model, [one for one in asked if one.key.startswith("free")])
    assert found == again
    broken = found["broken"]
    assert isinstance(broken, Refused)
    assert broken.detail.endswith(
        'no grammar of the schema: RuntimeError: Unsupported type "nonsense"'
    )
    for n in range(len(texts)):
        chosen = found[f"a{n}"]
        assert isinstance(chosen, Completion)
        names = json.loads(chosen.text)
        assert len(names) == 2
        assert set(names) <= {"Safety", "Ärger", "安全"}
        assert ", " in chosen.text
        held = found[f"o{n}"]
        assert isinstance(held, Completion)
        if held.finish_reason == "stop":
            assert list(json.loads(held.text)) == ["good", "bad"]
        assert held.text.startswith('{"good": "')
        assert found[f"free{n}"] == free[f"free{n}"], "what is free is as if nobody were held"


def _all(model: Completions, asked: Sequence[CompletionRequest]) -> dict[str, Completion | Refused]:
    model.submit(asked)
    found: dict[str, Completion | Refused] = {}
    while len(found) < len(asked):
        found |= {one.key: one for one in model.step()}
    return found
