"""A run's pairs, and everything it scored, to a dataset repository."""

import re
from collections.abc import Callable
from pathlib import Path

from sso_data.core.errors import ConfigError, HubError, InputError, RunError
from sso_data.publishing.hub.client import Hub, check_repo_id
from sso_data.publishing.hub.failures import HubTroubleError
from sso_data.publishing.hub.parcel import Parcel
from sso_data.publishing.hub.publish import Published, PushListener, Target, publish
from sso_data.publishing.push.staging import STAGE, Wording, stage
from sso_data.runs.decided import read_decided
from sso_data.runs.files import remove_tree
from sso_data.runs.identity import difference
from sso_data.runs.run import locked, require_run, run_account, unfinished
from sso_data.runs.scores import load_scores

_OURS = re.compile(
    r"train\.jsonl|rows/\d{5,}\.jsonl|failed\.jsonl|run\.json|filter\.json|dataset_info\.json"
    r"|plots/[\w-]+\.png"
)


def push_run(
    run: Path,
    target: Target,
    listener: PushListener,
    *,
    what: str = "all",
    endpoint: str | None = None,
    wording: Wording | None = None,
) -> Published:
    """Publish a run; `what` is `pairs` or `all` (also every scored row, and the failures).

    Everything is made and looked at here before the Hub is asked. An unfinished run is published in
    private alone. Raises SsoDataError; the repository is then as it was, or is private, or holds
    everything.
    """
    _check_what(what)
    check_repo_id(target.repo)
    require_run(run)
    hub = Hub("dataset", endpoint=endpoint)
    with locked(run), locked(run, "pairs"):
        _check_finished(run, target, listener.note)
        listener.phase("making the card")
        parcel = pack(run, target.repo, what=what, wording=wording, note=listener.note)
        listener.phase(f"looking at {hub.url(target.repo)}")
        try:
            done = publish(hub, parcel, target, listener)
        except HubTroubleError as error:
            raise HubError(
                f"{error}; everything is complete in {run}: run the same command again to go on"
            ) from error
        remove_tree(run / STAGE)
    return done


def pack(
    run: Path,
    repo: str,
    *,
    what: str = "all",
    wording: Wording | None = None,
    note: Callable[[str], None],
) -> Parcel:
    """Everything that the repository is to hold, complete on this machine.

    Raises InputError where the filter kept nothing or a field of the card is wrong.
    """
    manifest = require_run(run)
    kept, rows = _counted(run, note)
    staged = stage(
        run,
        repo,
        manifest,
        kept=kept,
        rows=rows if what == "all" else None,
        wording=wording or Wording(),
    )
    return Parcel(
        files=staged.files,
        what="run",
        mark="run.json",
        differs=lambda there: difference(there, manifest, "created"),
        is_ours=lambda path: _OURS.fullmatch(path) is not None,
        card=staged.card,
        title=f"{kept} preference pairs by sso-data",
    )


def _check_what(what: str) -> None:
    if what not in ("pairs", "all"):
        raise ConfigError(f"--what {what}: neither pairs nor all")


def _check_finished(run: Path, target: Target, note: Callable[[str], None]) -> None:
    """RunError where everybody would see a run that is not done."""
    account = run_account(run, load_scores(run, dry=True))
    how_far = unfinished(require_run(run), account)
    if how_far and target.private is False:
        raise RunError(
            f"{run}: is unfinished, {how_far}; finish it with its `sso-data generate` command "
            "(--limit ends it earlier), or push it without --public"
        )
    if how_far:
        note(f"the run is unfinished: {how_far}")


def _counted(run: Path, note: Callable[[str], None]) -> tuple[int, int]:
    """(pairs, rows) of a run; InputError where there is nothing to publish."""
    decided = read_decided(run)
    kept, rows = int(decided["kept"]), len(load_scores(run, dry=True))
    if not kept:
        raise InputError(
            f"{run}: nothing to push, the filter kept none of {decided['rows']} rows; loosen it, "
            f"e.g. `sso-data filter {run} --set filter.gap=q0.2`"
        )
    if decided["rows"] != rows:
        note(
            f"the pairs were decided on {decided['rows']} of {rows} rows; `sso-data filter {run}` "
            "decides again"
        )
    return kept, rows
