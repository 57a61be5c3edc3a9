"""Seed queries: read once, each one once, in an order that does not depend on the file's."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sso_data.config.run import SourceConfig
from sso_data.core.errors import InputError
from sso_data.core.records import Message, content_hash, row_id
from sso_data.prompts import BadRow, Candidate, read_prompts
from sso_data.prompts.answerable import unanswerable


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A prompt that ends with a user's turn; `id` is the user's own, or its content's."""

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
        """The first user turn that says something: it stands without what comes after it."""
        turns = (turn.content for turn in self.messages if turn.role == "user")
        return next(text for text in turns if text.strip())

    @property
    def context(self) -> tuple[Message, ...]:
        """The turns between the system message and the last user turn."""
        return self.messages[1 if self.system else 0 : -1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """The seeds by content hash, and what was left out of the file, counted by reason.

    `plain`: every seed is a single user turn, so that new queries are texts, not messages.
    """

    rows: tuple[Seed, ...]
    left_out: Mapping[str, int]
    fingerprint: str
    plain: bool


def read_seeds(source: str, config: SourceConfig) -> Seeds:
    """The seed queries of a prompt source; InputError where there are none that can be used."""
    found: dict[str, Seed] = {}
    left_out = Counter[str]()
    for row in read_prompts(source, config):
        problem = _problem(row)
        content = content_hash(row.messages)
        if problem or content in found:
            left_out[problem or "same_as_another"] += 1
        elif isinstance(row, Candidate):
            name = row.source_id or row_id(content, 0)
            found[content] = Seed(id=name, messages=row.messages)
    if not found:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
        raise InputError(f"{source}: no row can be a seed query ({reasons})")
    digest = hashlib.sha256()
    for content in sorted(found):
        digest.update(content.encode() + b"\0")
    return Seeds(
        rows=tuple(found[content] for content in sorted(found)),
        left_out=dict(sorted(left_out.items())),
        fingerprint=digest.hexdigest()[:16],
        plain=all(len(seed.messages) == 1 for seed in found.values()),
    )


def _problem(row: Candidate | BadRow) -> str | None:
    if isinstance(row, BadRow):
        return "malformed"
    found = unanswerable(row.messages)
    return found[0] if found else None
