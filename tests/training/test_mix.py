"""Several preference sets as one: weights, held-out prompts, the same tokens for both kinds."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from sso_data.config.training import MixPart, RewardConfig
from sso_data.core.errors import InputError, TrainError
from sso_data.core.records import JsonRow
from sso_data.training.data import PairReader, held_out_prompts, mix_summary, repeated, reward_data
from tests.training.models import random_rows

TEXT = ("prompt", "chosen", "rejected")


def external(rows: list[JsonRow]) -> list[JsonRow]:
    """The same rows as any TRL-style set has them."""
    return [{name: row[name] for name in TEXT} for row in rows]


def test_our_rows_keep_their_ids_and_others_are_rendered_to_the_same(
    reader: PairReader, journal: list[JsonRow]
) -> None:
    config = RewardConfig(mix=(MixPart(data="other.jsonl"),))
    data = reward_data(journal[:6], [external(journal[:6])], reader, config)
    assert data.taken == [6, 6]
    for row, own, other in zip(journal, data.rows[:6], data.rows[6:], strict=False):
        assert own.completions["good"].tolist() == row["chosen_token_ids"]
        assert own.completions["bad"].tolist() == row["rejected_token_ids"]
        assert own.prompts["plain"].tolist() == other.prompts["plain"].tolist()
        for view in ("good", "bad"):
            assert own.completions[view].tolist() == other.completions[view].tolist()


def test_rendered_takes_the_text_of_our_rows(reader: PairReader, journal: list[JsonRow]) -> None:
    """A model of another family cannot have the ids: a hash that does not fit is not looked at."""
    strange = [row | {"prompt_hash_plain": "0" * 16} for row in journal[:4]]
    with pytest.raises(InputError, match="renders to different token ids"):
        reward_data(strange, [], reader, RewardConfig())
    data = reward_data(strange, [], reader, RewardConfig(tokens="rendered"))
    assert [row.completions["good"].tolist() for row in data.rows] == [
        row["chosen_token_ids"] for row in strange
    ]


def test_weights_say_how_often_rows_are_taken() -> None:
    rows = random_rows(10)
    ids = [row.id for row in repeated(rows, 2.5, seed=1)]
    assert len(ids) == 25
    assert sorted({ids.count(row.id) for row in rows}) == [2, 3]
    assert ids == [row.id for row in repeated(rows, 2.5, seed=1)]
    assert ids != [row.id for row in repeated(rows, 2.5, seed=2)]
    assert [row.id for row in repeated(rows, 1.0, seed=0)] == [row.id for row in rows]
    assert len(repeated(rows, 0.25, seed=0)) == 2


def test_no_prompt_is_on_both_sides(reader: PairReader, journal: list[JsonRow]) -> None:
    config = RewardConfig(own_weight=2.0, mix=(MixPart(data="a"), MixPart(data="b", weight=0.5)))
    others = [external(journal[:20]), external(journal[10:30])]
    data = reward_data(journal[:30], others, reader, config, eval_share=0.2, seed=5)
    train = {row.prompts["plain"].tobytes() for row in data.rows}
    held = {row.prompts["plain"].tobytes() for row in data.eval_rows}
    assert not train & held
    assert 14 <= len(data.eval_rows) <= 17
    assert data.taken[0] % 2 == 0
    assert len(data.rows) == sum(data.taken)
    assert mix_summary(data, config) == dict(zip(("own", "a", "b"), data.taken, strict=True))


def test_held_out_prompts_do_not_depend_on_the_order() -> None:
    rows = random_rows(30)
    held = held_out_prompts(rows, 0.2, seed=0)
    assert held == held_out_prompts(rows[::-1], 0.2, seed=0)
    assert len(held) == 6
    assert held != held_out_prompts(rows, 0.2, seed=1)
    assert not held_out_prompts(rows, 0.0, seed=0)
    assert not held_out_prompts(rows[:1], 0.5, seed=0)


def test_nothing_left_is_said(reader: PairReader, journal: list[JsonRow]) -> None:
    short = reader.sequences.model_copy(update={"max_length": 8})
    narrow = PairReader(
        tokenizer=reader.tokenizer,
        sequences=short,
        views=reader.views,
        eos_ids=reader.eos_ids,
        vocab_size=reader.vocab_size,
    )
    with pytest.raises(TrainError, match="of 3 rows 3 are too long"):
        reward_data(journal[:3], [], narrow, RewardConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        {"center": 1},
        {"center_rewards_coefficient": -1},
        {"mix": [{"data": "x", "weight": 0}]},
        {"mix": [{"data": ""}]},
    ],
    ids=json.dumps,
)
def test_what_has_no_meaning_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RewardConfig(**wrong)
