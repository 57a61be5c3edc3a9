"""Seed queries, and the attempts made from them: what the model is asked for."""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sso_data.chat.answer_checks import fence_for
from sso_data.chat.interface import CompletionRequest
from sso_data.config.augmentation import AnswersConfig, AugmentConfig, Operation
from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError
from sso_data.core.jinja import Templates
from sso_data.core.records import Message, content_hash, derive_seed, row_id
from sso_data.prompts import BadRow, read_prompts
from sso_data.prompts.rows import unanswerable

TEMPLATE = "augment.j2"
OPERATIONS: tuple[Operation, ...] = ("evolve", "rephrase", "topic", "harder", "easier")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A prompt that ends with a user turn; `id` is the user's own, or derived from its content."""

    id: str
    messages: tuple[Message, ...]

    @property
    def system(self) -> Message | None:
        """The user's own system message."""
        return self.messages[0] if self.messages[0].role == "system" else None

    @property
    def text(self) -> str:
        """The last user turn."""
        return self.messages[-1].content

    @property
    def opening(self) -> str:
        """The first user turn that is not blank; it is understood without the later turns."""
        turns = (turn.content for turn in self.messages if turn.role == "user")
        return next(text for text in turns if text.strip())

    @property
    def context(self) -> tuple[Message, ...]:
        """The turns between the system message and the last user turn."""
        return self.messages[1 if self.system else 0 : -1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """The distinct seeds in the order of their content hashes, whatever the order of the source.

    `left_out` counts the other rows of the source by reason. `plain`: every seed is a single user
    turn, so that new prompts are written as texts, not as messages.
    """

    rows: tuple[Seed, ...]
    left_out: Mapping[str, int]
    fingerprint: str
    plain: bool


def read_seeds(source: str, config: SourceConfig) -> Seeds:
    """Read the seed queries of a prompt source.

    Raises InputError where the source is malformed or no row can be used.
    """
    found: dict[str, Seed] = {}
    left_out = Counter[str]()
    for row in read_prompts(source, config):
        content = content_hash(row.messages)
        if isinstance(row, BadRow):
            left_out["malformed"] += 1
        elif problem := unanswerable(row.messages):
            left_out[problem[0]] += 1
        elif content in found:
            left_out["same_as_another"] += 1
        else:
            name = row.source_id or row_id(content, 0)
            found[content] = Seed(id=name, messages=row.messages)
    if not found:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
        raise InputError(f"{source}: no row can be a seed query ({reasons})")
    contents = sorted(found)
    return Seeds(
        rows=tuple(found[content] for content in contents),
        left_out=dict(sorted(left_out.items())),
        fingerprint=hashlib.sha256("".join(f"{c}\0" for c in contents).encode()).hexdigest()[:16],
        plain=all(len(seed.messages) == 1 for seed in found.values()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request for a new query, made from the last of `seeds`; the others are shown as well.

    `seed` is the sampling seed.
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
    def texts(self) -> tuple[str, ...]:
        """The text shown of each seed: its last turn, or its opening where a new topic is asked."""
        is_new_topic = self.operation == "topic"
        return tuple(seed.opening if is_new_topic else seed.text for seed in self.seeds)

    @property
    def context(self) -> tuple[Message, ...]:
        """The turns of the seed that stay before the new one; a new topic begins a conversation."""
        return () if self.operation == "topic" else self.base.context

    def messages(self, query: str) -> tuple[Message, ...]:
        """The new prompt: the seed's system message, the turns that stay, the new query."""
        system = self.base.system
        return (*([system] if system else []), *self.context, Message(role="user", content=query))


def draw(number: int, seeds: tuple[Seed, ...], config: AugmentConfig) -> Attempt:
    """Draw attempt `number` (from 0); it depends on the seeds and the configuration alone."""
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
    """The chat request of an attempt; raises ConfigError where the template cannot be rendered."""
    own = attempt.base.system
    system = own.content if own else ""
    messages = templates.messages(
        TEMPLATE,
        operation=attempt.operation,
        seeds=list(attempt.texts),
        context=[message.to_json() for message in attempt.context],
        system=system,
        fence=fence_for([*attempt.texts, *(turn.content for turn in attempt.context), system]),
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
