"""`retry` and `merge`: what goes on from finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from sso_data.cli.options import Json, RunPath, Settings
from sso_data.cli.outcome import ends_well, hint_to_continue, print_json, say
from sso_data.cli.summary import end, run_summary, show_decision, show_steering

RETRY_EXAMPLE = "Example: sso-data retry runs/first --set engine.max_num_seqs=64"
MERGE_EXAMPLE = "Example: sso-data merge runs/part1 runs/part2 --out runs/whole"


@ends_well
def retry(
    run: RunPath,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The same model, where it has moved.")
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Run the prompts of failed.jsonl once more, and nothing else; then filter again.

    Sampling settings are the run's own, and the filter is as `filter` last decided; settings of
    speed (engine.max_num_seqs and the like) may be given.
    """
    from sso_data.cli.progress import duration, showing_progress
    from sso_data.filtering.refilter import standing_config
    from sso_data.generation.retry import retry as run_retry

    resolved = standing_config(run, settings, model=model)
    asked = any(setting.startswith("filter.") for setting in settings or [])
    hint = f"every finished row is safe in {run}; run the same command again to continue"
    with hint_to_continue(hint), showing_progress() as progress:
        summary = run_retry(run, resolved, progress, asked=asked)
    tried, done = summary.counts.taken, summary.counts.rows
    decision, account = summary.refiltered.decision, summary.refiltered.account
    if as_json:
        counts = {"tried": tried, "new_rows": done, "failed_again": summary.counts.failed}
        print_json(
            run_summary(run, decision, account) | counts | {"no_prompts": summary.no_prompts}
        )
    elif tried:
        show_decision(decision, account)
        show_steering(summary.steering)
        typer.echo(f"{done} of {tried} failed prompts are rows now ({duration(summary.seconds)})")
    else:
        typer.echo("no prompt failed" if summary.no_prompts else "nothing failed")
    if summary.no_prompts:
        were = "row was no prompt" if summary.no_prompts == 1 else "rows were no prompts"
        say(f"{summary.no_prompts} {were} and cannot be retried")
    if summary.refiltered.unfinished:
        say(
            f"the run is unfinished: {account.prompts} of {summary.refiltered.expected} prompts "
            "are done; `retry` takes only what failed, its own command makes the others"
        )
    if tried or summary.no_prompts:
        end(account, decision, run)


@ends_well
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run directories of the same kind.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run directory that becomes of them.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run in --out and start anew.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Join runs that differ only in their prompts, such as the shards of several machines.

    A row or failure that stands in two of them is taken once; the runs stay as they are.
    """
    from sso_data.cli.progress import showing_progress
    from sso_data.generation.merge import merge as run_merge

    hint = f"what was copied is safe in {out}; run the same command again to continue"
    with hint_to_continue(hint), showing_progress() as progress:
        merged = run_merge(runs, out, progress, overwrite=overwrite)
    decision, account = merged.refiltered.decision, merged.refiltered.account
    if as_json:
        print_json(run_summary(out, decision, account) | {"repeated": merged.repeated})
    else:
        show_decision(decision, account)
        typer.echo(str(out / "pairs" / "train.jsonl"))
    if merged.repeated:
        say(f"{merged.repeated} rows stood in more than one of the runs; the first was taken")
    for run, how_far in merged.unfinished:
        say(f"{run} is unfinished: {how_far}; finish it and merge again")
    end(account, decision, out)
