"""The walk from prompts to rows, with many rows in flight at once.

A row's answers in the order they come: three responses, each scored under the other views as soon
as it ends (its prompts are then still in the engine's cache), then the scores. Rows do not wait for
each other, except that the first ones wait for the log-prob check.

With `scoring.when=needed` most rows are made step by step instead: y-, then what ORDER says, until
the filter's tests have dropped the row or nothing is left to ask.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal, Protocol

import numpy as np

from sso_data.config.run import RunConfig
from sso_data.core.errors import RunError
from sso_data.core.records import (
    FIRST_VIEW,
    NEEDED_CELLS,
    ON_VIEW,
    OPTIONAL_SCORE,
    STEERED_VIEWS,
    VIEWS,
    Cell,
    Failure,
    Prompt,
    Response,
    Row,
    View,
    content_hash,
    derive_seed,
    hash_ids,
)
from sso_data.engines.driver import Window, drive
from sso_data.engines.interface import (
    Engine,
    Refused,
    Request,
    Result,
    Sampled,
    SampleRequest,
    Scored,
    ScoreRequest,
)
from sso_data.filtering.filters import decided_early
from sso_data.generation.forecast import Forecast
from sso_data.generation.logprob_check import CheckResult, LogprobCheck
from sso_data.models.directory import Policy
from sso_data.prompts import BadRow, Candidate
from sso_data.prompts.rows import unanswerable
from sso_data.runs.columns import Flag, Rows, fill, record_of, row_key
from sso_data.runs.tokens import Cells
from sso_data.steering.rules import Steered
from sso_data.templating.chat_template import (
    ChatTemplate,
    RenderedViews,
    Unrenderable,
    steered_turns,
)

Y0: Cell = ("plain", "plain")
_CONTRAST: tuple[Cell, ...] = (
    *(("good", "bad"), ("bad", "good"), Y0),
    *(("plain", "bad"), ("plain", "good"), ("bad", "plain")),
)
ORDER: Mapping[Literal["chain", "contrast", "off"], tuple[Cell, ...]] = {
    "chain": (
        *(("good", "bad"), ("plain", "bad"), ("bad", "good"), ("plain", "good"), Y0),
        ("bad", "plain"),
    ),
    "contrast": _CONTRAST,
    "off": _CONTRAST,
}
"""By steering test, what is asked for of a row, one cell (seen, drawn) after the other; before the
first cell of a response, and for Y0, it is sampled. docs/architecture.md says why in this order."""


class Sink(Protocol):
    """The place that finished rows and failures go to."""

    def admit(self, content: str, samples: int) -> list[tuple[str, bool]]:
        """Return the ids of the next prompt with this hash, each with True if it is to be done."""
        ...

    def write_row(self, row: Row, record: Rows | None = None) -> bytes:
        """Keep a row, of which `record_of` may be known; return its `columns.SCORES` record."""
        ...

    def write_failure(self, failure: Failure) -> None: ...


@dataclass(slots=True)
class RowCounts:
    """Counts since this process started; `skipped` were done or failed before.

    `responses`: those of rows that are being made; `tokens`: sampled, `seconds`: from the first
    prompt to the last row; `forecast`: what the first rows foretold, where they were enough.
    """

    taken: int = 0
    skipped: int = 0
    rows: int = 0
    failed: int = 0
    responses: int = 0
    tokens: int = 0
    seconds: float = 0.0
    forecast: Forecast | None = None

    @property
    def done(self) -> int:
        """Prompts that are finished, those of earlier processes included."""
        return self.rows + self.failed + self.skipped

    @property
    def speed(self) -> str:
        """Rows and sampled tokens a second, as a phrase; "" where there is nothing to measure."""
        if not self.rows or not self.seconds:
            return ""
        rows, tokens = self.rows / self.seconds, self.tokens / self.seconds
        return f"{rows:.3g} rows/s, {tokens:,.0f} tokens/s"


@dataclass(slots=True, eq=False, kw_only=True)
class _InFlight:
    """One row that is being made.

    `base`: the row without what the engine says. `number`: how many rows were begun before.
    `max_tokens` is the same for its three responses. `stepwise`: it may be dropped before
    everything about it is asked for; `asked` are then the cells asked for so far. `verifies`: its
    on-view cells are scored for the log-prob check. `sampled` and `scored` hold total nats;
    `waiting` the cells that the engine was asked for, by request key (a response is asked for under
    its on-view cell). `nats`: the log-probs of tokens, where they are kept. `record`: of a
    stepwise row, what the filter reads of it, made anew with each response.
    """

    base: Row
    rendered: RenderedViews
    max_tokens: int
    stepwise: bool = False
    verifies: bool = False
    asked: set[Cell] = field(default_factory=set)
    responses: dict[View, Response] = field(default_factory=dict)
    sampled: dict[Cell, float] = field(default_factory=dict)
    scored: dict[Cell, float] = field(default_factory=dict)
    waiting: dict[str, Cell] = field(default_factory=dict)
    nats: dict[tuple[type[Result], Cell], tuple[float, ...]] = field(default_factory=dict)
    record: Rows | None = None
    number: int = 0


class Pipeline:
    """Makes rows of candidates with one engine and hands them to a sink.

    `start_engine` is called when the first prompt needs the engine, so that a run with nothing left
    to do costs no GPU. `steer` is called once for each prompt. `is_complete` tells by its key which
    row is made in full whatever it turns out to be. `keep` takes the log-probs of each row's tokens
    before the sink takes the row; without it they are not asked for.
    """

    def __init__(  # noqa: PLR0913 - what a run is made of
        self,
        start_engine: Callable[[], Engine],
        policy: Policy,
        steer: Callable[[Prompt], Steered],
        config: RunConfig,
        sink: Sink,
        *,
        check: LogprobCheck,
        on_check: Callable[[CheckResult], None] = lambda result: None,
        on_record: Callable[[bytes, int, tuple[str, ...]], None] = lambda *_: None,
        is_complete: Callable[[int], bool] = lambda key: False,
        keep: Callable[[Row, Cells], None] | None = None,
    ) -> None:
        self._keep = keep
        self._policy = policy
        self._steer = steer
        self._config = config
        self._sink = sink
        self._check = check
        self._on_check = on_check
        self._on_record = on_record
        self._is_complete = is_complete
        self._rows: dict[str, _InFlight] = {}
        self._held: list[_InFlight] = []
        self._answered: list[_InFlight] = []
        self._verifying = self._begun = 0
        engine = self._engine = cache(start_engine)
        self._window = Window[Request, Result](engine, lambda: engine().info.max_in_flight)
        self.counts = RowCounts()

    def run(self, candidates: Iterable[Candidate | BadRow]) -> Iterator[RowCounts]:
        """Make a row or a failure of every candidate; yields after every step of the engine.

        Raises EngineError when the engine is lost for good, RunError when a row cannot be written.
        """
        yield from self._driven(self._planned(candidates), self._start)

    def complete(self, rows: Iterable[Row]) -> Iterator[RowCounts]:
        """Make whole rows of those of which not everything was asked for; yields and raises as
        `run`."""
        yield from self._driven(map(self._resumed, rows), self._resume)

    def _driven(
        self, todo: Iterator[_InFlight], begin: Callable[[_InFlight], None]
    ) -> Iterator[RowCounts]:
        for _ in drive(
            self._window,
            todo,
            begin,
            self._take,
            is_full=self._is_full,
            settle=self._settle,
        ):
            yield self.counts
        yield self.counts

    def _is_full(self) -> bool:
        """Return True when enough rows are in flight to keep the engine busy.

        Rows held for the log-prob check need no answers now, but are not written yet either: their
        number is bounded too.
        """
        if not self._rows:
            return False
        window = self._window.size
        busy = len(VIEWS) * (len(self._rows) - len(self._held))
        if self._config.scoring.when == "needed":  # most rows have one request in flight
            busy = self._window.in_flight + len(self._answered)
        return busy >= window or (
            len(self._held) * len(VIEWS) >= window and len(self._held) >= self._verify_rows
        )

    @property
    def finished(self) -> int:
        """So many rows, the first ones begun, are all done or failed."""
        return next(iter(self._rows.values())).number if self._rows else self._begun

    @property
    def cohort(self) -> int:
        """Rows after which the engine has been busy for a while: as many as it has requests."""
        return self._window.size

    @property
    def _verify_rows(self) -> int:
        return self._config.scoring.verify_rows

    def _planned(self, candidates: Iterable[Candidate | BadRow]) -> Iterator[_InFlight]:
        """Yield the rows to make; failures that need no engine are written on the way."""
        samples = self._config.sampling.samples
        for candidate in candidates:
            for identity, is_open in self._sink.admit(content_hash(candidate.messages), samples):
                self.counts.taken += 1
                if not is_open:
                    self.counts.skipped += 1
                elif row := self._row_of(candidate, identity):
                    yield row

    def _row_of(self, candidate: Candidate | BadRow, identity: str) -> _InFlight | None:
        """Return the row to make under an id; None where it has failed, which is written."""
        if isinstance(candidate, BadRow):
            prompt = Prompt(id=identity, messages=candidate.messages)
            self._fail(prompt, "source", "malformed", f"{candidate.where}: {candidate.detail}")
            return None
        return self._plan(
            Prompt(
                id=identity,
                messages=candidate.messages,
                source_id=candidate.source_id,
                metadata=candidate.metadata,
            )
        )

    def _plan(self, prompt: Prompt) -> _InFlight | None:
        """Render a prompt's three views and choose its seeds and budget; None where that fails.

        The budget is min(max_tokens, context - longest of the three prompts), the same for all
        views, so that no view's response is cut off earlier than another's.
        """
        if problem := unanswerable(prompt.messages):
            self._fail(prompt, "source", *problem)
            return None
        steered = self._steer(prompt)
        try:
            rendered = self._policy.template.views(
                prompt.messages, steered.good, steered.bad, steered.steering.placement
            )
        except Unrenderable as error:
            self._fail(prompt, "views", error.reason, str(error))
            return None
        config, context = self._config.sampling, self._engine().info.context_tokens
        budget = min(config.max_tokens, context - rendered.longest)
        if budget < min(config.min_completion, config.max_tokens):
            detail = (
                f"the longest view has {rendered.longest} tokens, the context {context}: less than "
                f"sampling.min_completion {config.min_completion} are left"
            )
            self._fail(prompt, "sample", "prompt_too_long", detail)
            return None
        template = self._policy.template
        base = Row(
            id=prompt.id,
            source_id=prompt.source_id,
            messages=prompt.messages,
            steering=steered.steering,
            system=rendered.system,
            user=rendered.user,
            responses={},
            logp={},
            seed={view: derive_seed(self._config.seed, prompt.id, view) for view in VIEWS},
            prompt_hash={view: hash_ids(rendered.ids[view]) for view in VIEWS},
            model=self._policy.name,
            model_fingerprint=self._policy.fingerprint,
            template_fingerprint=template.fingerprint,
            template_kwargs=template.kwargs_json,
            metadata=prompt.metadata,
        )
        stepwise = self._config.scoring.when == "needed" and not self._is_complete(
            row_key(prompt.id)
        )
        return _InFlight(base=base, rendered=rendered, max_tokens=budget, stepwise=stepwise)

    def _resumed(self, row: Row) -> _InFlight:
        """Render the views of a row again, as they were. Raises RunError where they differ."""
        ids = prompt_ids(row, self._policy.template)
        rendered = RenderedViews(ids=ids, system=row.system, user=row.user)
        context = self._engine().info.context_tokens
        budget = min(self._config.sampling.max_tokens, context - rendered.longest)
        return _InFlight(base=row, rendered=rendered, max_tokens=budget)

    def _resume(self, row: _InFlight) -> None:
        """Ask for everything that a row lacks."""
        self._admit(row)
        result, known = self._check.result, row.base.logp
        row.scored = {cell: nats for cell, nats in known.items() if cell not in ON_VIEW}
        on_view = row.sampled if result is None or result.agreed else row.scored
        on_view |= {cell: nats for cell, nats in known.items() if cell in ON_VIEW}
        for view in VIEWS:
            if view in row.base.responses:
                row.responses[view] = row.base.responses[view]
                self.counts.responses += 1
                self._ask_other_views(row, view)
            else:
                self._ask_sample(row, view)
        if not row.waiting:
            self._complete(row)

    def _admit(self, row: _InFlight) -> None:
        """Take a row in, for the log-prob check too where it can be compared at once."""
        undecided = self._check.result is None and not row.stepwise
        row.verifies = undecided and self._check.rows + self._verifying < self._verify_rows
        self._verifying += row.verifies
        row.number = self._begun
        self._begun += 1
        self._rows[row.base.id] = row

    def _start(self, row: _InFlight) -> None:
        """Ask for a row's responses: all three, or first the one at which most rows fail."""
        self._admit(row)
        for view in (FIRST_VIEW,) if row.stepwise else VIEWS:
            self._ask_sample(row, view)

    def _ask_sample(self, row: _InFlight, view: View) -> None:
        """Ask for the response under a view."""
        request = SampleRequest(
            key=f"{row.base.id}/{view}",
            prompt_ids=row.rendered.ids[view],
            max_tokens=row.max_tokens,
            seed=row.base.seed[view],
            temperature=self._config.sampling.temperature,
            top_p=self._config.sampling.top_p,
            top_k=self._config.sampling.top_k,
            min_p=self._config.sampling.min_p,
            per_token=self._keep is not None,
        )
        row.waiting[request.key] = (view, view)
        self._window.ask(request)

    def _take(self, result: Result) -> None:
        """Put one answer of the engine into its row; answers for rows that failed are dropped."""
        row = self._rows.get(result.key.partition("/")[0])
        if row is None:
            return
        cell = row.waiting.pop(result.key)
        drawn = cell[1]
        match result:
            case Refused():
                stage = "score" if drawn in row.responses else "sample"
                self._verifying -= row.verifies and self._check.result is None
                self.counts.responses -= len(row.responses)
                del self._rows[row.base.id]
                self._fail(row.base, stage, result.reason, result.detail)
                return
            case Sampled():
                row.responses[drawn] = response_of(result, self._policy.template)
                row.record = None
                row.sampled[cell] = result.total_nats
                row.nats[Sampled, cell] = result.nats
                self.counts.responses += 1
                self.counts.tokens += len(result.token_ids)
                if not row.stepwise:
                    self._ask_other_views(row, drawn)
            case Scored():
                row.scored[cell] = result.total_nats
                row.nats[Scored, cell] = result.nats
        if not row.waiting:
            self._complete(row)

    def _ask_other_views(self, row: _InFlight, drawn: View) -> None:
        """Ask for the scores of a response: eight of nine cells of a row, the ninth with `full`.

        The three on-view ones come from sampling, unless the log-prob check needs or wants others.
        """
        on_view = row.verifies or self._scores_on_view
        for cell in self._cells:
            if cell[1] == drawn and cell not in row.scored and (on_view or cell not in ON_VIEW):
                self._ask_score(row, cell)

    @property
    def _cells(self) -> tuple[Cell, ...]:
        """The cells of a whole row."""
        return (*NEEDED_CELLS, OPTIONAL_SCORE) if self._config.scoring.full else NEEDED_CELLS

    @property
    def _scores_on_view(self) -> bool:
        """True if the log-prob check decided that on-view cells are scored like the others."""
        return self._check.result is not None and not self._check.result.agreed

    def _source_of(self, cell: Cell) -> type[Result]:
        """Return the kind of answer that gives a cell of a row."""
        return Sampled if cell in ON_VIEW and not self._scores_on_view else Scored

    def _ask_score(self, row: _InFlight, cell: Cell) -> None:
        """Ask for one cell: the response's own ids after the prompt of the view `seen`."""
        seen, drawn = cell
        request = ScoreRequest(
            key=f"{row.base.id}/{seen}/{drawn}",
            prompt_ids=row.rendered.ids[seen],
            completion_ids=row.responses[drawn].token_ids,
            was_sampled=seen == drawn,
            per_token=self._keep is not None,
        )
        row.waiting[request.key] = cell
        self._window.ask(request)

    def _complete(self, row: _InFlight) -> None:
        """Write a row that has all its answers, or hold it until the log-prob check has decided."""
        if row.verifies and self._check.result is None:
            self._check.compare(row.sampled, row.scored, row.responses)
            self._verifying -= 1
        if self._check.result is None:
            self._held.append(row)
        else:
            self._finish(row)

    def _settle(self, exhausted: bool) -> None:
        """Decide what the answers of a step decide: the log-prob check, and stepwise rows."""
        self._settle_check(exhausted)
        if self._answered:
            self._advance()

    def _settle_check(self, exhausted: bool) -> None:
        """Decide whether sampling-time log-probs are used, as soon as enough rows were compared.

        Held rows are verified too where rows chosen before them failed.
        """
        if self._check.result is not None or self._verifying:
            return
        short = self._verify_rows - self._check.rows
        unverified = [row for row in self._held if not row.verifies]
        is_last = exhausted and len(self._held) == len(self._rows)
        if short > 0 and unverified:
            for row in unverified[:short]:
                self._held.remove(row)
                row.verifies = True
                self._verifying += 1
                for view in row.responses:
                    self._ask_score(row, (view, view))
        elif self._check.rows and (short <= 0 or is_last):
            self._on_check(self._check.conclude())
            held, self._held = self._held, []
            for row in held:
                self._finish(row)

    def _finish(self, row: _InFlight) -> None:
        """Write the row; ask for its on-view cells before, if the check decided on scored ones."""
        if row.stepwise:
            self._answered.append(row)
            return
        on_view = row.scored if self._scores_on_view else row.sampled
        missing = [cell for cell in ON_VIEW if cell not in on_view]
        for cell in missing:
            self._ask_score(row, cell)
        if missing:
            return
        logp = {**row.scored, **{cell: on_view[cell] for cell in ON_VIEW}}
        self._write(row, replace(row.base, responses=row.responses, logp=logp, rest_not_asked=""))

    def _advance(self) -> None:
        """Write the stepwise rows that are decided or whole; ask for the next step of the others.

        All that a step of the engine answered are decided at once. What is written depends on each
        row alone, not on when its answers came.
        """
        rows, self._answered = self._answered, []
        records = [self._record(row) for row in rows]
        reasons = decided_early(np.concatenate(records), self._config.filter)
        for row, record, reason in zip(rows, records, reasons, strict=True):
            todo = self._next_cells(row)
            if not todo:
                reason = ""
                record["flags"] &= ~np.uint16(Flag.REST_NOT_ASKED)
            if reason is not None:
                self._write(row, self._so_far(row, reason), record)
                continue
            for cell in todo:
                if cell[1] not in row.responses:
                    self._ask_sample(row, cell[1])
                else:
                    row.asked.add(cell)
                    self._ask_score(row, cell)

    def _record(self, row: _InFlight) -> Rows:
        """Return the record of a stepwise row, with all that is known by now."""
        if row.record is None:
            row.record = record_of(self._so_far(row, "open"))
        else:
            fill(row.record, self._known(row))
        return row.record

    def _so_far(self, row: _InFlight, rest_not_asked: str) -> Row:
        """Return a stepwise row with what is known of it."""
        logp = self._known(row)
        return replace(row.base, responses=row.responses, logp=logp, rest_not_asked=rest_not_asked)

    def _known(self, row: _InFlight) -> dict[Cell, float]:
        """Return the cells of a stepwise row that were asked for."""
        on_view = row.asked if self._scores_on_view else [(view, view) for view in row.responses]
        known = row.scored if self._scores_on_view else {**row.scored, **row.sampled}
        return {cell: known[cell] for cell in (*row.asked, *on_view) if cell in known}

    def _next_cells(self, row: _InFlight) -> list[Cell]:
        """Return the next cells to ask for, none where the row is whole.

        The on-view cell of a response stands for its sample. One that must be scored goes with the
        first other one of its response.
        """
        for cell in (*ORDER[self._config.filter.steering_test], OPTIONAL_SCORE):
            own = (cell[1], cell[1])
            if cell[1] not in row.responses:
                return [own]
            if cell == Y0 or cell in row.asked or cell not in self._cells:
                continue
            with_own = self._scores_on_view and own not in row.asked
            return [own, cell] if with_own else [cell]
        return []

    def _write(self, row: _InFlight, finished: Row, record: Rows | None = None) -> None:
        if self._keep is not None:
            by_cell = {
                cell: row.nats.get((self._source_of(cell), cell), ()) for cell in finished.logp
            }
            self._keep(finished, {cell: nats for cell, nats in by_cell.items() if nats})
        stored = self._sink.write_row(finished, record)
        del self._rows[finished.id]
        self.counts.responses -= len(row.responses)
        self.counts.rows += 1
        self._on_record(stored, row.number, finished.steering.features)

    def _fail(self, prompt: Prompt | Row, stage: str, reason: str, detail: str) -> None:
        """Write the failure of a prompt, with everything that a retry needs."""
        self._sink.write_failure(
            Failure(
                id=prompt.id,
                stage=stage,
                reason=reason,
                detail=detail,
                source_id=prompt.source_id,
                messages=prompt.messages,
                metadata=prompt.metadata,
            )
        )
        self.counts.failed += 1


def prompt_ids(row: Row, template: ChatTemplate) -> dict[View, list[int]]:
    """Render the views of a row again, as they were. Raises RunError where they differ."""
    turns = {
        view: steered_turns(row.messages, row.system[view], row.user.get(view, ""))
        for view in STEERED_VIEWS
    }
    ids = {view: template.ids(turns.get(view, row.messages)) for view in VIEWS}
    if {view: hash_ids(ids[view]) for view in VIEWS} != row.prompt_hash:
        raise RunError(
            f"row {row.id}: its prompts render to other token ids than when it was sampled; "
            "restore its line from a copy, or make the run again"
        )
    return ids


def response_of(sampled: Sampled, template: ChatTemplate) -> Response:
    """Return the engine's answer as a response; an unclosed thinking block is a finish reason."""
    text = template.text(sampled.token_ids)
    unclosed = template.is_unclosed_thinking(text)
    return Response(
        token_ids=sampled.token_ids,
        text=text,
        finish_reason="unclosed_thinking" if unclosed else sampled.finish_reason,
    )
