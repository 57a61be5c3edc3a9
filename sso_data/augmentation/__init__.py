"""`augment`: new queries from seed queries by the policy, checked, without duplicates."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sso_data.augmentation.attempts import TEMPLATE
from sso_data.augmentation.contamination import Contamination
from sso_data.augmentation.loop import Loop, State
from sso_data.augmentation.output import Output, Paths, check_name, open_output, write_report
from sso_data.augmentation.reviewer import QueryReviewer
from sso_data.augmentation.seeds import Seeds, read_seeds
from sso_data.augmentation.tally import DUPLICATES, AttemptCounts
from sso_data.chat import open_chat
from sso_data.chat.interface import Completions
from sso_data.config.augmentation import AugmentConfig
from sso_data.core.errors import ConfigError, RunError
from sso_data.core.jinja import Templates
from sso_data.core.naming import public_name
from sso_data.models.directory import adapter_fingerprint, model_fingerprint, resolve_model

_IDENTITY_SECTIONS = ("operations", "answers", "checks", "duplicates")
_DECONTAMINATE_KEYS = ("ngram", "shortest")


class Listener(Protocol):
    """Who is told how an augmentation goes on."""

    def phase(self, text: str) -> None:
        """A new phase began, for example loading the model."""
        ...

    def warn(self, text: str) -> None:
        """Something went wrong, and the work goes on."""
        ...

    def progress(self, tally: AttemptCounts, wanted: int) -> None:
        """Counts of all attempts so far, those of earlier calls included."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmented:
    """How an augmentation ended; `report` is what the report file holds."""

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
            "patience": f"the last {self.tally.idle} attempts gave nothing new (limits.patience)",
        }
        return (
            f"{self.tally.num_accepted} of {self.wanted} queries after "
            f"{self.tally.num_attempts} attempts: {limits[self.state]}; rejected: "
            f"{self.tally.in_words()}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """What an augmentation needs besides its model, all of it checked; `model` names it."""

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
    listener: Listener,
    *,
    overwrite: bool = False,
    start: Callable[[], Completions] | None = None,
) -> Augmented:
    """Make or continue the file of new queries `out` until it holds `wanted` of them.

    It ends earlier at the limits of the configuration. `start` opens the model; by default the one
    that the configuration names. Raises SsoDataError.
    """
    started = time.monotonic()
    check_name(out, source)
    listener.phase("checking the seeds and the templates")
    setup = _prepare(source, config)
    with (
        open_output(out, setup.identity, overwrite=overwrite) as output,
        _model_on_demand(config, listener) as open_configured,
    ):
        before = output.tally.num_attempts
        judge = _judge(setup, output, listener)
        loop = Loop(
            start or open_configured,
            setup.seeds,
            config,
            judge,
            output,
            wanted=wanted,
            model=setup.model,
            on_progress=lambda tally: listener.progress(tally, wanted),
        )
        try:
            state = loop.run()
        except BaseException:
            with suppress(RunError):  # what went wrong first is what the user should read
                output.sync()
                write_report(output.paths, _report(setup, output.tally, wanted, "unfinished"))
            raise
        output.sync()  # the report counts nothing that a power failure could take
        report = _report(setup, output.tally, wanted, state)
        write_report(output.paths, report)
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
    """Read and check everything that is cheap; raises SsoDataError for whatever is wrong."""
    if not config.model:
        raise ConfigError("no model given: add --model DIRECTORY_OR_HUB_ID, or model: to --config")
    templates = Templates(directory=config.templates)
    templates.check()
    model, fingerprint = _who(config)
    seeds = read_seeds(source, config.source)
    contamination = Contamination(config.decontaminate)
    dumped = config.model_dump(mode="json")
    identity = {
        "seed": config.seed,
        "model": fingerprint,
        "templates": templates.fingerprint(TEMPLATE),
        "seeds": seeds.fingerprint,
        "decontaminate.files": sorted(contamination.fingerprints.values()),
        "views.template_kwargs": dumped["views"]["template_kwargs"],
        **{f"decontaminate.{key}": dumped["decontaminate"][key] for key in _DECONTAMINATE_KEYS},
        **{
            f"{section}.{key}": value
            for section in _IDENTITY_SECTIONS
            for key, value in dumped[section].items()
        },
    }
    return _Setup(
        config=config,
        templates=templates,
        seeds=seeds,
        contamination=contamination,
        model=model,
        identity=identity,
    )


def _who(config: AugmentConfig) -> tuple[str, str]:
    """(how provenance names the model, what must be the same when the work goes on)."""
    if config.endpoint:
        return config.model, f"{config.model} at an endpoint"
    found = model_fingerprint(resolve_model(config.model, config.engine.revision))
    if config.engine.adapter is not None:
        found = f"{found}+{adapter_fingerprint(config.engine.adapter)}"
    return f"{public_name(config.model)}@{found}", found


def _judge(setup: _Setup, output: Output, listener: Listener) -> QueryReviewer:
    """A judge that knows the seeds and what was accepted earlier."""
    listener.phase(f"indexing {len(setup.seeds.rows)} seeds")
    judge = QueryReviewer(setup.seeds, setup.config, setup.contamination, setup.templates)
    for messages, identity in output.accepted():
        judge.remember(messages, identity)
    return judge


@contextmanager
def _model_on_demand(
    config: AugmentConfig, listener: Listener
) -> Iterator[Callable[[], Completions]]:
    """A function that opens the model of the configuration; it is closed with the context."""
    with ExitStack() as stack:

        def start() -> Completions:
            where = f"asking {config.model} at {config.endpoint}"
            listener.phase(where if config.endpoint else f"loading {config.model}")
            opened = stack.enter_context(
                open_chat(config.model, config, config.engine, config.views, tell=listener.warn)
            )
            listener.phase("queries")
            return opened

        yield start


def _report(setup: _Setup, tally: AttemptCounts, wanted: int, state: str) -> dict[str, Any]:
    """What the report file says: how it ended, the counts, the sources, the configuration."""
    counts = tally.to_json()
    benchmarks = setup.contamination.benchmarks
    return {
        "state": state,
        "wanted": wanted,
        **counts,
        "duplicates": {
            "threshold": setup.config.duplicates.threshold,
            "ngram": setup.config.duplicates.ngram,
            **{reason: counts["rejected"].get(reason, 0) for reason in DUPLICATES},
        },
        "contaminated": {one.name: tally.files[one.name] for one in benchmarks},
        "seeds": {"used": len(setup.seeds.rows), "left_out": dict(setup.seeds.left_out)},
        "model": setup.model,
        "identity": dict(setup.identity),
        "config": setup.config.model_dump(mode="json"),
    }
