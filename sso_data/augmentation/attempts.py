"""Attempts: what is asked for, from the augmentation's seed and the attempt's number alone."""

import random
from dataclasses import dataclass
from typing import Any

from sso_data.augmentation.seeds import Seed
from sso_data.chat.interface import CompletionRequest
from sso_data.config.augmentation import AnswersConfig, AugmentConfig, Operation
from sso_data.core.jinja import Templates
from sso_data.core.records import Message, derive_seed

TEMPLATE = "augment.j2"
OPERATIONS: tuple[Operation, ...] = ("evolve", "rephrase", "topic", "harder", "easier")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One new query that is asked for; it is made from the last of `seeds`.

    The others only show what queries look like. `seed` is that of sampling.
    """

    number: int
    operation: Operation
    seeds: tuple[Seed, ...]
    seed: int

    @property
    def base(self) -> Seed:
        """The seed that the operation works on."""
        return self.seeds[-1]

    @property
    def is_new_topic(self) -> bool:
        """Whether the new query begins a conversation of its own."""
        return self.operation == "topic"

    @property
    def texts(self) -> tuple[str, ...]:
        """What is shown of the seeds: a last turn could not stand for a whole conversation."""
        return tuple(seed.opening if self.is_new_topic else seed.text for seed in self.seeds)

    @property
    def context(self) -> tuple[Message, ...]:
        """The turns of the seed that stay before the new one."""
        return () if self.is_new_topic else self.base.context

    def messages(self, query: str) -> tuple[Message, ...]:
        """The new prompt: the user's own system message, the turns that stay, the new query."""
        system = self.base.system
        return (*([system] if system else []), *self.context, Message(role="user", content=query))


def draw(number: int, seeds: tuple[Seed, ...], config: AugmentConfig) -> Attempt:
    """Attempt `number` (from 0): the same for the same seeds and configuration, whenever drawn."""
    name = f"attempt-{number}"
    rng = random.Random(derive_seed(config.seed, name, "augment"))
    weights = [getattr(config.operations, operation) for operation in OPERATIONS]
    operation = rng.choices(OPERATIONS, weights)[0]
    most = min(config.answers.most_seeds, len(seeds)) if operation == "topic" else 1
    chosen = rng.sample(range(len(seeds)), rng.randint(1, most))
    return Attempt(
        number=number,
        operation=operation,
        seeds=tuple(seeds[place] for place in chosen),
        seed=derive_seed(config.seed, name, "sample"),
    )


def request(attempt: Attempt, templates: Templates, config: AnswersConfig) -> CompletionRequest:
    """What the model is asked; ConfigError for a template that cannot be rendered."""
    system = attempt.base.system
    messages = templates.messages(
        TEMPLATE,
        operation=attempt.operation,
        seeds=list(attempt.texts),
        context=[message.to_json() for message in attempt.context],
        system=system.content if system else "",
    )
    return CompletionRequest(
        key=str(attempt.number),
        messages=messages,
        max_tokens=config.max_tokens,
        seed=attempt.seed,
        temperature=config.temperature,
        top_p=config.top_p,
        schema=SCHEMA if config.form == "json" and config.structured else None,
    )
