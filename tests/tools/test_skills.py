"""The policy chooses features, writes principles and makes queries; its training data fits."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from sso_data.world import lexicon as lex
from sso_data.world import policy_dir, queries, score, skill_templates_dir
from sso_data.world.query import Query, parse
from tools.tiny_world.dialogues import CLEAR, FRAMES, NOISY, sample_dialogue, system_message
from tools.tiny_world.guidelines import feature_pairs, short_catalogue
from tools.tiny_world.measure_skills import (
    augmenting,
    choosing,
    main,
    read_choice,
    read_principle,
    writing,
)
from tools.tiny_world.sampling import Heat, Policy, sample
from tools.tiny_world.skills import (
    OPERATIONS,
    augment_prompt,
    choose_prompt,
    draw_choice,
    draw_principle,
    draw_query,
    fits,
    reword,
    write_prompt,
)
from tools.tiny_world.tokenizer import JSON_PIECES, PIECE, build_tokenizer

PRODUCT = Heat()
SUM = "Tom has 7 pens and gets 5 more. How many pens does Tom have now?"
TIGER = "Tell me about the tiger."


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.set_num_threads(1)
    return Policy.load(policy_dir())


# --- what it learns from ------------------------------------------------------------------------


def offered(prompt: str) -> list[str]:
    found = re.search(r"^Features: (.*)\.$", prompt, re.MULTILINE)
    assert found
    return found[1].split(", ")


def test_drawn_choices_are_on_offer_and_apply() -> None:
    rng = random.Random(0)
    seen = set()
    for _ in range(500):
        prompt, answer = draw_choice(rng)
        names = json.loads(answer)
        query = parse(prompt.splitlines()[-2].removeprefix("Question: "))
        assert f"Choose {len(names)} features" in prompt
        assert len(set(names)) == len(names) > 0
        assert names == sorted(names)
        assert set(names) <= set(offered(prompt)) & set(query.features)
        seen |= {(query.kind, name) for name in names}
    assert seen == {(kind, name) for kind in lex.KINDS for name in lex.features_of(kind)}


def test_drawn_principles_are_wordings_of_the_feature_for_the_query() -> None:
    rng = random.Random(0)
    named = 0
    for _ in range(300):
        prompt, answer = draw_principle(rng)
        *_, feature, question, _ = prompt.splitlines()
        query = parse(question.removeprefix("Question: "))
        pair = read_principle(answer)
        assert pair
        if feature.startswith("Feature: "):
            named += 1
            assert pair in feature_pairs(feature.removeprefix("Feature: "), query)
        else:
            assert any(pair in feature_pairs(name, query) for name in query.features)
    assert 240 <= named < 300


def test_drawn_queries_are_what_the_operation_asks_for_and_never_held_out() -> None:
    rng = random.Random(0)
    held_out = set(queries(400, seed=1, held_out=True))
    for _ in range(600):
        prompt, answer = draw_query(rng)
        seed = prompt.splitlines()[-2].removeprefix("Question: ")
        operation = next(one for one in OPERATIONS if augment_prompt([seed], one)[:20] in prompt)
        assert fits(seed, answer, operation)
        assert answer not in held_out


def test_a_quarter_of_the_training_data_is_other_skills() -> None:
    rng = random.Random(0)
    mixed = [sample_dialogue(mixture, rng) for mixture in (CLEAR, NOISY) for _ in range(1000)]
    skilled = sum("Question:" in dialogue.messages[-1]["content"] for dialogue in mixed)
    assert 0.2 <= skilled / len(mixed) <= 0.28


@pytest.mark.parametrize(
    ("operation", "text", "fitting"),
    [
        ("rephrase", "How many pens does Tom have with 7 and then 5 more?", True),
        ("rephrase", "How many pens does Tom have with 7 and then 6 more?", False),
        ("rephrase", SUM, False),
        ("evolve", "How many pens does Tom have with 7 and then 6 more?", True),
        ("evolve", TIGER, False),
        ("topic", TIGER, True),
        ("topic", "How many keys does Ann have with 2 and then 2 more?", False),
        ("harder", "How many keys does Ann have with 8 and then 9 more?", True),
        ("harder", "How many keys does Ann have with 2 and then 2 more?", False),
        ("easier", "How many keys does Ann have with 2 and then 2 more?", True),
        ("easier", TIGER, False),
        ("new", TIGER, True),
        ("new", "Tell me about the unicorn.", False),
    ],
)
def test_what_an_operation_may_make_of_a_sum(operation: Any, text: str, fitting: bool) -> None:
    assert fits(SUM, text, operation) is fitting


@pytest.mark.parametrize(
    ("operation", "text", "fitting"),
    [
        ("harder", "Hello. Can you describe the tiger? Thank you.", True),
        ("harder", "Hello. Can you describe the tiger?", False),
        ("harder", "Hello. Can you describe the wolf? Thank you.", False),
        ("easier", "Can you describe the tiger?", True),
        ("easier", "Can you describe the tiger? Thank you.", False),
        ("easier", "Can you describe the wolf?", False),
    ],
)
def test_what_is_harder_and_easier_about_a_thing(operation: Any, text: str, fitting: bool) -> None:
    assert fits(TIGER, text, operation) is fitting


def test_rewording_asks_the_same() -> None:
    rng = random.Random(0)
    for text in queries(50, seed=3):
        assert parse(reword(parse(text), rng)).fields == parse(text).fields


# --- the wordings -------------------------------------------------------------------------------


def entities() -> list[Query]:
    return [parse(text) for text in (SUM, TIGER, "How do I make tea?", "Name some fruits.")]


def test_no_wording_belongs_to_two_features_or_sides() -> None:
    for query in entities():
        wordings = [
            text for name in lex.FEATURES for pair in feature_pairs(name, query) for text in pair
        ]
        assert len(wordings) == len(set(wordings)) == 2 * 5 * len(lex.FEATURES)


def test_both_sides_of_a_wording_are_of_similar_length() -> None:
    for name, query in product(lex.FEATURES, entities()):
        for pair in feature_pairs(name, query):
            assert max(map(len, pair)) <= 1.6 * min(map(len, pair)), pair


def test_no_wording_repeats_five_words_of_the_query() -> None:
    for text in queries(100, seed=4):
        words = re.findall(r"\w+", text.lower())
        runs = {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}
        query = parse(text)
        for name in query.features:
            for pair in feature_pairs(name, query):
                for side in pair:
                    said = " ".join(re.findall(r"\w+", side.lower()))
                    assert not any(run in said for run in runs), (text, side)


# --- templates and tokens -----------------------------------------------------------------------


def test_prompts_and_answers_are_whole_words_and_json_is_cheap() -> None:
    tokenizer = build_tokenizer()
    rng = random.Random(1)
    draws: tuple[Callable[[random.Random], tuple[str, str]], ...] = (
        draw_choice,
        draw_principle,
        draw_query,
    )
    for draw in draws * 100:
        for text in draw(rng):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert len(ids) == len(re.findall(PIECE, text)), text
            assert tokenizer.decode(ids) == text
    for piece in JSON_PIECES:
        assert len(tokenizer.encode(piece, add_special_tokens=False)) == 1
    assert len(tokenizer.encode('["Safety", "Concision"]', add_special_tokens=False)) == 5


def test_the_templates_replace_the_shipped_ones_by_name() -> None:
    names = {path.name for path in skill_templates_dir().iterdir()}
    assert names == {"choose.j2", "write.j2", "augment.j2"}


def test_prompts_show_the_last_turn_and_what_is_on_offer() -> None:
    features = [short_catalogue()[name] for name in ("Safety", "Concision")]
    prompt = choose_prompt(features, 1, TIGER)
    assert offered(prompt) == ["Safety", "Concision"]
    assert prompt.endswith(f"Question: {TIGER}\nAnswer:")
    assert "Feature: Safety\n" in write_prompt(features[0], TIGER)
    assert write_prompt(None, TIGER).count("Feature: ") == 1
    prompt = augment_prompt([SUM, TIGER], "some other way")
    assert prompt.startswith("Ask something new.")
    assert prompt.endswith(f"Question: {SUM}\nQuestion: {TIGER}\nNew question:")


@pytest.mark.parametrize(
    "answer", ["", "Safety", '["Safety"]', '["Safety", "Safety"]', '["Safety", 1]', '{"a": 1}']
)
def test_a_bad_choice_is_none(answer: str) -> None:
    assert read_choice(answer, 2, "thing") == []


def test_a_choice_must_apply() -> None:
    assert read_choice('["Safety", "Accuracy"]', 2, "thing") == ["Safety", "Accuracy"]
    assert read_choice('["Safety", "Accuracy"]', 2, "sum") == []


@pytest.mark.parametrize("answer", ["", "[]", '{"good": "x"}', '{"good": "x", "bad": "y", "z": 1}'])
def test_a_bad_principle_is_none(answer: str) -> None:
    assert read_principle(answer) is None


# --- what it can --------------------------------------------------------------------------------


def test_it_chooses_features_that_apply(policy: Policy) -> None:
    summary = choosing(policy, 200, seed=7, heat=PRODUCT)
    assert summary["applies"]["mean"] >= 0.9
    assert summary["pairs_seen"]["mean"] >= 0.5


def test_it_writes_principles_that_it_obeys(policy: Policy) -> None:
    summary = writing(policy, 200, seed=7, heat=PRODUCT)
    assert summary["valid"]["mean"] >= 0.97
    assert summary["known"]["mean"] >= 0.8
    assert summary["good"]["mean"] >= 0.8
    assert summary["bad"]["mean"] <= 0.3
    assert summary["good_beats_bad"]["mean"] >= 0.85


@pytest.mark.parametrize("heat", [PRODUCT, Heat(temperature=1.0, top_p=1.0)])
def test_it_makes_queries_of_the_world(policy: Policy, heat: Heat) -> None:
    for operation, summary in augmenting(policy, 100, seed=7, heat=heat).items():
        assert summary["parses"]["mean"] >= (0.95 if heat is PRODUCT else 0.8), operation
        assert summary["fits"]["mean"] >= 0.5, operation
        assert summary["distinct"]["mean"] >= 0.5, operation


def test_one_seed_gives_many_queries(policy: Policy) -> None:
    prompts = [[{"role": "user", "content": augment_prompt([TIGER], "topic")}]] * 100
    texts = {one.text for one in sample(policy, prompts, seed=1, heat=Heat(temperature=1.0))}
    assert len(texts) >= 60
    assert len({parse(text).kind for text in texts if fits(TIGER, text, "topic")}) == 3


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(name, marks=[pytest.mark.long] if i else [])
        for i, (name, _) in enumerate(FRAMES)
    ],
)
def test_every_wording_steers_in_every_frame(policy: Policy, frame: str) -> None:
    cells = []
    for text in queries(8, seed=9, held_out=True):
        query = parse(text)
        for name in query.features:
            for wording, pair in enumerate(feature_pairs(name, query)):
                cells += [(text, name, wording, side, pair[side]) for side in (0, 1)]
    prompts = [
        [
            {"role": "system", "content": system_message((guideline,), frame)},
            {"role": "user", "content": text},
        ]
        for text, *_, guideline in cells
    ]
    scores: dict[tuple[int, int], list[float]] = {}
    for (text, name, wording, side, _), one in zip(
        cells, sample(policy, prompts, seed=2), strict=True
    ):
        scores.setdefault((wording, side), []).append(score(text, one.text).features[name])
    for wording in range(5):
        good, bad = (sum(scores[wording, side]) / len(scores[wording, side]) for side in (0, 1))
        assert good - bad >= 0.35, (frame, wording)


def test_the_measuring_command_prints_its_numbers(
    capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    assert main(["-n", "4", "--out", str(tmp_path / "skills.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "skills.json").read_text())
    assert set(printed["augment"]) == set(OPERATIONS)
