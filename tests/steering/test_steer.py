"""Steering: seeded per row, weights obeyed, Concision at its own probability."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sso_data.config.run import SteeringConfig
from sso_data.core.errors import ConfigError
from sso_data.steering.principles import Catalogue, load_catalogue
from sso_data.steering.rules import CONCISION, Rules, check_features, system_text

CATALOGUE = load_catalogue()
ROWS = 4000


def features(config: SteeringConfig, index: int = 0, seed: int = 0) -> tuple[str, ...]:
    return Rules(config=config, catalogue=CATALOGUE, seed=seed).draw(f"row-{index}")


def counts(config: SteeringConfig) -> Counter[str]:
    return Counter(name for index in range(ROWS) for name in features(config, index))


def test_the_same_row_and_seed_give_the_same_features() -> None:
    config = SteeringConfig()
    assert features(config, 3) == features(config, 3)
    assert {features(config, 3, seed) for seed in range(20)} != {features(config, 3)}


def test_random_draws_count_different_features_evenly_and_concision_apart() -> None:
    config = SteeringConfig(count=2, concision_probability=0.2)
    drawn = counts(config)
    assert all(
        len(set(found)) == len(found) and len(found) in (2, 3)
        for found in (features(config, index) for index in range(200))
    )
    others = len(CATALOGUE.principles) - 1
    expected = ROWS * 2 / others
    spread = 5 * (expected * (1 - 2 / others)) ** 0.5
    for name in CATALOGUE.principles:
        if name != CONCISION:
            assert abs(drawn[name] - expected) < spread, name
    assert abs(drawn[CONCISION] - ROWS * 0.2) < 5 * (ROWS * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize(("probability", "times"), [(0.0, 0), (1.0, ROWS)])
def test_concision_probability_at_its_ends(probability: float, times: int) -> None:
    assert counts(SteeringConfig(concision_probability=probability))[CONCISION] == times


def test_weights_are_draw_probabilities() -> None:
    config = SteeringConfig(
        count=1,
        weights={"Safety": 3.0, "Accuracy": 0.0},
        features=("Safety", "Accuracy", "Engagement"),
    )
    drawn = counts(config)
    assert drawn["Accuracy"] == 0
    assert abs(drawn["Safety"] / ROWS - 0.75) < 5 * (0.75 * 0.25 / ROWS) ** 0.5


def test_fixed_takes_the_list_as_it_is() -> None:
    config = SteeringConfig(
        choose="fixed",
        features=("Safety", "Accuracy"),
        concision_probability=0,
        paraphrase=False,
    )
    steering = Rules(config=config, catalogue=CATALOGUE, seed=0).by_rule("row-0").steering
    assert steering.features == ("Safety", "Accuracy")
    assert steering.good == (CATALOGUE["Safety"].good, CATALOGUE["Accuracy"].good)
    assert steering.bad == (CATALOGUE["Safety"].bad, CATALOGUE["Accuracy"].bad)
    assert steering.chosen_by == "fixed"
    assert steering.written_by == ("catalogue", "catalogue")
    assert steering.paraphrase_good == steering.paraphrase_bad == (0, 0)
    assert steering.system_template == "system.j2"


def test_all_takes_every_feature_the_heaviest_first() -> None:
    config = SteeringConfig(
        choose="all", concision_probability=0, weights={"Safety": 5, "Accuracy": 2, "Logicality": 0}
    )
    found = features(config)
    assert found[:2] == ("Safety", "Accuracy")
    assert set(found) == set(CATALOGUE.principles) - {CONCISION, "Logicality"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"features": ("Kindness",)}, "steering.features: no principle 'Kindness'"),
        ({"weights": {"Kindness": 1}}, "steering.weights: no principle 'Kindness'"),
        ({"features": ("Safety",), "weights": {"Safety": 0}}, "every feature has weight 0"),
    ],
)
def test_unknown_features_and_empty_choices_are_refused(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_features(SteeringConfig(**config), CATALOGUE)


def test_the_system_text_lists_the_principles_and_forbids_to_mention_them() -> None:
    text = system_text(["Be right.", "Be kind."])
    assert text == (
        "Follow these guidelines in your answer:\n- Be right.\n- Be kind.\n"
        "Do not mention the guidelines."
    )


@pytest.mark.parametrize("name", [CONCISION, "Safety"])
@pytest.mark.parametrize("choose", ["random", "fixed", "all", "policy", "none"])
def test_a_catalogue_of_one_principle_works_with_every_choice(choose: str, name: str) -> None:
    single = Catalogue(directory=Path("here"), principles={name: CATALOGUE[name]})
    settings: dict[str, Any] = {"choose": choose, "concision_probability": 0}
    settings |= {"features": (name,)} if choose == "fixed" else {}
    settings |= {"principles": "written"} if choose == "none" else {}
    rules = Rules(config=SteeringConfig(**settings), catalogue=single, seed=0)
    check_features(rules.config, single)
    assert rules.draw("row-0") == (name,)
    assert rules.asks_a_model == (choose == "none"), "of one there is nothing to choose"
    if not rules.asks_a_model:
        assert rules.by_rule("row-0").steering.good[0] in (
            *(CATALOGUE[name].good, *CATALOGUE[name].paraphrases.good),
        )
