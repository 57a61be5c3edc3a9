"""Near-duplicates: measured on pairs of queries, and against comparing everything with all."""

import os
import random
import subprocess
import sys
from itertools import pairwise

import pytest

from sso_data.augmentation.duplicates import (
    NearDuplicateIndex,
    rows_of_bands,
    shingles,
)
from sso_data.config.augmentation import DuplicatesConfig
from sso_data.core.words import normal

SAME_WISH = [
    ("How do I make tea?", "how do I make  tea"),
    ("Explain photosynthesis to a child.", "Please explain photosynthesis to a child."),
    (
        "Write a short poem about the first day of school.",
        "Write a short poem about a first day of school.",
    ),
    (
        "What are the main causes of inflation, and how can a government fight them?",
        "What are the main causes of inflation and how could a government fight them?",
    ),
    (
        "Give me a recipe for vegetable soup that takes under 30 minutes.",
        "Can you give me a recipe for vegetable soup that takes under 30 minutes?",
    ),
    (
        "I have two cats and one of them has stopped eating. What should I do?",
        "I have two cats, and one of them stopped eating. What should I do now?",
    ),
    (
        "Schreibe ein kurzes Gedicht über den ersten Schultag.",
        "Schreib ein kurzes Gedicht über den ersten Schultag!",
    ),
    (
        "Write a Python function that returns the n-th Fibonacci number.",
        "Write a Python function which returns the n-th Fibonacci number.",
    ),
    (
        "What is the difference between weather and climate?",
        "Tell me: what is the difference between weather and climate?",
    ),
    (
        "Summarise the plot of Hamlet in three sentences.",
        "Summarize the plot of Hamlet in three sentences.",
    ),
]
OTHER_WISH = [
    ("How do I make tea?", "How do I make bread?"),
    ("Explain photosynthesis to a child.", "Explain gravity to a child."),
    (
        "Write a short poem about the first day of school.",
        "Write a short poem about the last day of summer.",
    ),
    ("List five ways to save water at home.", "List five ways to save energy at work."),
    (
        "Compare the economic policies of Japan and Germany after 1945.",
        "Compare the school systems of Japan and Germany today.",
    ),
    ("写一首关于开学第一天的短诗。", "写一首关于秋天的短诗。"),
    (
        "Write a Python function that returns the n-th Fibonacci number.",
        "Write a Python function that returns the n-th prime number.",
    ),
    ("Which planets have rings?", "Which planets have moons?"),
    ("What is the capital of Peru?", "What is the capital of Chile?"),
    (
        "Translate to French: I would like a room with a view.",
        "Translate to French: Where is the nearest station?",
    ),
]


def neighbours(**keys: float) -> NearDuplicateIndex:
    return NearDuplicateIndex(DuplicatesConfig.model_validate(keys))


@pytest.mark.parametrize(("first", "second"), SAME_WISH)
def test_the_same_wish_is_found(first: str, second: str) -> None:
    known = neighbours()
    known.add(first, "seed", "a")
    found = known.find(second)
    assert found is not None
    assert found.id == "a"
    assert found.same == (normal(first) == normal(second))


@pytest.mark.parametrize(("first", "second"), OTHER_WISH)
def test_another_wish_is_not(first: str, second: str) -> None:
    known = neighbours()
    known.add(first, "new", "a")
    assert known.find(second) is None


def test_numbers_signs_and_names_are_no_punctuation() -> None:
    for one, other in (("3.5 + 4", "35 + 4"), ("3 + 4", "3 - 4"), ("Is C++ fast?", "Is C fast?")):
        assert normal(one) != normal(other)
    assert normal("  “What, then?” ") == normal("what then") == "what then"
    assert normal("¿Qué es «eso»?") == "qué es eso"


def test_threshold_1_takes_only_the_same_text() -> None:
    known = neighbours(threshold=1)
    known.add("How do I make tea?", "seed", "a")
    assert known.find("How do I make a tea?") is None
    same = known.find("HOW DO I MAKE TEA")
    assert same is not None and same.same and same.similarity == 1


def test_only_texts_of_one_scope_are_compared() -> None:
    known = neighbours()
    known.add("And why is that so?", "seed", "a", scope="conversation 1")
    assert known.find("And why is that so?") is None
    assert known.find("And why is that so?", scope="conversation 2") is None
    assert known.find("And why is that so?", scope="conversation 1") is not None


def test_short_texts_and_odd_ones() -> None:
    known = neighbours()
    for number, text in enumerate(("a", "?!", "", "ab")):
        known.add(text, "seed", str(number))
    found = known.find("A")
    assert found is not None and found.id == "0"
    assert known.find("b") is None


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_what_comparing_all_with_all_finds_is_found(threshold: float) -> None:
    """Variants of one text at every similarity; at the threshold 2 % may be missed."""
    rng = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    base = " ".join("".join(rng.choices(letters, k=5)) for _ in range(20))
    texts = [base]
    for _ in range(299):
        words = base.split()
        for place in rng.sample(range(20), rng.randint(0, 8)):
            words[place] = "".join(rng.choices(letters, k=5))
        texts.append(" ".join(words))
    grams = [shingles(text, 5) for text in texts]
    found = missed = wrong = 0
    for this, mine in enumerate(grams):
        if this % 6:
            continue
        known = neighbours(threshold=threshold)
        for place, text in enumerate(texts[:this]):
            known.add(text, "new", str(place))
        best = max((len(mine & o) / len(mine | o) for o in grams[:this]), default=0.0)
        match = known.find(texts[this])
        if best >= threshold:
            found, missed = found + (match is not None), missed + (match is None)
        else:
            wrong += match is not None
    assert not wrong
    assert found > 5
    assert missed <= 0.1 * found


def test_bands_find_98_percent_at_the_threshold() -> None:
    rows = [rows_of_bands(number / 20) for number in range(2, 21)]
    assert all(first <= second for first, second in pairwise(rows))
    assert rows_of_bands(0.7) == 4
    assert rows_of_bands(1.0) == 8
    assert rows_of_bands(0.05) == 1


def test_hashes_are_the_same_in_every_process() -> None:
    code = (
        "from sso_data.augmentation.duplicates import NearDuplicateIndex as N\n"
        "from sso_data.config.augmentation import DuplicatesConfig as C\n"
        "n = N(C())\n"
        "print(n._sketch_of('', {'abcde', 'bcdef', 'grün'}).digest())\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from sso_data.core.errors import ConfigError

    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(ConfigError, match=r"pip install 'sso-data\[augment\]'"):
        neighbours()
