"""The order of the stages: prompts in, rows out, with many rows in flight at once.

A row's six answers in the order they come: three responses (each is scored under the other views as
soon as it ends, while its prompts are still in the engine's cache), then the scores. Nothing here
waits for one row while others could go on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

from sso_data.config.run import RunConfig
from sso_data.core.records import (
    ON_VIEW,
    VIEWS,
    Cell,
    Failure,
    Prompt,
    Response,
    Row,
    View,
    content_hash,
    hash_ids,
)
from sso_data.engines.driver import Window, drive
from sso_data.engines.interface import Engine, Refused, Request, Result, Sampled, Scored
from sso_data.generation import sample, score
from sso_data.generation.sample import SamplingPlan
from sso_data.generation.score import CheckResult, LogprobCheck
from sso_data.models.directory import Policy
from sso_data.prompts import BadRow, Candidate
from sso_data.prompts.rows import unanswerable
from sso_data.steering.rules import Steered
from sso_data.templating.chat_template import Unrenderable


class Sink(Protocol):
    """Where finished rows and failures go."""

    def admit(self, content: str) -> tuple[str, bool]:
        """The id of the next prompt with this content hash, and whether it still has to be done."""
        ...

    def write_row(self, row: Row) -> bytes:
        """Keep a row; returns its `columns.SCORES` record."""
        ...

    def write_failure(self, failure: Failure) -> None: ...


@dataclass(slots=True)
class RowCounts:
    """Counts since this process started; `skipped` were done or failed before."""

    taken: int = 0
    skipped: int = 0
    rows: int = 0
    failed: int = 0
    tokens: int = 0

    @property
    def done(self) -> int:
        """Prompts that are finished, those of earlier processes included."""
        return self.rows + self.failed + self.skipped


@dataclass(slots=True, eq=False)
class _InFlight:
    """One row that is being made."""

    plan: SamplingPlan
    verifies: bool
    responses: dict[View, Response] = field(default_factory=dict)
    sampled: dict[Cell, float] = field(default_factory=dict)
    scored: dict[Cell, float] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)


class Pipeline:
    """Makes rows of candidates with one engine and hands them to a sink.

    The engine is started by `start_engine` when the first prompt needs it, so that a run with
    nothing left to do costs no GPU. `steer` is asked once about each prompt.
    """

    def __init__(
        self,
        start_engine: Callable[[], Engine],
        policy: Policy,
        steer: Callable[[Prompt], Steered],
        config: RunConfig,
        sink: Sink,
        *,
        check: LogprobCheck,
        on_check: Callable[[CheckResult], None] = lambda result: None,
        on_record: Callable[[bytes], None] = lambda record: None,
    ) -> None:
        self._policy = policy
        self._steer = steer
        self._config = config
        self._sink = sink
        self._check = check
        self._on_check = on_check
        self._on_record = on_record
        self._rows: dict[str, _InFlight] = {}
        self._held: list[_InFlight] = []
        self._verifying = 0
        engine = self._engine = cache(start_engine)
        self._window = Window[Request, Result](engine, lambda: engine().info.max_in_flight)
        self.counts = RowCounts()

    def run(self, candidates: Iterable[Candidate | BadRow]) -> Iterator[RowCounts]:
        """Make a row or a failure of every candidate; yields after every step of the engine."""
        todo = self._plans(candidates)
        for _ in drive(
            self._window,
            todo,
            self._start,
            self._take,
            is_full=self._is_full,
            settle=self._settle_check,
        ):
            yield self.counts
        yield self.counts

    def _is_full(self) -> bool:
        """Whether enough rows are in flight to keep the engine busy.

        Rows held for the log-prob check ask the engine nothing, but are not written yet either:
        their number is bounded too.
        """
        if not self._rows:
            return False
        window = self._window.size
        busy = len(self._rows) - len(self._held)
        return busy * len(VIEWS) >= window or (
            len(self._held) * len(VIEWS) >= window and len(self._held) >= self._verify_rows
        )

    def _plans(self, candidates: Iterable[Candidate | BadRow]) -> Iterator[SamplingPlan]:
        """What is still to be done; failures that need no engine are written on the way."""
        for candidate in candidates:
            self.counts.taken += 1
            if isinstance(candidate, BadRow):
                self._admit_bad(candidate)
                continue
            identity, is_open = self._sink.admit(content_hash(candidate.messages))
            if not is_open:
                self.counts.skipped += 1
                continue
            planned = self._plan(
                Prompt(
                    id=identity,
                    messages=candidate.messages,
                    source_id=candidate.source_id,
                    metadata=candidate.metadata,
                )
            )
            if isinstance(planned, Failure):
                self._fail(planned)
            else:
                yield planned

    def _admit_bad(self, bad: BadRow) -> None:
        """A row of the file that is no prompt: it is named in failed.jsonl."""
        identity, is_open = self._sink.admit(content_hash(bad.messages))
        if is_open:
            prompt = Prompt(id=identity, messages=bad.messages)
            detail = f"{bad.where}: {bad.detail}"
            self._fail(sample.failure(prompt, stage="source", reason="malformed", detail=detail))
        else:
            self.counts.skipped += 1

    def _plan(self, prompt: Prompt) -> SamplingPlan | Failure:
        problem = unanswerable(prompt.messages)
        if problem:
            reason, detail = problem
            return sample.failure(prompt, stage="source", reason=reason, detail=detail)
        steered = self._steer(prompt)
        try:
            rendered = self._policy.template.views(prompt.messages, steered.good, steered.bad)
        except Unrenderable as error:
            return sample.failure(prompt, stage="views", reason=error.reason, detail=str(error))
        return sample.plan(
            prompt,
            steered.steering,
            rendered,
            self._config.sampling,
            run_seed=self._config.seed,
            context_tokens=self._engine().info.context_tokens,
        )

    def _start(self, plan: SamplingPlan) -> None:
        """Ask for a row's three responses."""
        undecided = self._check.result is None
        verifies = undecided and self._check.rows + self._verifying < self._verify_rows
        row = _InFlight(plan=plan, verifies=verifies)
        self._verifying += verifies
        self._rows[plan.prompt.id] = row
        for view in VIEWS:
            key = f"{plan.prompt.id}/{view}"
            self._ask(row, sample.request(plan, view, self._config.sampling, key=key))

    @property
    def _verify_rows(self) -> int:
        return self._config.scoring.verify_rows

    def _ask(self, row: _InFlight, request: Request) -> None:
        row.waiting.add(request.key)
        self._window.ask(request)

    def _take(self, result: Result) -> None:
        """Put one answer of the engine into its row; answers for rows that failed are dropped."""
        identity, _, cell = result.key.partition("/")
        row = self._rows.get(identity)
        if row is None:
            return
        row.waiting.discard(result.key)
        match result:
            case Refused():
                stage = "score" if "/" in cell else "sample"
                self._drop(row, stage, result.reason, result.detail)
                return
            case Sampled():
                self._take_response(row, _view(cell), result)
            case Scored():
                seen, _, drawn = cell.partition("/")
                row.scored[_view(seen), _view(drawn)] = result.total_nats
        if not row.waiting:
            self._complete(row)

    def _take_response(self, row: _InFlight, drawn: View, sampled: Sampled) -> None:
        response = sample.response(sampled, self._policy.template)
        row.responses[drawn] = response
        row.sampled[drawn, drawn] = sampled.total_nats
        self.counts.tokens += response.num_tokens
        disagreed = self._check.result is not None and not self._check.result.agreed
        cells = score.cells_of(
            drawn, full=self._config.scoring.full, diagonal=row.verifies or disagreed
        )
        for cell in cells:
            self._ask_score(row, cell)

    def _ask_score(self, row: _InFlight, cell: Cell) -> None:
        seen, drawn = cell
        key = f"{row.plan.prompt.id}/{seen}/{drawn}"
        prompt_ids, response = row.plan.rendered.ids[seen], row.responses[drawn]
        self._ask(row, score.request(prompt_ids, response, key=key, was_sampled=seen == drawn))

    def _complete(self, row: _InFlight) -> None:
        """All answers are there: write the row, or hold it until the log-prob check has decided."""
        if row.verifies:
            self._check.compare(row.sampled, row.scored, row.responses)
            self._verifying -= 1
        if self._check.result is None:
            self._held.append(row)
        else:
            self._finish(row)

    def _settle_check(self, exhausted: bool) -> None:
        """Decide whether sampling-time log-probs are used, as soon as enough rows were compared."""
        if self._check.result is not None or self._verifying:
            return
        short = self._verify_rows - self._check.rows
        unverified = [row for row in self._held if not row.verifies]
        is_last = exhausted and len(self._held) == len(self._rows)
        if short > 0 and unverified:
            for row in unverified[:short]:
                self._verify(row)
        elif self._check.rows and (short <= 0 or is_last):
            self._on_check(self._check.conclude())
            held, self._held = self._held, []
            for row in held:
                self._finish(row)

    def _verify(self, row: _InFlight) -> None:
        """Score the diagonal of a held row too, because rows chosen before it failed."""
        self._held.remove(row)
        row.verifies = True
        self._verifying += 1
        for cell in ON_VIEW:
            self._ask_score(row, cell)

    def _finish(self, row: _InFlight) -> None:
        """Write the row, once its diagonal cells are those that the check decided on."""
        assert self._check.result is not None
        if self._check.result.agreed:
            diagonal = row.sampled
        else:
            missing = [cell for cell in ON_VIEW if cell not in row.scored]
            for cell in missing:
                self._ask_score(row, cell)
            if missing:
                return
            diagonal = row.scored
        finished = self._row(row, diagonal)
        record = self._sink.write_row(finished)
        del self._rows[finished.id]
        self.counts.rows += 1
        self._on_record(record)

    def _row(self, row: _InFlight, diagonal: Mapping[Cell, float]) -> Row:
        plan, template = row.plan, self._policy.template
        return Row(
            id=plan.prompt.id,
            source_id=plan.prompt.source_id,
            messages=plan.prompt.messages,
            steering=plan.steering,
            system=plan.rendered.system,
            responses=row.responses,
            logp={**row.scored, **{cell: diagonal[cell] for cell in ON_VIEW}},
            seed=plan.seed,
            prompt_hash={view: hash_ids(plan.rendered.ids[view]) for view in VIEWS},
            model=self._policy.name,
            model_fingerprint=self._policy.fingerprint,
            template_fingerprint=template.fingerprint,
            template_kwargs=template.kwargs_json,
            metadata=plan.prompt.metadata,
        )

    def _drop(self, row: _InFlight, stage: str, reason: str, detail: str) -> None:
        """The engine refused a part of this row: the row fails, the run goes on."""
        if row.verifies:
            self._verifying -= 1
        del self._rows[row.plan.prompt.id]
        self._fail(sample.failure(row.plan.prompt, stage=stage, reason=reason, detail=detail))

    def _fail(self, failure: Failure) -> None:
        self._sink.write_failure(failure)
        self.counts.failed += 1


def _view(name: str) -> View:
    for view in VIEWS:
        if view == name:
            return view
    raise KeyError(name)
