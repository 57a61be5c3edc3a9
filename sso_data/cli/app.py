"""The commands: each one reads its options, calls one function, and shows what came back."""

from pathlib import Path
from typing import Annotated

import typer

from sso_data import __version__
from sso_data.cli.again import MERGE_EXAMPLE, RETRY_EXAMPLE, merge, retry
from sso_data.cli.augment import AUGMENT_EXAMPLE, augment
from sso_data.cli.evaluating import EVAL_EXAMPLE, evaluate
from sso_data.cli.export import EXPORT_EXAMPLE, export
from sso_data.cli.iterating import ITERATE_EXAMPLE, iterate
from sso_data.cli.options import (
    Column,
    ConfigFile,
    EngineName,
    Json,
    Limit,
    Model,
    PrincipleModel,
    PrinciplesDir,
    Prompts,
    RunOrHubId,
    Seed,
    Settings,
    Shard,
    SkipBadRows,
    Split,
    TemplatesDir,
)
from sso_data.cli.outcome import SOME_FAILED, ends_well, hint_to_continue, print_json, say
from sso_data.cli.principles import principles_app
from sso_data.cli.push import PUSH_EXAMPLE, push
from sso_data.cli.summary import (
    end,
    nothing_kept,
    run_summary,
    show_decision,
    show_steering,
    work_done,
)
from sso_data.cli.training import TRAIN_EXAMPLE, train

app = typer.Typer(
    name="sso-data",
    help="On-policy preference datasets without human labels: Self-Steering Optimization.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Start with `sso-data demo` (no GPU needed), then `sso-data doctor --model M`.",
)
app.add_typer(principles_app, name="principles")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sso-data {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: sso-data generate prompts.jsonl -m Qwen/Qwen3-8B --out runs/first")
@ends_well
def generate(
    prompts: Prompts,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run directory; continued if there.")],
    model: Model = None,
    engine: EngineName = None,
    principles: PrinciplesDir = None,
    templates: TemplatesDir = None,
    principle_model: PrincipleModel = None,
    limit: Limit = None,
    seed: Seed = None,
    split: Split = None,
    column: Column = None,
    shard: Shard = None,
    skip_bad_rows: SkipBadRows = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run in --out and start anew.")
    ] = False,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Sample, score and filter: prompts in, a run directory with preference pairs out.

    Run the same command again to continue after an interruption: finished rows are kept.
    """
    from sso_data.cli.progress import duration, showing_progress
    from sso_data.config.run import load_config
    from sso_data.generation.generate import generate as run_generate

    resolved = load_config(
        config,
        settings,
        model=model,
        seed=seed,
        principles=principles,
        templates=templates,
        steering__principle_model=principle_model,
        steering__principles="written" if principle_model else None,
        engine__name=engine,
        source__limit=limit,
        source__split=split,
        source__column=column,
        source__shard=shard,
        source__skip_bad_rows=skip_bad_rows or None,
    )
    hint = f"every finished row is safe in {out}; run the same command again to continue"
    with hint_to_continue(hint), showing_progress() as progress:
        summary = run_generate(prompts, out, resolved, progress, overwrite=overwrite)
    if as_json:
        print_json(run_summary(out, summary.decision, summary.account) | work_done(summary))
    else:
        show_decision(summary.decision, summary.account)
        show_steering(summary.steering)
        typer.echo(f"{out / 'pairs' / 'train.jsonl'} ({duration(summary.seconds)})")
    end(summary.account, summary.decision, out)


@app.command("filter", epilog="Example: sso-data filter runs/first --set filter.gap=0.1 --dry-run")
@ends_well
def filter_(
    run: RunOrHubId,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New run directory for a run on the Hub.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="closeness, reference or none.", metavar="NAME")
    ] = None,
    settings: Settings = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the funnel; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Decide again which rows become pairs, from the journal: no GPU, as often as you like."""
    from sso_data.cli.progress import showing_progress
    from sso_data.filtering.refilter import refilter, run_config
    from sso_data.publishing.read_back import run_directory

    hint = f"{(out or run) / 'pairs'} is as it was before"
    with hint_to_continue(hint), showing_progress() as progress:
        run = run_directory(str(run), out, dry_run=dry_run, progress=progress)
        resolved = run_config(run, settings, preset=preset)
        done = refilter(run, resolved, progress, dry_run=dry_run)
    decision, account = done.decision, done.account
    if as_json:
        print_json(run_summary(run, decision, account) | {"dry_run": dry_run})
    else:
        show_decision(decision, account)
        if not dry_run:
            typer.echo(str(run / "pairs" / "train.jsonl"))
    if done.unfinished:
        say(f"the run is unfinished: {account.prompts} of {done.expected} prompts are done")
    if not len(decision.kept):
        say(nothing_kept(run, decision))


app.command("retry", epilog=RETRY_EXAMPLE)(retry)
app.command("merge", epilog=MERGE_EXAMPLE)(merge)
app.command("augment", epilog=AUGMENT_EXAMPLE)(augment)
app.command("export", epilog=EXPORT_EXAMPLE)(export)
app.command("push", epilog=PUSH_EXAMPLE)(push)
app.command("train", epilog=TRAIN_EXAMPLE)(train)
app.command("iterate", epilog=ITERATE_EXAMPLE)(iterate)
app.command("eval", epilog=EVAL_EXAMPLE)(evaluate)


@app.command(epilog="Example: sso-data preview prompts.jsonl -m Qwen/Qwen3-8B -n 5")
@ends_well
def preview(
    prompts: Prompts,
    model: Model = None,
    number: Annotated[int, typer.Option("-n", min=1, help="How many prompts.")] = 5,
    engine: EngineName = None,
    principles: PrinciplesDir = None,
    templates: TemplatesDir = None,
    seed: Seed = None,
    split: Split = None,
    column: Column = None,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Show the first few prompts' three responses side by side with their scores; write nothing."""
    from sso_data.cli.progress import showing_progress
    from sso_data.config.run import load_config
    from sso_data.generation.preview import preview as run_preview

    resolved = load_config(
        config,
        settings,
        model=model,
        seed=seed,
        principles=principles,
        templates=templates,
        engine__name=engine,
        source__limit=number,
        source__split=split,
        source__column=column,
    )
    with showing_progress() as progress:
        shown = run_preview(prompts, resolved, progress)
    if as_json:
        rows = [row.to_json() | {"reason": verdict} for row, verdict in shown.rows]
        failures = [failure.to_json() for failure in shown.failures]
        print_json({"rows": rows, "failed": failures})
    else:
        from sso_data.cli import tables

        out = tables.console()
        for row, verdict in shown.rows:
            out.print(tables.pair(row, verdict))
    for failure in shown.failures:
        say(f"failed: {failure.source_id or failure.id}: {failure.reason}: {failure.detail}")
    if shown.failures:
        raise typer.Exit(SOME_FAILED)


@app.command(epilog="Example: sso-data demo")
@ends_well
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Keep the run in this directory.")
    ] = None,
    number: Annotated[int, typer.Option("-n", min=8, help="How many prompts.")] = 288,
    as_json: Json = False,
) -> None:
    """The whole job on the embedded tiny policy: no GPU, no download, under a minute."""
    from sso_data.cli.progress import showing_progress
    from sso_data.demo import run_demo

    with showing_progress() as progress:
        result = run_demo(out, number, progress)
    if as_json:
        print_json(result.to_json())
        return
    from sso_data.cli import tables

    console = tables.console()
    for row in result.examples:
        console.print(tables.pair(row, None))
    show_decision(result.summary.decision, result.summary.account)
    typer.echo(result.verdict)


@app.command(epilog="Example: sso-data doctor --model Qwen/Qwen3-8B")
@ends_well
def doctor(model: Model = None, as_json: Json = False) -> None:
    """Look at this machine, and at a model's chat template, and say what to do."""
    from dataclasses import asdict

    from sso_data.config.run import EngineConfig
    from sso_data.doctor import examine

    found = list(examine(model, EngineConfig()))
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        from sso_data.cli import tables

        tables.console().print(tables.findings(found))
    if any(finding.state == "fail" for finding in found):
        raise typer.Exit(1)
