"""The tokenizer of the tiny policy is exact: one token a world word, bytes for the rest."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sso_data.core.jinja import render
from sso_data.steering.principles import load_catalogue
from sso_data.world import catalogue_dir, policy_dir
from sso_data.world import lexicon as lex
from tools.tiny_world.dialogues import CLEAR, NOISY, sample_dialogue
from tools.tiny_world.tokenizer import PIECE, SPECIALS, build_tokenizer

TOKENIZER: Any = AutoTokenizer.from_pretrained(policy_dir())


def encode(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


def whole(text: str) -> bool:
    """Whether each word and number of the text is one token."""
    return len(encode(text)) == len(re.findall(PIECE, text))


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(encode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces ",
        "\n\n\t",
        "🦊 12345 007",
        "naïve — “quoted”",
        "a\r\nb",
        "<|end|>",
        "x .",
    ],
)
def test_awkward_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(encode(text)) == text


def test_the_shipped_tokenizer_is_the_one_that_is_built() -> None:
    assert TOKENIZER.get_vocab() == build_tokenizer().get_vocab()


def test_all_training_text_is_whole_words_and_splits_at_the_template() -> None:
    rng = random.Random(0)
    for mixture in (CLEAR, NOISY) * 200:
        dialogue = sample_dialogue(mixture, rng)
        ids = [TOKENIZER.bos_token_id]
        for message in (*dialogue.messages, {"role": "assistant", "content": dialogue.response}):
            assert whole(message["content"])
            opening = TOKENIZER.convert_tokens_to_ids(f"<|{message['role']}|>")
            ids += [opening, *encode(message["content"]), TOKENIZER.eos_token_id]
        messages = [*dialogue.messages, {"role": "assistant", "content": dialogue.response}]
        rendered = TOKENIZER.apply_chat_template(messages, tokenize=False)
        assert encode(rendered) == ids
        assert TOKENIZER.decode(ids) == rendered


def test_the_catalogue_is_whole_words() -> None:
    principles = load_catalogue(catalogue_dir()).principles
    assert set(principles) == set(lex.FEATURES)
    for principle in principles.values():
        texts = [principle.name, principle.adjectives.good, principle.adjectives.bad]
        texts += [principle.meaning, principle.good, principle.bad]
        texts += [*principle.paraphrases.good, *principle.paraphrases.bad]
        for text in texts:
            assert whole(text), text
            assert whole(" " + text), text
    assert whole(render("system.j2", texts=[p.good for p in principles.values()]))


def test_the_generation_prompt_opens_the_turn_with_one_bos() -> None:
    messages = [{"role": "user", "content": "Name some fruits."}]
    out = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    tokens = TOKENIZER.convert_ids_to_tokens(out["input_ids"])
    assert tokens == [
        "<|bos|>", "<|user|>", "Name", "Ġsome", "Ġfruits", ".", "<|end|>", "<|assistant|>"
    ]  # fmt: skip


def test_special_tokens_have_the_first_ids() -> None:
    assert [TOKENIZER.convert_tokens_to_ids(token) for token in SPECIALS] == [0, 1, 2, 3, 4, 5]
    assert TOKENIZER.pad_token_id == 0
    assert encode("Name") == TOKENIZER.encode("Name")


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(Exception, match="unknown role"):
        TOKENIZER.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)
