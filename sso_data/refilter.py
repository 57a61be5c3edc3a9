"""`filter`: decide again which rows of a run become pairs, from its journal, without a GPU."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sso_data.config import RunConfig, load_config
from sso_data.errors import ConfigError, RunError
from sso_data.filters import Decision, decide
from sso_data.store.pairs import write_pairs
from sso_data.store.run import Account, locked, require_manifest, run_account
from sso_data.store.scores import Scores, load_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Refiltered:
    """A decision about all rows of a run; `expected` prompts are those the run was last given."""

    decision: Decision
    account: Account
    expected: int | None

    @property
    def unfinished(self) -> bool:
        """Whether prompts are still to be done: the run was interrupted, or is being made."""
        return self.expected is not None and self.account.prompts < self.expected


def run_config(run: Path, settings: list[str] | None, *, preset: str | None) -> RunConfig:
    """The configuration that a run was made with, changed by `--preset` and `--set filter...`."""
    manifest = require_manifest(run)
    for setting in settings or []:
        if not setting.startswith(("filter.", "output.")):
            raise ConfigError(f"--set {setting}: `filter` reads only filter.* and output.* keys")
    return load_config(None, settings, base=manifest["config"], filter__preset=preset)


def refilter(
    run: Path,
    config: RunConfig,
    *,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Refiltered:
    """Judge all rows of a run and, unless `dry_run`, write its pairs anew.

    Raises RunError when the run cannot be read or written, or another process writes its pairs.
    """
    manifest = require_manifest(run)
    scores = _scores(run, dry_run=dry_run)
    decision = decide(scores.rows, config.filter)
    if not dry_run:
        with locked(run, "pairs"):
            write_pairs(
                run,
                scores,
                decision.kept,
                decision.summary(config.filter),
                parquet=config.output.parquet,
                on_progress=on_progress,
            )
    return Refiltered(
        decision=decision, account=run_account(run, scores), expected=manifest.get("prompts")
    )


def _scores(run: Path, *, dry_run: bool) -> Scores:
    """The scores of a run; side files are put in order only while nobody else writes the rows."""
    with ExitStack() as stack:
        try:
            if not dry_run:
                stack.enter_context(locked(run))
        except RunError:
            dry_run = True
        return load_scores(run, dry=dry_run)
