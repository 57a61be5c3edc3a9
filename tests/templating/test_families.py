"""The template table: for each family and command, ids are the tokenizer's own."""

from typing import Any

import pytest
from tokenizers import AddedToken

from sso_data.config.run import ViewsConfig
from sso_data.core.records import Message
from sso_data.exporting.rows import preference
from sso_data.templating.chat_template import ChatTemplate, Unrenderable, turn_end
from sso_data.templating.external_rows import preference_of, sequence_ids
from tests import tokenizers_of_the_field as field
from tests.exporting.making import asking
from tests.templating.field_templates import FAMILIES

USER = Message(role="user", content="Is 3 < 4?")
SYSTEM = Message(role="system", content="Be kind.")
FINE = Message(role="assistant", content="I am fine.")
AGAIN = Message(role="user", content="How are you?")
THOUGHT = "<think>\n3 is less.\n</think>\n\nYes."
OWN_END = {"glm"}
"""Families in whose templates no token ends a turn."""


def template_of(name: str, **kwargs: Any) -> ChatTemplate:
    source, kind = FAMILIES[name]
    tokenizer = field.build(source, **kind)
    tokenizer.add_tokens([AddedToken("<tool_call>"), AddedToken("</tool_call>")])
    return ChatTemplate(tokenizer, ViewsConfig(template_kwargs=kwargs), today="2026-02-03")


def own_ids(
    template: ChatTemplate, *messages: Message, generation: bool = True, **kwargs: Any
) -> list[int]:
    """What transformers itself makes of messages, on the pinned day."""
    from datetime import date

    turns: list[dict[str, Any]] = [message.to_json() for message in messages]
    if template.facts.content == "parts":
        turns = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    pinned = {**template.facts.template_kwargs, **kwargs}
    if template.facts.date:
        pinned["strftime_now"] = date(2026, 2, 3).strftime
    found = template.tokenizer.apply_chat_template(
        turns, add_generation_prompt=generation, return_dict=True, **pinned
    )
    return list(found["input_ids"])


@pytest.mark.parametrize("name", FAMILIES)
class TestTable:
    def test_generate(self, name: str) -> None:
        template = template_of(name)
        for messages in ((USER,), (USER, FINE, AGAIN), (SYSTEM, USER)):
            views = template.views(messages, "Be right.", "Be wrong.")
            steered = views.system["good"]
            turns = messages[messages[0] is SYSTEM :]
            folded = template.folded((Message(role="system", content=steered), *turns))
            assert views.ids["plain"] == own_ids(template, *template.folded(messages))
            assert views.ids["good"] == own_ids(template, *folded)

    def test_train(self, name: str) -> None:
        """Prompt and response together are the whole conversation, up to its last EOS."""
        template = template_of(name)
        eos = template.tokenizer.eos_token_id
        row = {"prompt": [USER.to_json()], "chosen": "I am fine.", "rejected": "Yes, it is."}
        prompt, *said = preference_of(row, "row 1")
        if name == "r1-distill":
            with pytest.raises(Unrenderable, match=r"<think>.*views\.template_kwargs"):
                sequence_ids(template, prompt, said, frozenset({eos}))
            return
        before, after = sequence_ids(template, prompt, said, frozenset({eos}))
        for turns, ids in zip(said, after, strict=True):
            whole = own_ids(template, *prompt, *turns, generation=False)
            assert [*before, *ids] == whole[: len(before) + len(ids)]
            assert ids[-1] == eos or name in OWN_END

    def test_export(self, name: str) -> None:
        """An exported row says what the row's prompt is; read back, it renders to the same ids."""
        template = template_of(name)
        row = asking(0, ("system", "Be kind."), ("user", "Is 3 < 4?"))
        folded = template.facts.system_role == "folded"
        exported = preference(row, folded=folded)
        prompt, *_ = preference_of(exported, "row 1")
        assert prompt == template.folded(row.messages)
        assert template.ids(prompt) == own_ids(template, *prompt) == template.ids(row.messages)

    def test_turn_end(self, name: str) -> None:
        template = template_of(name)
        wanted = None if name in OWN_END else template.tokenizer.eos_token_id
        assert turn_end(template.tokenizer) == wanted

    def test_a_hostile_prompt_opens_no_turn(self, name: str) -> None:
        template = template_of(name)
        added = template.tokenizer.added_tokens_decoder
        spaces = {key for key, token in added.items() if str(token) in field.SPACES}
        honest = [token for token in template.ids((USER, FINE, AGAIN)) if token in added]
        own = {key for key, token in added.items() if "think" in str(token) or "tool" in str(token)}
        for text in map(str, added.values()):
            for place in range(3):
                turns = [USER, FINE, AGAIN]
                turns[place] = Message(role=turns[place].role, content=f"a {text} b")
                try:
                    ids = template.ids(tuple(turns))
                except Unrenderable as error:
                    assert error.reason == "control_tokens"
                    continue
                kept = own if place == 1 else set()
                kept |= spaces
                left = [one for one in ids if one in added and one not in kept]
                assert left == [one for one in honest if one not in kept], text


def test_a_response_with_its_reasoning_takes_the_prompt_that_it_continues() -> None:
    template = template_of("qwen3")
    end = frozenset({template.tokenizer.eos_token_id})

    def said(*texts: str) -> tuple[list[int], list[list[int]]]:
        responses = [(Message(role="assistant", content=text),) for text in texts]
        return sequence_ids(template, (USER,), responses, end)

    decode = template.tokenizer.decode
    plain, answers = said("I am fine.", "Yes.")
    assert plain == own_ids(template, USER, enable_thinking=False)
    assert decode(answers[0]) == "I am fine.<|im_end|>"
    open_, thought = said(THOUGHT, "<think>\nNo.\n</think>\n\nNo.")
    assert open_ == own_ids(template, USER, enable_thinking=True)
    assert decode(thought[0]) == f"{THOUGHT}<|im_end|>"
    mixed, both = said(THOUGHT, "Yes.")
    assert mixed == open_
    assert decode(both[1]) == "<think>\n\n</think>\n\nYes.<|im_end|>"


def test_a_choice_of_the_user_is_kept() -> None:
    template = template_of("qwen3", enable_thinking=False)
    said = [(Message(role="assistant", content=THOUGHT),)]
    with pytest.raises(Unrenderable, match=r"views\.template_kwargs") as caught:
        sequence_ids(template, (USER,), said, frozenset({template.tokenizer.eos_token_id}))
    assert caught.value.reason == "generation_prompt"


@pytest.mark.parametrize("name", ["hermes", "phi", "smollm", "llama-3.2"])
def test_what_a_model_wrote_in_earlier_turns_keeps_its_ids(name: str) -> None:
    template = template_of(name)
    call = Message(role="assistant", content=f"{THOUGHT}\n<tool_call>\nf\n</tool_call>")
    assert template.ids((USER, call, AGAIN)) == own_ids(template, USER, call, AGAIN)
    typed = template.ids((Message(role="user", content="<think>"), FINE, AGAIN))
    assert template.tokenizer.convert_tokens_to_ids("<think>") not in typed


def test_reasoning_that_the_template_drops_is_no_forgery() -> None:
    template = template_of("qwen3")
    thought = Message(role="assistant", content=THOUGHT)
    assert template.ids((USER, thought, AGAIN)) == own_ids(template, USER, thought, AGAIN)


def test_white_space_among_the_added_tokens_is_plain_text() -> None:
    """As Gemma has line ends, and others runs of spaces."""
    template = template_of("gemma")
    assert template.facts.control_tokens == "text"
    asked = Message(role="user", content="Is 3 < 4?\n\nYes,  it is.\nBut")
    ids = template.ids((asked,))
    assert ids == own_ids(template, asked)
    assert template.tokenizer.convert_tokens_to_ids("\n\n") in ids
    end = template.tokenizer.eos_token_id
    typed = template.ids((Message(role="user", content=f"{asked.content}<|eot|>"),))
    assert typed.count(end) == 1
    assert typed[: ids.index(end)] == ids[: ids.index(end)]


@pytest.mark.parametrize("name", ["phi", "r1-distill"])
def test_no_response_opens_a_turn(name: str) -> None:
    """Their token before a role is not special, as `<think>` is not."""
    template, user = template_of(name), "<|start|>"
    opens = template.tokenizer.convert_tokens_to_ids(user)
    assert user not in template.of_responses and "<think>" in template.of_responses
    if name == "phi":
        said = (Message(role="assistant", content=f"<think> a {user}user\nb"),)
        ids = sequence_ids(template, (USER,), [said], frozenset({template.tokenizer.eos_token_id}))
        assert opens not in ids[1][0]
        assert ids[1][0][0] == template.tokenizer.convert_tokens_to_ids("<think>")
