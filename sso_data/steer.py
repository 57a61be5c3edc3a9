"""Steering: which features a prompt gets, and the texts that ask for their good and bad side."""

import random
from collections.abc import Mapping, Sequence

from sso_data.config import SteeringConfig
from sso_data.errors import ConfigError
from sso_data.principles import Catalogue
from sso_data.records import Prompt, Steering, derive_seed
from sso_data.templates import render

CONCISION = "Concision"
"""Never drawn with the others: added with a probability of its own, against length growth."""


def check_features(config: SteeringConfig, catalogue: Catalogue) -> None:
    """Raise ConfigError when the configuration names a feature that the catalogue lacks."""
    known = ", ".join(catalogue.principles)
    for key, features in (("features", config.features), ("weights", tuple(config.weights))):
        for feature in features:
            if feature not in catalogue.principles:
                raise ConfigError(
                    f"steering.{key}: no principle {feature!r} in {catalogue.directory}; "
                    f"there are {known}"
                )
    if not _weights(config, catalogue):
        raise ConfigError("steering.weights: every feature has weight 0; give one a weight above 0")


def steer(prompt: Prompt, config: SteeringConfig, catalogue: Catalogue, *, seed: int) -> Steering:
    """The features of one prompt with their principle texts; depends on seed and prompt id only."""
    rng = random.Random(derive_seed(seed, prompt.id, "steering"))
    features = _choose(config, catalogue, rng)
    if (
        CONCISION in catalogue.principles
        and CONCISION not in features
        and rng.random() < config.concision_probability
    ):
        features = [*features, CONCISION]
    return Steering(
        features=tuple(features),
        good=tuple(catalogue[feature].good for feature in features),
        bad=tuple(catalogue[feature].bad for feature in features),
        chosen_by=config.choose,
    )


def system_text(texts: Sequence[str]) -> str:
    """The system message that asks for responses that follow `texts`."""
    return render("system.j2", texts=list(texts))


def _choose(config: SteeringConfig, catalogue: Catalogue, rng: random.Random) -> list[str]:
    if config.choose == "fixed":
        return list(config.features)
    weights = _weights(config, catalogue)
    if config.choose == "all":
        return sorted(weights, key=lambda feature: -weights[feature])
    return _draw(weights, config.count, rng)


def _weights(config: SteeringConfig, catalogue: Catalogue) -> dict[str, float]:
    """The features to choose from, with their weights; those of weight 0 are left out."""
    pool = config.features or [f for f in catalogue.principles if f != CONCISION]
    weights = {feature: config.weights.get(feature, 1.0) for feature in pool}
    return {feature: weight for feature, weight in weights.items() if weight > 0}


def _draw(weights: Mapping[str, float], count: int, rng: random.Random) -> list[str]:
    """`count` different features, each next one with probability proportional to its weight.

    Exponential keys (Efraimidis and Spirakis 2006): the smallest of Exp(weight) draws.
    """
    keys = {feature: rng.expovariate(weight) for feature, weight in weights.items()}
    return sorted(keys, key=keys.__getitem__)[:count]
