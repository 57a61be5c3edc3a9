"""Log-probs of tokens: those of a row's own totals are kept, and pieces are whole characters."""

from math import fsum

import pytest

from sso_data.config.run import load_config
from sso_data.core.records import Row
from sso_data.generation.tokens import pieces_of
from sso_data.runs.tokens import Cells
from tests.generation.scripted import TEMPLATE, ScriptedEngine, by_prompt_length, run
from tests.generation.test_pipeline import PROMPTS, agreed


@pytest.mark.parametrize("when", ["all", "needed"])
@pytest.mark.parametrize("sampled", [True, False])
def test_kept_tokens_are_those_of_the_totals(when: str, sampled: bool) -> None:
    kept: dict[str, tuple[Row, Cells]] = {}
    config = load_config(settings=[f"scoring.when={when}"])
    engine = ScriptedEngine(scores=lambda request: by_prompt_length(request) - 1)
    memory = run(
        PROMPTS,
        engine,
        config,
        earlier=agreed(sampled),
        keep=lambda row, cells: kept.update({row.id: (row, cells)}),
    )
    assert memory.rows == [row for row, _ in kept.values()]
    expected = -3.0 if sampled else -4.0
    for row, cells in kept.values():
        assert cells.keys() == row.logp.keys()
        for cell, nats in cells.items():
            assert len(nats) == row.responses[cell[1]].num_tokens
            assert fsum(nats) == pytest.approx(row.logp[cell]), cell
        assert row.logp.get(("good", "good"), expected) == expected


def test_nothing_more_is_asked_for_without() -> None:
    engine = ScriptedEngine()
    rows = run(PROMPTS, engine).rows
    assert not any(request.per_token for request in engine.requests)
    assert rows == run(PROMPTS, keep=lambda row, cells: None).rows


TEXTS = (
    *("plain words, two", "naïve café", "👩\u200d👩\u200d👧 und 🇩🇪!", "กำลัง"),
    *("e\u0301\u0301 x", "\ufffd a", ""),
)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_make_the_text_of_whole_characters(text: str) -> None:
    tokenizer = TEMPLATE.tokenizer
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    pieces = list(pieces_of(ids, TEMPLATE.text))
    assert "".join(piece for piece, _ in pieces) == text
    assert sum(size for _, size in pieces) == len(ids)
    assert pieces[-1] == ("", 1), "the end"
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece, _ in pieces)


def test_bytes_that_never_become_a_character_are_shown() -> None:
    tokenizer = TEMPLATE.tokenizer
    half = tokenizer.encode("é")[:1]
    assert TEMPLATE.text(half) == "\ufffd"
    pieces = list(pieces_of([*half * 20, *tokenizer.encode("a")], TEMPLATE.text))
    assert sum(size for _, size in pieces) == 21 and "".join(t for t, _ in pieces).endswith("a")
