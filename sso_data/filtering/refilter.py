"""`filter`: decide again which rows of a run become pairs, by its journal, without a GPU."""

import json
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from sso_data.config.loading import validated
from sso_data.config.migration import earlier_values
from sso_data.config.run import FilterConfig, RunConfig, load_config
from sso_data.core.errors import ConfigError, InputError, RunError
from sso_data.core.paths import shell_command
from sso_data.core.progress import NullProgress, Progress
from sso_data.filtering.explain import Explanation, explain_run, written
from sso_data.filtering.filters import Decision, NotAskedError, decide
from sso_data.runs.columns import lacking
from sso_data.runs.journal import Scores, load_scores
from sso_data.runs.jsonl import CRC
from sso_data.runs.pairs import read_decided, write_pairs
from sso_data.runs.run import Account, expected_rows, require_run, run_account
from sso_data.runs.workdir import Manifest, locked, section

_BY_FILTER = "filter"
"""Value of `decided_by` in filter.json for a decision by the `filter` command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refiltered:
    """A decision about all rows of a run, which will have `expected` of them or failures.

    `explanation` says why it keeps what it keeps.
    """

    decision: Decision
    account: Account
    expected: int
    explanation: Explanation

    @property
    def unfinished(self) -> bool:
        """True while prompts are to be done: the run was interrupted, or is being made."""
        return self.account.done < self.expected


@dataclass(frozen=True, slots=True, kw_only=True)
class LastDecision:
    """The configuration that decided the pairs of a run; `by_filter`: by the `filter` command."""

    config: FilterConfig
    by_filter: bool


def run_config(run: Path, settings: list[str] | None, *, preset: str | None) -> RunConfig:
    """Return the configuration of a run, changed by `--preset` and `--set filter...`.

    Raises ConfigError for other settings, RunError when there is no run.
    """
    manifest = require_run(run)
    config = load_config(None, settings, base=manifest["config"], filter__preset=preset)
    for setting in settings or []:
        if not setting.startswith(("filter.", "output.")):
            raise ConfigError(f"--set {setting}: `filter` reads only filter.* and output.* keys")
    return config


def standing_config(run: Path, settings: list[str] | None, **overrides: object) -> RunConfig:
    """Return the configuration of a run, its filter as `filter` last decided, with `settings`.

    `overrides` are keys with `__` for the dot, None is skipped. Raises ConfigError or RunError.
    """
    base = dict(require_run(run)["config"])
    last = last_decision(run)
    if last and last.by_filter:
        base["filter"] = last.config.model_dump(mode="json")
    return load_config(None, settings, base=base, **overrides)


def last_decision(run: Path) -> LastDecision | None:
    """Return the decision stored in pairs/filter.json; None if there is none or it is invalid.

    Raises RunError for one that was changed after it was written, as no crash leaves it.
    """
    try:
        decided = read_decided(run)
        found = earlier_values("filter") | dict(section(decided, "config"))
        config = validated(FilterConfig, found, origin=str(run), given={})
    except ConfigError:
        return None
    except RunError:
        with suppress(OSError, ValueError, TypeError):
            if CRC in json.loads((run / "pairs" / "filter.json").read_bytes()):
                raise
        return None
    return LastDecision(config=config, by_filter=decided.get("decided_by") == _BY_FILTER)


def standing_filter(run: Path, config: FilterConfig, *, asked: bool, new: bool) -> FilterConfig:
    """Return the filter that will decide: `config` if the user asked for it, or `filter`'s last.

    `new`: what is in `run` will be overwritten. Raises RunError as `last_decision`.
    """
    last = None if new else last_decision(run)
    return last.config if last and last.by_filter and not asked else config


def in_words(config: FilterConfig) -> str:
    """Return a filter configuration as a phrase: the preset, and values other than defaults."""
    defaults = FilterConfig().model_dump(mode="json")
    values = config.model_dump(mode="json")
    changed = [f"{key}={value}" for key, value in values.items() if value != defaults[key]]
    return ", ".join(
        [f"preset {config.preset}", *(one for one in changed if not one.startswith("preset="))]
    )


def differences(config: FilterConfig, other: FilterConfig) -> str:
    """Return the keys of which `config` has another value than `other`, as texts of `--set`."""
    return ", ".join(written(config, other))


def refilter(
    run: Path, config: RunConfig, progress: Progress | None = None, *, dry_run: bool = False
) -> Refiltered:
    """Filter all rows of a run as the user asked and, unless `dry_run`, write its pairs.

    Raises RunError when the run cannot be read or written, or another process writes its pairs.
    """
    progress = progress or NullProgress()
    progress.phase("filtering")
    return _decided(run, config, progress, dry_run=dry_run, by_filter=True, whole=not dry_run)


def filter_again(
    run: Path,
    config: RunConfig,
    progress: Progress,
    *,
    asked: bool,
    by_filter: bool = False,
) -> Refiltered:
    """Filter a run that has new rows, and write its pairs.

    Unless the user `asked` for the filter settings of `config`, those that `filter` last used stay
    in force. A warning says if the settings differ from the last ones, or from `config`. Raises as
    `refilter`.
    """
    last = last_decision(run)
    if last and last.by_filter and not asked:
        if stays := differences(last.config, config.filter):
            progress.warn(
                f"the pairs are decided with {stays}, as `filter` last did; the configuration has "
                f"{differences(config.filter, last.config)}, and `sso-data filter {run}` goes back "
                "to it"
            )
        config, by_filter = config.model_copy(update={"filter": last.config}), True
    elif last and (before := differences(last.config, config.filter)):
        progress.warn(
            f"the pairs were decided with {before}; they are decided again with "
            f"{differences(config.filter, last.config)}"
        )
    return _decided(run, config, progress, by_filter=by_filter)


def _decided(
    run: Path,
    config: RunConfig,
    progress: Progress,
    *,
    by_filter: bool,
    dry_run: bool = False,
    whole: bool = False,
) -> Refiltered:
    """Decide; with `whole` every line of the journal is compared with its checksum before.

    A call that has opened the run to write rows has compared them already.
    """
    manifest = require_run(run)
    with ExitStack() as stack:
        is_locked = False
        with suppress(RunError):  # side files are repaired only while nobody else writes the rows
            if not dry_run:
                stack.enter_context(locked(run, "rows"))
                is_locked = True
        scores = load_scores(run, dry=not is_locked, whole=whole)
    decision = decide_run(run, scores, config.filter)
    if not dry_run:
        mark = {"decided_by": _BY_FILTER} if by_filter else {}
        with locked(run, "pairs"):
            write_pairs(
                run,
                scores,
                decision.kept,
                decision.summary(config.filter) | mark,
                parquet=config.output.parquet,
                progress=progress,
            )
    account = run_account(run, scores)
    return Refiltered(
        decision=decision,
        account=account,
        expected=expected_rows(manifest, account),
        explanation=explain_run(scores, config.filter, decision, own_filter(manifest)),
    )


def decide_run(run: Path, scores: Scores, config: FilterConfig) -> Decision:
    """Return the decision about the rows of a run.

    Raises RunError, which tells how to go on, where they need what was not asked for.
    """
    try:
        return decide(scores.rows, config)
    except NotAskedError as error:
        standing = standing_config(run, None, model=None).filter
        changed = "".join(f" --set {one}" for one in written(config, standing))
        rest = f"; without --set, all {int(lacking(scores.rows).sum())} that lack any" * bool(
            changed
        )
        raise RunError(
            f"{run}: {len(error.positions)} of {len(scores)} rows need scores that were not asked "
            f"for (scoring.when=needed); `sso-data complete {run}{changed}` makes them{rest}"
        ) from error


def doubt_about(source: str, scores: Scores | None = None) -> str | None:
    """Return a warning if `source` is a run with few pairs, or whose texts show no effect.

    `scores`: those of the run, where they are loaded. None for another run, for what is no run, and
    where its journal cannot be read. Raises InputError where its filter kept nothing.
    """
    run = Path(source)
    if not source.strip() or not (run / "run.json").is_file():
        return None
    pairs = run / "pairs" / "train.jsonl"
    if pairs.is_file() and not pairs.stat().st_size:
        raise InputError(f"{pairs}: empty, the filter kept nothing; {why_nothing(run)}")
    try:
        found = _explained(run, scores)
    except RunError:
        return None
    if found.effect.is_missing:
        told = f"{found.effect}; which answer of a pair is called chosen may be chance"
    elif found.is_few:
        told = f"few pairs, {found.kept} of {found.rows} rows are kept; {_next_step(run, found)}"
    else:
        return None
    return f"{run}: {told}; `{_dry_run(run)}` explains"


def why_nothing(run: Path) -> str:
    """Return as one phrase what to do about a run whose filter kept nothing. Raises RunError."""
    found = _explained(run)
    explains = f"; `{_dry_run(run)}` explains" if found.rows else ""
    return _next_step(run, found) + explains


def _next_step(run: Path, found: Explanation) -> str:
    return found.next_step(command=shell_command("sso-data", "filter", str(run)))


def _dry_run(run: Path) -> str:
    """Return the command that explains the decision that stands, in full, and writes nothing."""
    own, config = _standing(run)
    changed = (word for one in written(config, own) for word in ("--set", one))
    return shell_command("sso-data", "filter", str(run), *changed, "--dry-run")


def _explained(run: Path, scores: Scores | None = None) -> Explanation:
    """Return the explanation of the decision that stands."""
    own, config = _standing(run)
    scores = load_scores(run, dry=True) if scores is None else scores
    return explain_run(scores, config, decide(scores.rows, config), own)


def _standing(run: Path) -> tuple[FilterConfig, FilterConfig]:
    """Return the filter of a run's own configuration, and that of the decision that stands."""
    own, last = own_filter(require_run(run)), last_decision(run)
    return own, last.config if last else own


def own_filter(manifest: Manifest) -> FilterConfig:
    """Return the filter of a run's own configuration, from which `filter` starts."""
    return load_config(None, base=manifest["config"]).filter
