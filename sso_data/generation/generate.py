"""`generate`: check everything before the engine starts, then make rows of all prompts."""

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sso_data.config.migration import defaults_of, with_defaults
from sso_data.config.run import VLLM_SPEED_KEYS, EngineConfig, RunConfig
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.paths import public_name
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import VIEWS, Prompt, Row, content_hash, messages_from_json
from sso_data.core.trees import leaves
from sso_data.engines import resolve_name, start_engine
from sso_data.engines.interface import PROBE_NATS, Engine, EngineInfo
from sso_data.filtering.explain import Explanation, explain, features_of
from sso_data.filtering.filters import Decision, passing
from sso_data.filtering.refilter import filter_again, standing_filter
from sso_data.generation.elsewhere import Elsewhere
from sso_data.generation.forecast import FEWEST, LESS_LATER, check_room, forecast
from sso_data.generation.logprob_check import LogprobCheck
from sso_data.generation.pipeline import Pipeline, RowCounts, Sink
from sso_data.models.checks import check_model
from sso_data.models.directory import (
    Policy,
    engine_dir,
    engine_fingerprint,
    tokenizer_fingerprint,
)
from sso_data.models.facts import read_model_facts
from sso_data.prompts import BadRow, Candidate, open_prompts, read_prompts
from sso_data.runs.columns import SCORES, is_always_complete, row_key
from sso_data.runs.journal import FIRST_ROWS, first_rows
from sso_data.runs.jsonl import ScratchLines
from sso_data.runs.ledger import DONE, ELSEWHERE, FAILED, Ledger
from sso_data.runs.run import RUN, Account, Given, Run, open_run, origin_of, read_run, require_run
from sso_data.runs.steering import SteeringStore
from sso_data.runs.tokens import TokenStore
from sso_data.runs.workdir import refuse_other_content, stored_defaults
from sso_data.steering.counts import SteeringCounts
from sso_data.steering.models import LazyEngine, identity_of, steered
from sso_data.steering.passes import Guide, prompts_of
from sso_data.steering.rules import Rules, load_rules
from sso_data.templating.chat_template import ChatTemplate, load_tokenizer, today

_IDENTITY_SECTIONS = ("sampling", "scoring")
_IDENTITY_ENGINE_KEYS = ("dtype", "max_model_len")
_FIRST_ROWS, _FEW_OF_FIRST = 64, 0.02
"""So many rows tell whether a run will have pairs: a smaller share kept is warned about at once."""
_AT_ONCE = 32
"""Rows for whose decisions the driver takes time: one alone takes as long."""
_MOST_FIRST = 1024
"""Rows by which a run is estimated at most."""
_WORTH_SECONDS = 30.0
"""A run that ends sooner than this after its first rows is not estimated."""


class RunMetadata(Protocol):
    """Storage for results that a continued run needs: a run's manifest, or memory (no `path`)."""

    @property
    def path(self) -> Path | None: ...

    def get(self, key: str) -> Any: ...

    def set(self, **findings: object) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Everything that a run needs besides its engine, checked."""

    config: RunConfig
    model_dir: Path
    policy: Policy
    rules: Rules
    identity: Mapping[str, Any]
    price_per_hour: float | None = None

    @property
    def details(self) -> dict[str, Any]:
        """The content of run.json besides the identity."""
        return {
            "config": self.config.model_dump(mode="json"),
            "defaults": defaults_of(self.config),
            "date": self.identity["views.date"],
            "template": asdict(self.policy.template.facts),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The result of `generate`.

    `explanation` says why the filter keeps what it keeps, `steering` counts what models were asked
    about the prompts.
    """

    account: Account
    counts: RowCounts
    seconds: float
    decision: Decision
    explanation: Explanation
    steering: SteeringCounts | None = None

    def work_json(self, price_per_hour: float | None) -> dict[str, Any]:
        """Return what was done and spent by this call, for `--json`."""
        told, cost = self.counts.forecast, self.cost(price_per_hour)
        return {
            "seconds": round(self.seconds, 2),
            "new_rows": self.counts.rows,
            "new_failures": self.counts.failed,
            "sampled_tokens": self.counts.tokens,
            "steering": self.steering.to_json() if self.steering else None,
            "forecast": told.to_json() if told else None,
            "cost": None if cost is None else round(cost, 4),
        }

    def cost(self, price_per_hour: float | None) -> float | None:
        """Return the cost of the call, loading included; None without a price."""
        return None if price_per_hour is None else price_per_hour * self.seconds / 3600


def rules_of(config: RunConfig) -> Rules:
    """Return the steering of a configuration; what is checked here needs no model.

    Raises ConfigError or InputError, also where no model is given.
    """
    if not config.model:
        raise ConfigError("no model given: add --model DIRECTORY_OR_HUB_ID, or model: to --config")
    return load_rules(config)


def prepare(
    config: RunConfig, *, date: str | None = None, progress: Progress | None = None
) -> Setup:
    """Resolve the model, its tokenizer and template, and the catalogue.

    `date` is the day on which a continued run was started; templates keep showing it. Raises
    ConfigError, ModelError or InputError (both InputError and ConfigError for principles).
    """
    rules = rules_of(config)
    engine_name = resolve_name(config.engine)
    model_dir = engine_dir(config.model, config.engine)
    tokenizer = load_tokenizer(model_dir, trust_remote_code=config.engine.trust_remote_code)
    template = ChatTemplate(tokenizer, config.views, today=date or today())
    for line in check_model(model_dir, template, read_model_facts(model_dir, config.engine)):
        (progress or NullProgress()).warn(line)
    fingerprint = engine_fingerprint(config.model, model_dir, config.engine, progress)
    policy = Policy(name=public_name(config.model), fingerprint=fingerprint, template=template)
    identity = {
        "seed": config.seed,
        "engine": engine_name,
        "model": policy.fingerprint,
        "tokenizer": tokenizer_fingerprint(model_dir),
        "chat_template": template.fingerprint,
        "principles": rules.catalogue.fingerprint,
        "views.date": config.views.date or date or today(),
        "views.control_tokens": config.views.control_tokens,
        **identity_of(rules),
        **_flat(config),
    }
    return Setup(
        config=config,
        model_dir=model_dir,
        policy=policy,
        rules=rules,
        identity=identity,
    )


def generate(
    source: str,
    out: Path,
    config: RunConfig,
    progress: Progress | None = None,
    *,
    except_: Sequence[Path] = (),
    people: bool = False,
    overwrite: bool = False,
    price_per_hour: float | None = None,
) -> Summary:
    """Make or continue the run in `out`, filter it and write its pairs.

    Rows of the runs `except_` are not made here, also when the run is continued without them. A
    decision of `filter` stays in force, unless `config` was given filter settings. A prompt that
    cannot be done is written to failed.jsonl. Estimates tell the cost where a `price_per_hour` is
    given. `people`: the prompts are of people's own chats, which `source` may not show. Raises
    InputError, ConfigError, ModelError, EngineError or RunError.
    """
    started, progress = time.monotonic(), progress or NullProgress()
    progress.phase("checking the prompts")
    asked = "filter" in config.model_fields_set
    if not overwrite:
        refuse_other_content(out, RUN)
    elsewhere = Elsewhere(except_, out)
    manifest = None if overwrite else read_run(out)
    begun = out if manifest else next((other.path for other in elsewhere.others), None)
    if begun:  # a run goes on as it began, and one that takes over like the first that it goes on
        config = with_defaults(config, stored_defaults(begun, RUN))
    rules = rules_of(config)
    stands = {"filter": standing_filter(out, config.filter, asked=asked, new=not manifest)}
    line, chats, prompts = open_prompts(source, config.source)
    progress.note(line)
    samples, name = config.sampling.samples, Ledger().next_ids
    with ExitStack() as stack:
        scratch = stack.enter_context(closing(ScratchLines())) if rules.asks_a_model else None
        rows = _kept(prompts, scratch)
        contents = elsewhere.noting(content_hash(row.messages) for row in rows)
        ids = (one for content in contents for one in name(content, samples))
        keys = array("Q", map(row_key, ids))
        total = len(keys)
        progress.note(f"{total // samples} prompts" + (f" x {samples} samples" * (samples > 1)))
        progress.phase("checking the model and its chat template")
        date = require_run(begun)["date"] if begun else None
        setup = prepare(config, date=date, progress=progress)
        elsewhere.refuse_mixture(setup.identity, setup.details["config"], manifest)
        opened = open_run(out, identity=setup.identity, details=setup.details, overwrite=overwrite)
        run = stack.enter_context(opened)
        elsewhere.leave_to_them(run, keys, samples, progress)
        _note_given(run, source, config, keys, people=people or chats)
        making = replace(
            setup, config=config.model_copy(update=stands), price_per_hour=price_per_hour
        )
        del keys  # the run's ledger knows them from here on
        left = partial(_prompts_left, scratch or (), samples, run.is_open)
        with run_guide(setup, run, left, total) as guide:
            prompts = read_prompts(source, config.source)
            counts = make_rows(prompts, making, run, run, progress, guide=guide, total=total)
        account = run.account(samples)
        account.check()
    progress.phase("filtering")
    refiltered = filter_again(out, config, progress, asked=asked)
    _compare(counts, refiltered.decision, progress, price_per_hour)
    return Summary(
        account=account,
        counts=counts,
        seconds=time.monotonic() - started,
        decision=refiltered.decision,
        explanation=refiltered.explanation,
        steering=guide.counts if guide else None,
    )


def _compare(
    counts: RowCounts, decision: Decision, progress: Progress, price: float | None
) -> None:
    """Say what was foretold, if anything was, beside what came."""
    if counts.forecast:
        share = len(decision.kept) / max(1, len(decision.reason_code))
        progress.note(
            counts.forecast.compared(seconds=counts.seconds, tokens=counts.tokens, share=share)
            + counts.forecast.cost_text(price, counts.seconds)
        )


def _kept(
    rows: Iterable[Candidate | BadRow], scratch: ScratchLines | None
) -> Iterator[Candidate | BadRow]:
    """Yield the rows; `scratch` keeps the prompts among them for models that steer."""
    for row in rows:
        if scratch and isinstance(row, Candidate):
            scratch.add({"prompt": [message.to_json() for message in row.messages]})
        yield row


def _prompts_left(
    scratch: Iterable[Mapping[str, Any]], samples: int, is_open: Callable[[str], bool]
) -> Iterator[Prompt]:
    """Return the prompts that `scratch` holds, as far as they are to be done."""
    kept = (messages_from_json(row["prompt"]) for row in scratch)
    candidates = (Candidate(messages=one, source_id=None, metadata="", where="") for one in kept)
    return prompts_of(candidates, partial(Ledger().next_ids, samples=samples), is_open)


def _note_given(
    run: Run, source: str, config: RunConfig, keys: "array[int]", *, people: bool
) -> None:
    """Write to run.json the source of this call, and how many samples the finished run will have.

    These are those of the source's prompts, by their `keys`, and those done earlier that are not
    among them. The first ones are to be complete with `scoring.when=needed`, too, unless they are
    rows already: the log-prob check is among them. Raises RunError where the disk is too small.
    """
    given = Given(
        source=source, settings=config.source.model_dump(mode="json", exclude_defaults=True)
    )
    before = origin_of(run.manifest, run.path.name).given
    ledger = run.ledger
    new = sum(not ledger.has(key, DONE | FAILED | ELSEWHERE) for key in keys)
    check_room(run.path, new)
    own = ledger.count(DONE) + ledger.count(FAILED, without=DONE)
    run.set(prompts=own + new, **({"peoples_chats": True} if people else {}))
    run.set(sources=list(dict.fromkeys([*(run.get("sources") or []), source])))
    after = [one.to_json() for one in before]
    run.set(given=after if given in before else [*after, given.to_json()])
    if config.scoring.when == "needed":
        ours = (key for key in keys if not ledger.has(key, ELSEWHERE))
        first = islice(ours, max(_FIRST_ROWS, config.scoring.verify_rows))
        known = run.get(FIRST_ROWS) or []
        added = (f"{key:016x}" for key in first if not ledger.has(key, DONE))
        run.set(**{FIRST_ROWS: list(dict.fromkeys([*known, *added]))})


@contextmanager
def run_guide(
    setup: Setup, run: Run, prompts: Callable[[], Iterable[Prompt]], total: int
) -> Iterator[Guide | None]:
    """Open what steering by models needs; yields None if no model is asked.

    `prompts` returns those left to do; `total` counts those done as well.
    """
    if not setup.rules.asks_a_model:
        yield None
        return
    counts = SteeringCounts()
    with closing(SteeringStore(run.path, on_line=counts.add)) as store:
        yield Guide(prompts=prompts, store=store, counts=counts, total=total)


@contextmanager
def lazy_engine(
    setup: Setup, progress: Progress, on_start: Callable[[EngineInfo], None]
) -> Iterator[LazyEngine]:
    """The setup's engine, which is started on first use and closed with the context."""

    def start() -> Engine:
        progress.phase(f"loading {setup.config.model}")
        with ExitStack() as failing:
            engine = start_engine(
                setup.model_dir, setup.config.engine, tell=progress.warn, note=progress.note
            )
            failing.callback(engine.close)
            on_start(engine.info)
            info = engine.info
            many = f"{info.engines} engines: " if info.engines > 1 else ""
            progress.note(
                f"{many}{info.name} {info.version} on {info.device}, {info.dtype}, "
                f"context {info.context_tokens} tokens"
            )
            failing.pop_all()
        return engine

    with closing(LazyEngine(start)) as engine:
        yield engine
        if engine.is_started:
            progress.phase("closing the engine")


def make_rows(
    candidates: Iterable[Candidate | BadRow] | None,
    setup: Setup,
    sink: Sink,
    metadata: RunMetadata,
    progress: Progress,
    *,
    guide: Guide | None = None,
    total: int | None = None,
    lacking: Iterable[Row] = (),
) -> RowCounts:
    """Steer the prompts and run the pipeline over them; results for later go to `metadata`.

    Without `candidates` it makes the rest of the rows that are `lacking` some. `guide` holds the
    prompts that models are asked about, if any are. `total` is the number of candidates, for the
    display. Raises EngineError when the engine is lost for good, RunError when a row cannot be
    written or the engine is not the one that made the earlier rows.
    """
    is_complete = partial(is_always_complete, first=frozenset(first_rows(metadata.get(FIRST_ROWS))))
    counted = is_complete if setup.config.scoring.when == "needed" else lambda key: True
    kept = _FirstRows(setup.config, progress, counted, setup.price_per_hour)
    started = time.monotonic()

    def note_engine(info: EngineInfo) -> None:
        nonlocal started
        started = time.monotonic()  # the model is loaded
        _refuse_other_engine(metadata.get("engine") or {}, info)
        metadata.set(engine=asdict(info), resume=_resume_promise(info, setup.config.engine))

    check = LogprobCheck(setup.config.scoring, _earlier_check(metadata, candidates is None))
    with ExitStack() as stack:
        keep = None
        if metadata.path is not None and setup.config.scoring.keep_tokens:
            keep = stack.enter_context(closing(TokenStore(metadata.path))).add
        engine = stack.enter_context(lazy_engine(setup, progress, note_engine))
        if candidates is None:
            steer = lambda prompt: setup.rules.by_rule(prompt.id)  # noqa: E731 - rows have theirs
        else:
            steer = steered(setup.rules, setup.config, setup.policy, engine, guide, progress)
        if guide:
            metadata.set(steering=guide.counts.to_json())
            progress.phase("making rows")
        pipeline = Pipeline(
            engine,
            setup.policy,
            steer,
            setup.config,
            sink,
            check=check,
            on_check=lambda result: metadata.set(logprob_check=result.to_json()),
            on_record=kept.add,
            is_complete=is_complete,
            keep=keep,
        )
        todo = pipeline.complete(lacking) if candidates is None else pipeline.run(candidates)
        foretells = candidates is not None and total is not None
        for counts in todo:
            counts.seconds = time.monotonic() - started
            whole = None if total is None else total * len(VIEWS)
            done = counts.done * len(VIEWS) + counts.responses
            if counts.done == total:
                kept.decide()
            last = (total or 0) - counts.done if done == whole else 0
            progress.count(done, whole, "responses", _state(counts, kept.share, last))
            if foretells and counts.forecast is None and pipeline.finished >= FEWEST:
                kept.foretell(pipeline, total or 0, metadata.path)
        return pipeline.counts


def _refuse_other_engine(earlier: Mapping[str, Any], info: EngineInfo) -> None:
    """Raise RunError for an engine whose log-probs cannot be compared with the `earlier` one's."""
    for key in ("name", "device", "dtype"):
        if earlier and earlier.get(key) != getattr(info, key):
            raise RunError(
                f"the run was made with engine {key} {earlier.get(key)}, this is "
                f"{getattr(info, key)}: their log-probs are not comparable; use the same "
                "engine, or another --out"
            )
    probe = earlier.get("probe")
    if probe is not None and info.probe is not None and abs(probe - info.probe) > PROBE_NATS:
        raise RunError(
            "the run was made with another model: the same ids have a log-prob of "
            f"{info.probe:.2f} nats on this server, they had {probe:.2f}; use another --out"
        )


def _earlier_check(metadata: RunMetadata, of_parts: bool) -> Mapping[str, Any] | None:
    """Return the result of the log-prob check that a run has stored, or was merged with."""
    own, parts = metadata.get("logprob_check"), metadata.get("logprob_checks") or ()
    checks: list[Mapping[str, Any]] = [one for one in (parts if of_parts else ()) if one]
    return own or min(checks, key=lambda check: bool(check["agreed"]), default=None)


class _FirstRows:
    """Counts the rows that the filter keeps, and says what the first ones foretell.

    It warns once if the filter keeps hardly any of the first ones whose key is `counted`. What
    depends on other rows (a quantile, say) is left out of the count.
    """

    def __init__(
        self,
        config: RunConfig,
        progress: Progress,
        counted: Callable[[int], bool] = lambda key: True,
        price: float | None = None,
    ) -> None:
        self._price = price
        self._config, self._progress, self._counted = config.filter, progress, counted
        self._less_later = f"; upper estimates: {LESS_LATER}" * (config.scoring.when == "needed")
        self._first: dict[int, bytes] = {}
        self._warned_by: list[bytes] = []
        self._features: list[Sequence[str]] = []
        self._next_look = 0
        self._undecided: list[bytes] = []
        self._decided = self._kept = 0

    @property
    def share(self) -> float:
        """The share kept of the rows so far, up to the last few dozens."""
        if len(self._undecided) >= _AT_ONCE or not self._decided:
            self.decide()
        return self._kept / max(1, self._decided)

    def decide(self) -> None:
        """Count the last rows in `share`, too."""
        rows = np.frombuffer(b"".join(self._undecided), SCORES)
        self._kept += int(passing(rows, self._config).sum())
        self._decided += len(rows)
        self._undecided.clear()

    def add(self, record: bytes, number: int, features: Sequence[str]) -> None:
        """Count a row by its SCORES record and principles; `number` rows were begun before."""
        self._undecided.append(record)
        if len(self._first) < _MOST_FIRST:
            self._first[number] = record
        is_counted = self._counted(int(np.frombuffer(record, SCORES)["key"][0]))
        if is_counted and len(self._warned_by) < _FIRST_ROWS:
            self._warned_by.append(record)
            self._features.append(features)
            if len(self._warned_by) == _FIRST_ROWS:
                self._warn_if_few()

    def foretell(self, pipeline: Pipeline, total: int, out: Path | None) -> None:
        """Estimate the run as soon as a whole cohort of rows is done, if it goes on for a while.

        Warns where the disk of `out` may not hold the rest.
        """
        counts = pipeline.counts
        if pipeline.finished < max(min(pipeline.cohort, _MOST_FIRST), self._next_look):
            return
        self._next_look = pipeline.finished + pipeline.cohort  # it takes milliseconds
        whole = [one for number, one in self._first.items() if number < pipeline.finished]
        work = counts.rows + counts.failed + counts.responses / len(VIEWS)
        found = forecast(
            b"".join(whole),
            self._config,
            seconds=counts.seconds,
            work=work,
            total=total - counts.skipped,
            for_all=self._counted,
        )
        if found and found.seconds.value - counts.seconds > _WORTH_SECONDS:
            counts.forecast = found
            self._progress.note(f"{found}{found.cost_text(self._price)}{self._less_later}")
            if out and (short := found.shortage(out, counts.rows)):
                self._progress.warn(short)

    def _warn_if_few(self) -> None:
        rows = np.frombuffer(b"".join(self._warned_by), SCORES)
        found = explain(rows, self._config, features=features_of(self._features))
        if found.kept < _FEW_OF_FIRST * found.rows:
            self._progress.warn(f"of the first {found.rows} rows\n{found.text()}")


def _state(counts: RowCounts, kept: float, last: int = 0) -> str:
    """Return the rows, the share kept, the failures and the sampling speed, as one phrase.

    `last`: rows that are still scored when all responses are there.
    """
    is_measured = counts.tokens and counts.seconds >= 1
    parts = [
        f"scoring the last {last}" if last else "",
        f"{counts.rows} rows, kept {kept:.0%}" if counts.rows else "",
        f"{counts.failed} failed" if counts.failed else "",
        f"{counts.tokens / counts.seconds:,.0f} tokens/s" if is_measured else "",
    ]
    return ", ".join(part for part in parts if part)


def _resume_promise(info: EngineInfo, config: EngineConfig) -> str:
    """Return how a continued run compares with an uninterrupted one on this engine."""
    if (info.name, info.device, info.dtype, config.threads) == ("vllm", "cpu", "float32", 1):
        return "same tokens; log-probs equal up to rounding (1e-4 nats per response)"
    return "same ids, prompts and seeds; rounding may change a token whose draw is near a boundary"


def _flat(config: RunConfig) -> dict[str, Any]:
    """Return the configuration keys that decide a row's content, by dotted name.

    The number of samples is not among them: a run may grow in it; nor what is kept beside rows.
    """
    dumped = config.model_dump(mode="json")
    keys = {
        key: value
        for key, value in leaves({name: dumped[name] for name in _IDENTITY_SECTIONS}, depth=2)
        if key not in ("sampling.samples", "scoring.keep_tokens")
    }
    keys |= {f"engine.{key}": dumped["engine"][key] for key in _IDENTITY_ENGINE_KEYS}
    return keys | {
        f"engine.vllm.{key}": value
        for key, value in dumped["engine"]["vllm"].items()
        if key not in VLLM_SPEED_KEYS
    }
