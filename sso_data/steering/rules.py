"""Steering by rule: features and wordings drawn from a catalogue by each row's seed."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

from sso_data.config.run import RunConfig, SteeringConfig
from sso_data.core.errors import ConfigError, nearest
from sso_data.core.jinja import SHIPPED, SYSTEM, Templates
from sso_data.core.records import Steering, derive_seed
from sso_data.steering.principles import Catalogue, Principle, listing, load_catalogue

CONCISION = "Concision"
"""Added with a probability of its own, against length growth, and not drawn with the others."""

FREE_FORM = "free-form"
"""In place of a feature's name: a pair that was written without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPair:
    """One feature's two texts, their author, and the numbers of the catalogue's wordings."""

    good: str
    bad: str
    by: str = "catalogue"
    paraphrase_good: int = 0
    paraphrase_bad: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """A prompt's steering, and the system messages of its good and its bad view."""

    steering: Steering
    good: str
    bad: str


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The steering rules of a run; every result depends on the seed and the row's id only."""

    config: SteeringConfig
    catalogue: Catalogue
    seed: int
    templates: Templates = SHIPPED

    @property
    def asks_a_model(self) -> bool:
        """True when a model is asked about each prompt."""
        return self.choose in ("policy", "none") or self.config.principles == "written"

    @property
    def choose(self) -> str:
        """How features are chosen: as configured, but of a single one all, without a question."""
        is_single = self.config.choose == "policy" and len(self.weights) == 1
        return "all" if is_single else self.config.choose

    def by_rule(self, row: str) -> Steered:
        """Return a row's steering where no model is asked."""
        return self.steered(self.steering(row, self.draw(row), self.choose))

    def draw(self, row: str) -> tuple[str, ...]:
        """Return the features of a row by rule; for rows that a model steers, the fallback."""
        rng = self._rng(row, "steering")
        weights = self.weights
        if self.choose == "fixed":
            features = list(self.config.features)
        elif self.choose == "all":
            features = sorted(weights, key=lambda feature: -weights[feature])
        else:
            # Efraimidis and Spirakis 2006: each next feature is drawn in proportion to its weight
            keys = {feature: rng.expovariate(weight) for feature, weight in weights.items()}
            features = sorted(keys, key=keys.__getitem__)[: self.config.count]
        return self._with_concision(tuple(features), rng)

    def chosen(self, row: str, features: Sequence[str]) -> tuple[str, ...]:
        """Return features that a model chose, and Concision with its own probability."""
        return self._with_concision(tuple(features), self._rng(row, "concision"))

    def text(self, row: str, feature: str) -> TextPair:
        """Return the catalogue's texts of a feature, in one of its wordings.

        Both sides take the n-th wording where they have equally many: paraphrases are opposites.
        """
        principle = self.catalogue[feature]
        share = self._rng(row, f"wording/{feature}").random() if self.config.paraphrase else 0.0
        goods = (principle.good, *principle.paraphrases.good)
        bads = (principle.bad, *principle.paraphrases.bad)
        good, bad = int(share * len(goods)), int(share * len(bads))
        return TextPair(good=goods[good], bad=bads[bad], paraphrase_good=good, paraphrase_bad=bad)

    def steering(
        self,
        row: str,
        features: Sequence[str],
        chosen_by: str,
        written: Mapping[str, TextPair] | None = None,
    ) -> Steering:
        """Return the steering by these features; unwritten texts are the catalogue's."""
        written = written or {}
        texts = [written.get(feature) or self.text(row, feature) for feature in features]
        names = self.templates.systems() if self.config.paraphrase else (SYSTEM,)
        return Steering(
            features=tuple(features),
            good=tuple(text.good for text in texts),
            bad=tuple(text.bad for text in texts),
            chosen_by=chosen_by,
            written_by=tuple(text.by for text in texts),
            paraphrase_good=tuple(text.paraphrase_good for text in texts),
            paraphrase_bad=tuple(text.paraphrase_bad for text in texts),
            system_template=names[int(self._rng(row, "wording/system").random() * len(names))],
            placement=self.config.placement,
        )

    def steered(self, steering: Steering) -> Steered:
        """Return the steering with its system messages; ConfigError when a template fails."""
        name = steering.system_template or SYSTEM
        return Steered(
            steering=steering,
            good=self._system_text(steering.good, name),
            bad=self._system_text(steering.bad, name),
        )

    @cached_property
    def _system_text(self) -> Callable[[tuple[str, ...], str], str]:
        """`system_text` with these templates; many rows have the same one."""
        return lru_cache(8192)(partial(system_text, templates=self.templates))

    @cached_property
    def weights(self) -> dict[str, float]:
        """The features to choose from, with their weights; those of weight 0 are left out.

        Concision is among them only by its name in `features`, or in a catalogue of nothing else.
        """
        config, every = self.config, list(self.catalogue.principles)
        pool = config.features or [f for f in every if f != CONCISION] or every
        weights = {feature: config.weights.get(feature, 1.0) for feature in pool}
        return {feature: weight for feature, weight in weights.items() if weight > 0}

    def shown_pool(self, row: str) -> list[Principle]:
        """Return the principles that a model chooses from, in an order drawn for the row.

        Models prefer what they see first.
        """
        pool = [self.catalogue[feature] for feature in self.weights]
        self._rng(row, "pool").shuffle(pool)
        return pool

    def _rng(self, row: str, purpose: str) -> random.Random:
        return random.Random(derive_seed(self.seed, row, purpose))

    def _with_concision(self, features: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
        is_free = CONCISION in self.catalogue.principles and CONCISION not in features
        if is_free and rng.random() < self.config.concision_probability:
            return (*features, CONCISION)
        return features


def load_rules(config: RunConfig) -> Rules:
    """The steering of a configuration: its catalogue and templates, read and checked.

    Raises ConfigError or InputError.
    """
    catalogue = load_catalogue(config.principles)
    check_features(config.steering, catalogue)
    templates = Templates(directory=config.templates)
    templates.check()
    return Rules(config=config.steering, catalogue=catalogue, seed=config.seed, templates=templates)


def check_features(config: SteeringConfig, catalogue: Catalogue) -> None:
    """Raise ConfigError when the configuration names a feature that the catalogue lacks."""
    known = ", ".join(catalogue.principles)
    for key, features in (("features", config.features), ("weights", tuple(config.weights))):
        for feature in features:
            if feature not in catalogue.principles:
                raise ConfigError(
                    f"steering.{key}: no principle {feature!r} in {catalogue.directory} ({known})"
                    f"{nearest(feature, catalogue.principles, listing(catalogue.directory))}"
                )
    rules = Rules(config=config, catalogue=catalogue, seed=0)
    left = len(rules.weights)
    if not left:
        raise ConfigError("steering.weights: every feature has weight 0; give one a weight above 0")
    if rules.choose == "policy" and left <= config.count:
        raise ConfigError(
            f"steering.count {config.count}: the policy chooses from {left} features and needs "
            "more than that many; lower it, or set steering.choose=all"
        )


def system_text(texts: Sequence[str], name: str = SYSTEM, templates: Templates = SHIPPED) -> str:
    """Return the system message that asks for responses that follow `texts`."""
    return templates.render(name, texts=list(texts))
