"""`preview`: make rows of the first few prompts in memory, without writing anything."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from sso_data.config.run import RunConfig
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import Failure, Row
from sso_data.filtering.explain import Explanation, explain, features_of
from sso_data.filtering.filters import Decision, decide, decide_row
from sso_data.generation.generate import make_rows, prepare, rules_of
from sso_data.prompts import layouts_in, read_prompts
from sso_data.runs.columns import SCORES, Rows, encode
from sso_data.runs.ledger import Ledger
from sso_data.runs.steering import MemorySteeringStore
from sso_data.steering.counts import SteeringCounts
from sso_data.steering.passes import Guide, prompts_of


@dataclass(slots=True)
class _Memory:
    """A sink and metadata that keep everything in memory."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    findings: dict[str, Any] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    _ledger: Ledger = field(default_factory=Ledger)

    def admit(self, content: str, samples: int) -> list[tuple[str, bool]]:
        found = self._ledger.next_ids(content, samples)
        self.order |= {identity: len(self.order) + n for n, identity in enumerate(found)}
        return [(identity, True) for identity in found]

    def write_row(self, row: Row) -> bytes:
        self.rows.append(row)
        return encode(row, b"", 0)

    def write_failure(self, failure: Failure) -> None:
        self.failures.append(failure)

    def get(self, key: str) -> Any:
        return self.findings.get(key)

    def set(self, **findings: object) -> None:
        self.findings |= findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Rows with the filter's row-local verdict (None: kept), and the prompts that failed.

    `decision` and `explanation` are the filter's about these rows as a whole run.
    """

    rows: tuple[tuple[Row, str | None], ...]
    failures: tuple[Failure, ...]
    decision: Decision
    explanation: Explanation


def preview(source: str, config: RunConfig, progress: Progress | None = None) -> Preview:
    """Make rows of the first `source.limit` prompts without writing anything.

    Raises InputError, ConfigError, ModelError or EngineError.
    """
    progress = progress or NullProgress()
    progress.phase("checking the prompts")
    rules_of(config)
    progress.note(layouts_in(source, config.source)[0])
    candidates = list(read_prompts(source, config.source))
    progress.phase("checking the model and its chat template")
    whole = config.scoring.model_copy(update={"when": "all"})  # every response is to be shown
    setup = prepare(config.model_copy(update={"scoring": whole}))
    for line in setup.warnings:
        progress.warn(line)
    samples = config.sampling.samples
    total = len(candidates) * samples
    memory = _Memory()
    guide = Guide(
        prompts=lambda: prompts_of(
            candidates, partial(Ledger().next_ids, samples=samples), lambda identity: True
        ),
        store=MemorySteeringStore(),
        counts=SteeringCounts(),
        total=total,
    )
    make_rows(
        candidates,
        setup,
        memory,
        memory,
        progress,
        guide=guide if setup.rules.asks_a_model else None,
        total=total,
    )
    rows = sorted(memory.rows, key=lambda row: memory.order[row.id])
    judged = tuple((row, decide_row(row, config.filter)) for row in rows)
    records: Rows = np.frombuffer(b"".join(encode(row, b"", 0) for row in rows), SCORES)
    decision = decide(records, config.filter)
    return Preview(
        rows=judged,
        failures=tuple(memory.failures),
        decision=decision,
        explanation=explain(
            records,
            config.filter,
            decision,
            features=features_of(row.steering.features for row in rows),
        ),
    )
