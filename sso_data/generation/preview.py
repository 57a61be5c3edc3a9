"""`preview` and `plan`: make rows of a few prompts in memory, to see and to estimate a run."""

import heapq
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sso_data.config.run import RunConfig
from sso_data.core.errors import InputError
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import Failure, Row, content_hash
from sso_data.core.statistics import Estimate, mean_of
from sso_data.engines import resolve_name
from sso_data.engines.score_memory import planned_scoring
from sso_data.filtering.explain import Explanation, Features, explain, features_of
from sso_data.filtering.filters import Decision, decide
from sso_data.generation.forecast import FEWEST, LESS_LATER, Forecast, forecast
from sso_data.generation.generate import Setup, make_rows, prepare, rules_of
from sso_data.generation.pipeline import RowCounts
from sso_data.prompts import BadRow, Candidate, open_prompts
from sso_data.runs.columns import SCORES, Rows, encode
from sso_data.runs.jsonl import to_line
from sso_data.runs.ledger import Ledger
from sso_data.runs.steering import MemorySteeringStore
from sso_data.steering.counts import SteeringCounts
from sso_data.steering.passes import Guide, prompts_of
from sso_data.templating.chat_template import Unrenderable

_MOST_COUNTED = 2000
"""Prompts up to which their tokens are counted exactly; of more, those of so many."""


@dataclass(slots=True)
class _Memory:
    """A sink and metadata that keep everything in memory."""

    rows: list[Row] = field(default_factory=list)
    records: dict[str, bytes] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    findings: dict[str, Any] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    path: Path | None = None
    _ledger: Ledger = field(default_factory=Ledger)

    def admit(self, content: str, samples: int) -> list[tuple[str, bool]]:
        found = self._ledger.next_ids(content, samples)
        self.order |= {identity: len(self.order) + n for n, identity in enumerate(found)}
        return [(identity, True) for identity in found]

    def write_row(self, row: Row, record: Rows | None = None) -> bytes:
        self.rows.append(row)
        stored = self.records[row.id] = encode(row, to_line(row.to_json()), 0)
        return stored

    def write_failure(self, failure: Failure) -> None:
        self.failures.append(failure)

    def get(self, key: str) -> Any:
        return self.findings.get(key)

    def set(self, **findings: object) -> None:
        self.findings |= findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Rows with the filter's verdict about them as a run (None: kept), and the failed prompts.

    `records`: those of the rows; `decision` and `explanation` are the filter's about them.
    """

    rows: tuple[tuple[Row, str | None], ...]
    records: Rows
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
    line, _, found = open_prompts(source, config.source)
    progress.note(line)
    candidates = list(found)
    progress.phase("checking the model and its chat template")
    memory, _, _ = _made(candidates, config, progress)
    rows = sorted(memory.rows, key=lambda row: memory.order[row.id])
    records: Rows = np.frombuffer(b"".join(memory.records[row.id] for row in rows), SCORES)
    decision = decide(records, config.filter)
    return Preview(
        rows=tuple((row, decision.reason(place)) for place, row in enumerate(rows)),
        records=records,
        failures=tuple(memory.failures),
        decision=decision,
        explanation=explain(records, config.filter, decision, features=_features(rows)),
    )


def _features(rows: Iterable[Row]) -> Features:
    return features_of(row.steering.features for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all prompts of a source would take and give, by a probe of some of them.

    `prompts`, `bad`: prompts and malformed rows of the source; `probed`: rows that were made,
    `failed` of the probe's could not be; `rows`: of a whole run; `loading`: seconds before the
    first row was begun; `in_flight`: requests that the engines work on at once. `prompt_tokens`: of
    the three views of all prompts, exact up to _MOST_COUNTED; None where a model steers them.
    """

    prompts: int
    bad: int
    probed: int
    failed: int
    rows: int
    in_flight: int
    loading: float
    forecast: Forecast
    explanation: Explanation
    prompt_tokens: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """Return its form for `--json`."""
        return {
            "prompts": self.prompts,
            "bad_rows": self.bad,
            "probed": self.probed,
            "probe_failed": self.failed,
            "loading_seconds": round(self.loading, 2),
            "prompt_tokens": self.prompt_tokens.to_json() if self.prompt_tokens else None,
            "forecast": self.forecast.to_json(),
            "explanation": self.explanation.to_json(),
        }


def plan(
    source: str, config: RunConfig, number: int | None = None, progress: Progress | None = None
) -> Plan:
    """Estimate a run on rows of `number` of its prompts, which are made in memory.

    They are those with the smallest content hashes, so that the file's order does not matter. By
    default as many as keep vLLM busy, twice `engine.max_num_seqs`; 32 on transformers. Raises as
    `preview`, and InputError where fewer than 30 rows can be made.
    """
    progress = progress or NullProgress()
    progress.phase("checking the prompts")
    rules_of(config)
    line, _, candidates = open_prompts(source, config.source)
    progress.note(line)
    is_vllm = resolve_name(config.engine) == "vllm"
    number = number or (2 * config.engine.max_num_seqs if is_vllm else 32)
    counted = max(number, _MOST_COUNTED)
    some, prompts, bad = _probe(candidates, counted)
    probe, samples = some[:number], config.sampling.samples
    if len(probe) * samples < FEWEST:  # it is then the whole source
        of_each = f" of {samples} samples each" if samples > 1 else ""
        raise InputError(
            f"{source}: has {prompts} prompts{of_each}, and fewer than {FEWEST} rows foretell "
            "nothing; give more prompts (`sso-data preview --summary` takes any number)"
        )
    progress.note(f"{prompts} prompts; making rows of {len(probe)} of them")
    if config.scoring.when == "needed":
        progress.note(f"time and tokens are upper estimates: {LESS_LATER}")
    progress.phase("checking the model and its chat template")
    started = time.monotonic()
    memory, counts, setup = _made(probe, config, progress)
    loading = time.monotonic() - started - counts.seconds
    data = b"".join(memory.records.values())
    found = forecast(
        data,
        config.filter,
        seconds=counts.seconds,
        work=counts.rows + counts.failed,
        total=prompts * samples,
    )
    if found is None:
        more = f"a larger -n, up to {prompts}" if len(probe) < prompts else "more prompts"
        why = sorted({failure.reason for failure in memory.failures})
        raise InputError(
            f"{source}: the probe made {counts.rows} rows, {counts.failed} failed "
            f"({', '.join(why)}), and fewer than {FEWEST} foretell nothing; give {more}"
        )
    return Plan(
        prompts=prompts,
        bad=bad,
        probed=counts.rows,
        failed=counts.failed,
        rows=prompts * samples,
        in_flight=memory.findings["engine"]["max_in_flight"],
        loading=loading,
        forecast=found,
        explanation=explain(
            np.frombuffer(data, SCORES), config.filter, features=_features(memory.rows)
        ),
        prompt_tokens=_prompt_tokens(some, prompts, setup),
    )


def _prompt_tokens(some: Sequence[Candidate], prompts: int, setup: Setup) -> Estimate | None:
    """Return the tokens of all prompts under three views by `some` of them, which may be all."""
    if setup.rules.asks_a_model:
        return None
    samples, found = setup.config.sampling.samples, []
    for prompt in prompts_of(some, partial(Ledger().next_ids, samples=samples), lambda _: True):
        one = setup.rules.by_rule(prompt.id)
        with suppress(Unrenderable):
            views = setup.policy.template.views(
                prompt.messages, one.good, one.bad, one.steering.placement
            )
            found.append(float(sum(map(len, views.ids.values()))))
    if len(some) == prompts:
        return Estimate(*[sum(found)] * 3)
    mean = mean_of(found)
    return mean and mean.times(len(found) / len(some) * prompts)


def _probe(
    candidates: Iterable[Candidate | BadRow], number: int
) -> tuple[list[Candidate], int, int]:
    """Return the candidates with the smallest content hashes, and how many there are, and bad."""
    prompts = bad = 0

    def good() -> Iterator[Candidate]:
        nonlocal prompts, bad
        for one in candidates:
            if isinstance(one, BadRow):
                bad += 1
            else:
                prompts += 1
                yield one

    found = heapq.nsmallest(number, good(), key=lambda one: content_hash(one.messages))
    return found, prompts, bad


def _made(
    candidates: Sequence[Candidate | BadRow], config: RunConfig, progress: Progress
) -> tuple[_Memory, RowCounts, Setup]:
    """Make whole rows of the candidates in memory, so that every response can be shown."""
    whole = config.scoring.model_copy(update={"when": "all"})
    setup = prepare(config.model_copy(update={"scoring": whole}), progress=progress)
    if resolve_name(config.engine) == "vllm" and not config.engine.servers:
        progress.note(f"scoring: {planned_scoring(setup.model_dir, config.engine)}")
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
    counts = make_rows(
        candidates,
        setup,
        memory,
        memory,
        progress,
        guide=guide if setup.rules.asks_a_model else None,
        total=total,
    )
    return memory, counts, setup
