"""Wordings: drawn per row, opposite sides alike, and what a directory of templates changes."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sso_data.config.run import SteeringConfig
from sso_data.core.jinja import Templates
from sso_data.steering.checks import review
from sso_data.steering.principles import (
    Adjectives,
    Catalogue,
    Paraphrases,
    Principle,
    load_catalogue,
)
from sso_data.steering.rules import Rules
from sso_data.world import catalogue_dir

ROWS = 600
SHIPPED = load_catalogue()


def catalogue(good: tuple[str, ...], bad: tuple[str, ...]) -> Catalogue:
    principle = Principle(
        name="Candour",
        adjectives=Adjectives(good="Candid", bad="Evasive"),
        meaning="Whether it says what it means.",
        good="Say it plainly.",
        bad="Talk around it.",
        paraphrases=Paraphrases(good=good, bad=bad),
    )
    return Catalogue(directory=Path("here"), principles={"Candour": principle})


def rules(found: Catalogue = SHIPPED, **config: object) -> Rules:
    return Rules(config=SteeringConfig.model_validate(config), catalogue=found, seed=7)


def test_every_wording_of_the_shipped_catalogue_is_drawn_as_often() -> None:
    drawn = [rules().text(f"row-{n}", "Safety") for n in range(ROWS)]
    counts = Counter(text.paraphrase_good for text in drawn)
    wordings = 1 + len(SHIPPED["Safety"].paraphrases.good)
    assert sorted(counts) == list(range(wordings))
    spread = 5 * (ROWS / wordings) ** 0.5
    assert all(abs(count - ROWS / wordings) < spread for count in counts.values())


def test_both_sides_take_the_wording_of_the_same_number() -> None:
    goods = (SHIPPED["Safety"].good, *SHIPPED["Safety"].paraphrases.good)
    bads = (SHIPPED["Safety"].bad, *SHIPPED["Safety"].paraphrases.bad)
    for n in range(50):
        text = rules().text(f"row-{n}", "Safety")
        assert text.paraphrase_good == text.paraphrase_bad
        assert text.good == goods[text.paraphrase_good]
        assert text.bad == bads[text.paraphrase_bad]


def test_sides_with_different_numbers_of_wordings() -> None:
    uneven = catalogue(("Be frank.", "Do not hedge.", "Come out with it."), ())
    drawn = {
        (text.paraphrase_good, text.paraphrase_bad)
        for n in range(200)
        for text in [rules(uneven).text(f"row-{n}", "Candour")]
    }
    assert drawn == {(0, 0), (1, 0), (2, 0), (3, 0)}


def test_a_row_keeps_its_wording_whatever_else_is_steered() -> None:
    alone = rules(choose="fixed", features=["Safety"]).text("row", "Safety")
    among = rules(choose="fixed", features=["Accuracy", "Safety"]).text("row", "Safety")
    assert alone == among
    seeds = {replace(rules(), seed=seed).text("row", "Safety").paraphrase_good for seed in range(9)}
    assert len(seeds) > 1


def test_all_system_templates_are_drawn_and_are_in_the_row() -> None:
    drawn = Counter(rules().by_rule(f"row-{n}").steering.system_template for n in range(300))
    assert set(drawn) == set(Templates().systems())
    assert min(drawn.values()) > 300 / len(drawn) / 2


def test_the_system_text_is_that_of_the_rows_template() -> None:
    for n in range(20):
        steered = rules().by_rule(f"row-{n}")
        steering = steered.steering
        expected = Templates().render(steering.system_template, texts=list(steering.good))
        assert steered.good == expected
        assert all(text in steered.bad for text in steering.bad)


def test_without_paraphrasing_there_is_one_wording_of_everything() -> None:
    for n in range(50):
        steering = rules(paraphrase=False).by_rule(f"row-{n}").steering
        assert set(steering.paraphrase_good + steering.paraphrase_bad) == {0}
        assert steering.system_template == "system.j2"


@pytest.mark.parametrize("name", Templates().systems())
def test_every_system_message_lists_the_texts_and_asks_for_silence(name: str) -> None:
    text = Templates().render(name, texts=["Be right.", "Be {{ kind }}."])
    assert "- Be right.\n- Be {{ kind }}.\n" in text
    assert "guidelines" in text, "the word whose leaks the filter knows"


def test_the_shipped_catalogue_has_three_more_wordings_of_each_side_and_no_findings() -> None:
    for principle in SHIPPED.principles.values():
        assert len(principle.paraphrases.good) >= 3
        assert len(principle.paraphrases.bad) == len(principle.paraphrases.good)
    assert review(list(SHIPPED.principles.values())) == []


def test_the_short_catalogue_of_the_tiny_world_has_no_errors() -> None:
    found = review(list(load_catalogue(catalogue_dir()).principles.values()))
    assert [finding for finding in found if finding.severity == "error"] == []
