"""`augment`: new queries from seed queries by the policy, checked, without duplicates.

Many attempts are in flight at once. Answers come in any order and are decided in the order of the
attempts, because a duplicate depends on what was accepted before: the same seed gives the same
file, however it was made.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sso_data.augmentation.attempts import TEMPLATE, Seeds, draw, read_seeds, request
from sso_data.augmentation.contamination import Contamination
from sso_data.augmentation.output import (
    AttemptCounts,
    ModelAnswer,
    Output,
    Paths,
    check_name,
    kept_defaults,
    open_output,
)
from sso_data.augmentation.review import QueryReviewer
from sso_data.chat import open_chat
from sso_data.chat.interface import CompletionRequest, Completions
from sso_data.config.augmentation import AugmentConfig
from sso_data.config.migration import defaults_of, with_defaults
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.jinja import Templates
from sso_data.core.paths import public_name
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.trees import leaves
from sso_data.engines.driver import Window
from sso_data.engines.interface import Refused
from sso_data.models.directory import engine_dir, engine_fingerprint

State = Literal["finished", "attempts", "patience"]

_IDENTITY_SECTIONS = ("operations", "answers", "checks", "duplicates")
_DUPLICATES = ("duplicate_of_seed", "near_duplicate_of_seed", "duplicate", "near_duplicate")
_AHEAD = 2
"""Attempts begun beyond the first undecided one, as a multiple of the requests in flight."""
_LEAST_YIELD = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmented:
    """The result of an augmentation; `report` is the content of the report file."""

    paths: Paths
    wanted: int
    state: State
    tally: AttemptCounts
    report: Mapping[str, Any]
    new_attempts: int
    seconds: float

    @property
    def shortfall(self) -> str | None:
        """One line that says why there are fewer queries than were asked for; None if there are."""
        if self.state == "finished":
            return None
        limits = {
            "attempts": "the limit of attempts is reached (limits.attempts_per_query)",
            "patience": f"the last {self.tally.idle} attempts gave no new query (limits.patience)",
        }
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.tally.reasons.items())
        return (
            f"{self.tally.num_accepted} of {self.wanted} queries after "
            f"{self.tally.num_attempts} attempts: {limits[self.state]}; rejected: "
            f"{reasons or 'none'}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """The checked inputs of an augmentation, all but the model itself; `model` is its name."""

    config: AugmentConfig
    templates: Templates
    seeds: Seeds
    contamination: Contamination
    model: str
    identity: Mapping[str, Any]


def augment(
    source: str,
    out: Path,
    wanted: int,
    config: AugmentConfig,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    start: Callable[[], Completions] | None = None,
) -> Augmented:
    """Make or continue the file of new queries `out` until it holds `wanted` of them.

    It ends earlier at the limits of the configuration. `start` opens the model; by default the one
    that the configuration names. Raises SsoDataError: ConfigError and InputError before the model
    is opened, RunError where `out` holds something else or cannot be written, EngineError where the
    model answers nothing any more.
    """
    started = time.monotonic()
    progress = progress or NullProgress()
    check_name(out, source)
    progress.phase("checking the seeds and the templates")
    kept = {} if overwrite else kept_defaults(out)
    defaults = kept or defaults_of(config)
    config = with_defaults(config, kept)
    setup = _prepare(source, config)
    with (
        open_output(out, setup.identity, defaults, overwrite=overwrite) as output,
        _lazy_model(config, progress) as open_configured,
    ):
        before = output.tally.num_attempts
        progress.phase(f"indexing {len(setup.seeds.rows)} seeds")
        reviewer = QueryReviewer(
            setup.seeds, config, setup.contamination, setup.templates, model=setup.model
        )
        for messages, identity in output.accepted():
            reviewer.remember(messages, identity)
        loop = _Loop(start or open_configured, setup, reviewer, output, wanted=wanted)
        try:
            state = loop.run(progress)
        except BaseException:
            with suppress(RunError):  # what went wrong first is what the user should read
                output.sync()
                output.write_report(**_report(setup, output.tally, wanted, "unfinished"))
            raise
        output.sync()  # the report counts nothing that a power failure could take
        report = _report(setup, output.tally, wanted, state)
        output.write_report(**report)
    return Augmented(
        paths=output.paths,
        wanted=wanted,
        state=state,
        tally=output.tally,
        report=report,
        new_attempts=output.tally.num_attempts - before,
        seconds=time.monotonic() - started,
    )


def _prepare(source: str, config: AugmentConfig) -> _Setup:
    """Read and check everything that is cheap; raises SsoDataError for a user's mistake."""
    if not config.model:
        raise ConfigError("no model given: add --model DIRECTORY_OR_HUB_ID, or model: to --config")
    templates = Templates(directory=config.templates)
    templates.check()
    seeds = read_seeds(source, config.source)
    contamination = Contamination(config.decontaminate)
    if config.endpoint:
        name, fingerprint = config.model, f"{config.model} at an endpoint"
    else:
        directory = engine_dir(config.model, config.engine)
        fingerprint = engine_fingerprint(config.model, directory, config.engine)
        name = f"{public_name(config.model)}@{fingerprint}"
    dumped = config.model_dump(mode="json")
    identity = {
        "seed": config.seed,
        "model": fingerprint,
        "templates": templates.fingerprint(TEMPLATE),
        "seeds": seeds.fingerprint,
        "decontaminate.files": sorted(
            {one.name: one.fingerprint for one in contamination.benchmarks}.values()
        ),
        "decontaminate.ngram": config.decontaminate.ngram,
        "decontaminate.shortest": config.decontaminate.shortest,
        "views.template_kwargs": dumped["views"]["template_kwargs"],
        **dict(leaves({name: dumped[name] for name in _IDENTITY_SECTIONS}, depth=2)),
    }
    return _Setup(
        config=config,
        templates=templates,
        seeds=seeds,
        contamination=contamination,
        model=name,
        identity=identity,
    )


@contextmanager
def _lazy_model(config: AugmentConfig, progress: Progress) -> Iterator[Callable[[], Completions]]:
    """A function that opens the model of the configuration; it is closed with the context."""
    with ExitStack() as stack:

        def start() -> Completions:
            at = f"asking {config.model} at {config.endpoint}"
            progress.phase(at if config.endpoint else f"loading {config.model}")
            chat = open_chat(config.model, config, config.engine, config.views, progress=progress)
            opened = stack.enter_context(chat)
            progress.phase("queries")
            return opened

        yield start


def _report(setup: _Setup, tally: AttemptCounts, wanted: int, state: str) -> dict[str, Any]:
    """The content of the report: how it ended, the counts, the sources, the configuration."""
    counts = tally.to_json()
    return {
        "state": state,
        "wanted": wanted,
        **counts,
        "duplicates": {
            "threshold": setup.config.duplicates.threshold,
            "ngram": setup.config.duplicates.ngram,
            **{reason: counts["rejected"].get(reason, 0) for reason in _DUPLICATES},
        },
        "contaminated": {one.name: tally.files[one.name] for one in setup.contamination.benchmarks},
        "seeds": {"used": len(setup.seeds.rows), "left_out": dict(setup.seeds.left_out)},
        "model": setup.model,
        "identity": dict(setup.identity),
        "config": setup.config.model_dump(mode="json"),
    }


class _Loop:
    """Asks and decides until `wanted` queries are accepted or a limit is reached."""

    def __init__(
        self,
        start: Callable[[], Completions],
        setup: _Setup,
        reviewer: QueryReviewer,
        output: Output,
        *,
        wanted: int,
    ) -> None:
        self._setup = setup
        self._config = setup.config
        self._reviewer = reviewer
        self._output = output
        self._wanted = wanted
        self._most = math.ceil(wanted * setup.config.limits.attempts_per_query)
        self._arrived: dict[int, ModelAnswer] = output.kept()
        self._next = output.num_decided
        model = cache(start)
        self._window = Window[CompletionRequest, ModelAnswer](model, lambda: model().max_in_flight)

    def run(self, progress: Progress) -> State:
        """Work until the end; returns its cause. Raises EngineError as `Window.step` does."""
        self._decide()
        while (state := self._state()) is None:
            self._ask()
            news = {int(answer.key): _writable(answer) for answer in self._window.step()}
            self._arrived |= news
            self._keep(news)
            self._decide()
            tally = self._output.tally
            attempts = f"{tally.num_attempts} attempts"
            progress.count(tally.num_accepted, self._wanted, "queries", attempts)
            self._output.sync_if_due()
        self._output.clear_pending()
        return state

    def _state(self) -> State | None:
        """The reason to end, from the decided attempts alone; None to continue."""
        tally = self._output.tally
        if tally.num_accepted >= self._wanted:
            return "finished"
        if tally.num_attempts >= self._most:
            return "attempts"
        if tally.idle >= self._config.limits.patience:
            return "patience"
        return None

    def _ask(self) -> None:
        """Ask as many attempts as keep the model busy, and few more than are likely needed."""
        tally = self._output.tally
        share = (tally.num_accepted + 1) / (tally.num_attempts + 1)
        missing = self._wanted - tally.num_accepted
        needed = math.ceil(missing / max(share, _LEAST_YIELD))
        end = min(tally.num_attempts + min(_AHEAD * self._window.size, needed), self._most)
        while self._next < end and not self._window.is_full:
            if self._next not in self._arrived:
                attempt = draw(self._next, self._setup.seeds.rows, self._config)
                asked = request(attempt, self._setup.templates, self._config.answers)
                self._window.ask(asked)
            self._next += 1

    def _decide(self) -> None:
        """Decide every attempt whose turn it is."""
        while self._state() is None and self._output.num_decided in self._arrived:
            number = self._output.num_decided
            attempt = draw(number, self._setup.seeds.rows, self._config)
            self._output.write(self._reviewer.review(attempt, self._arrived.pop(number)))
        self._next = max(self._next, self._output.num_decided)

    def _keep(self, news: dict[int, ModelAnswer]) -> None:
        """Write down the answers that came before their turn, so that none is asked for again."""
        turn = self._output.num_decided
        while turn in self._arrived:
            turn += 1
        waiting = {number: answer for number, answer in news.items() if number > turn}
        if waiting:
            self._output.keep(waiting)
        elif turn == self._output.num_decided + len(self._arrived):
            self._output.clear_pending()


def _writable(answer: ModelAnswer) -> ModelAnswer:
    """The answer with lone surrogates replaced (an API's JSON may hold them): files are UTF-8."""

    def whole(text: str) -> str:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    if isinstance(answer, Refused):
        return replace(answer, detail=whole(answer.detail))
    return replace(answer, text=whole(answer.text))
