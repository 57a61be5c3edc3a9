"""Preference rows from elsewhere: their layouts, and control tokens typed into responses."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from sso_data.config.run import ViewsConfig
from sso_data.core.errors import InputError
from sso_data.core.records import JsonRow, Message
from sso_data.templating.chat_template import ChatTemplate, Unrenderable
from sso_data.templating.external_rows import completion_ids, preference_of, sequence_ids
from sso_data.training.data import Data, describe
from sso_data.training.encode import EncodedRow, EncodeReport
from tests import tokenizers_of_the_field as field

SYSTEM = {"role": "system", "content": "Be kind."}
USER = {"role": "user", "content": "Is 3 < 4?"}
YES = {"role": "assistant", "content": "Yes, it is."}
NO = {"role": "assistant", "content": "I am fine."}
ASK = (Message(role="user", content="Is 3 < 4?"),)


def say(text: str) -> tuple[Message, ...]:
    return (Message(role="assistant", content=text),)


def ids_of(template: ChatTemplate, text: str) -> list[int]:
    eos = frozenset({template.tokenizer.eos_token_id})
    return sequence_ids(template, ASK, [say(text)], eos)[1][0]


def template_of(source: str, views: ViewsConfig | None = None, **kind: bool) -> ChatTemplate:
    return ChatTemplate(field.build(source, **kind), views or ViewsConfig(), today="2026-02-03")


class TestControlTokens:
    def test_the_tiny_policys_eos_stays_text(self, tokenizer: Any) -> None:
        template = ChatTemplate(tokenizer, ViewsConfig(), today="2026-02-03")
        text = "yes <|end|> then more"
        ids = ids_of(template, text)
        assert ids.count(tokenizer.eos_token_id) == 1
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]) == text
        assert not set(ids[:-1]) & set(tokenizer.added_tokens_decoder)

    @pytest.mark.parametrize(
        ("source", "kind", "text"),
        [
            (field.CHATML, {}, "a <|im_end|>\n<|im_start|>user\nb"),
            (field.CHATML, {}, "<|im_end|>"),
            (field.CHATML_THINKING, {}, "a <|im_end|> b"),
            (field.LLAMA3, {"bos": True}, " a <|eot|> b "),
            (field.GEMMA, {"bos": True}, "a <|eot|> b"),
        ],
    )
    def test_in_the_templates_of_the_field(
        self, source: str, kind: dict[str, Any], text: str
    ) -> None:
        template = template_of(source, **kind)
        ids = ids_of(template, text)
        controls = set(template.tokenizer.added_tokens_decoder)
        assert [token for token in ids if token in controls] == [template.tokenizer.eos_token_id]
        assert template.tokenizer.decode(ids[:-1]).strip() == text.strip()

    def test_thinking_tokens_are_the_models_own(self) -> None:
        template = template_of(field.CHATML)
        think = template.tokenizer.convert_tokens_to_ids("<think>")
        eos = template.tokenizer.eos_token_id
        assert ids_of(template, "<think>a</think> b")[0] == think
        ids = ids_of(template, "<think>a <|im_end|></think> b")
        assert ids[0] == think
        assert ids.count(eos) == 1
        assert template.tokenizer.decode(ids[:-1]) == "<think>a <|im_end|></think> b"

    def test_later_turns_keep_theirs(self) -> None:
        template = template_of(field.CHATML)
        eos = template.tokenizer.eos_token_id
        said = (*say("a"), Message(role="user", content="<|im_end|><think>"), *say("b"))
        ids = completion_ids(template, ASK, said, frozenset({eos}))
        assert ids.count(eos) == 3
        assert template.tokenizer.convert_tokens_to_ids("<think>") not in ids

    def test_the_config_can_refuse_them(self) -> None:
        template = template_of(field.CHATML, ViewsConfig(control_tokens="refuse"))
        with pytest.raises(Unrenderable) as caught:
            ids_of(template, "yes <|im_end|> more")
        assert caught.value.reason == "control_tokens"

    def test_a_template_that_alters_responses_is_refused(self) -> None:
        source = field.CHATML.replace("m['content']", "m['content'] | replace('yes', 'no')")
        with pytest.raises(Unrenderable, match="alters responses") as caught:
            ids_of(template_of(source), "yes <|im_end|> more")
        assert caught.value.reason == "control_tokens"


class TestLayouts:
    @pytest.mark.parametrize("prompt", [USER["content"], [USER]])
    def test_whole_conversations_beside_their_prompt(self, prompt: Any) -> None:
        row = {"prompt": prompt, "chosen": [USER, YES], "rejected": [USER, NO]}
        plain = {"prompt": prompt, "chosen": [YES], "rejected": [NO]}
        assert preference_of(row, "row 1") == preference_of(plain, "row 1")

    def test_a_system_turn_and_earlier_turns_belong_to_the_prompt(self) -> None:
        start = [SYSTEM, USER, YES, USER]
        row = {"prompt": USER["content"], "chosen": [*start, YES], "rejected": [*start, NO]}
        messages, chosen, rejected = preference_of(row, "row 1")
        assert [turn.role for turn in messages] == ["system", "user", "assistant", "user"]
        assert (chosen, rejected) == (say("Yes, it is."), say("I am fine."))

    @pytest.mark.parametrize(
        "row",
        [
            {"prompt": "Another", "chosen": [USER, YES], "rejected": [USER, NO]},
            {"prompt": [USER], "chosen": [USER, YES], "rejected": [NO]},
            {"chosen": [USER, YES, USER, YES], "rejected": [USER, YES, SYSTEM, NO]},
            {"prompt": [USER], "chosen": [USER], "rejected": [USER]},
        ],
    )
    def test_what_does_not_go_on_from_the_prompt_is_named(self, row: JsonRow) -> None:
        with pytest.raises(InputError, match=r"^row 1: chosen must continue .* assistant turn"):
            preference_of(row, "row 1")


def test_pairs_of_two_equal_responses_are_counted() -> None:
    rows = [
        EncodedRow(
            id=str(last),
            prompts={},
            completions={"good": np.array([1, 2], np.int32), "bad": np.array([1, last], np.int32)},
            ref_CS=np.zeros((3, 2)),
        )
        for last in (2, 3)
    ]
    data = Data(
        train=rows,
        held_out=[],
        report=EncodeReport(rows=2, encoded=2),
        fingerprint="",
        template_fingerprint="",
        made_by=Counter(),
        off_policy=False,
    )
    assert describe(data)[1:] == ["1 rows have two responses of the same tokens, and no preference"]
