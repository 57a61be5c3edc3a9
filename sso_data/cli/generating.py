"""`generate`, `filter`, `retry`, `complete`, `merge`, `preview`: make runs and decide on pairs."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sso_data.cli import options as opt
from sso_data.cli import output
from sso_data.cli.outcome import SOME_FAILED, echo, print_json, say
from sso_data.cli.progress import showing_progress
from sso_data.core.paths import real_path, shell_command
from sso_data.core.progress import duration
from sso_data.core.records import TEMPORARY

if TYPE_CHECKING:
    from sso_data.config.run import RunConfig
    from sso_data.generation.generate import Summary

PrincipleModel = Annotated[
    str | None,
    typer.Option("--principle-model", help="A model that writes principles for each prompt."),
]
Samples = Annotated[int | None, typer.Option("--samples", help="Rows of each prompt (default: 1).")]
Shard = Annotated[
    str | None,
    typer.Option("--shard", help="Only share I of N, for several machines.", metavar="I/N"),
]
Except = Annotated[
    list[Path] | None,
    typer.Option("--except", help="Leave rows of this run to it; repeat for more.", metavar="RUN"),
]

_SAFE = "every finished row is safe in {}; run the same command again to continue"


def generate(
    prompts: opt.Prompts,
    out: Annotated[Path, opt.out_option("Run directory; an existing run is continued.")],
    model: opt.Model = None,
    engine: opt.EngineName = None,
    engines: opt.Engines = None,
    cluster: opt.Cluster = None,
    servers: opt.Servers = None,
    principles: opt.PrinciplesDir = None,
    templates: opt.TemplatesDir = None,
    principle_model: PrincipleModel = None,
    limit: opt.Limit = None,
    samples: Samples = None,
    seed: opt.Seed = None,
    split: opt.Split = None,
    column: opt.Column = None,
    format_: opt.Format = None,
    take: opt.Take = None,
    shard: Shard = None,
    except_: Except = None,
    skip_bad_rows: opt.SkipBadRows = False,
    price_per_hour: opt.PricePerHour = None,
    overwrite: opt.OverwriteRun = False,
    config: opt.ConfigFile = None,
    settings: opt.Settings = None,
    as_json: opt.Json = False,
) -> None:
    """Sample, score and filter: prompts in, a run directory with preference pairs out.

    Run the same command again to continue after an interruption: finished rows are kept.
    """
    from sso_data.config.run import load_config
    from sso_data.generation.generate import generate as run_generate

    resolved = load_config(
        config,
        settings,
        model=model,
        seed=seed,
        principles=principles,
        templates=templates,
        sampling__samples=samples,
        steering__principle_model=principle_model,
        steering__principles="written" if principle_model else None,
        **opt.engine_keys(engine, engines, cluster, servers),
        **opt.source_keys(
            split, column, limit, shard, layout=format_, take=take, skip_bad_rows=skip_bad_rows
        ),
    )
    with showing_progress(_SAFE.format(out)) as progress:
        done = run_generate(
            *(prompts, out, resolved, progress),
            except_=except_ or (),
            overwrite=overwrite,
            price_per_hour=price_per_hour,
        )
    _show_run(out, done, price_per_hour, resolved.model, as_json)


def _show_run(
    out: Path, done: "Summary", price_per_hour: float | None, model: str, as_json: bool
) -> None:
    """Print what `generate` did, and end with the exit code that says so."""
    if as_json:
        print_json(output.run_summary(out, done) | done.work_json(price_per_hour))
    else:
        output.show_decision(done)
        output.show_steering(done.steering)
        work = _work(done, price_per_hour)
        echo(f"{out / 'pairs' / 'train.jsonl'} ({work})")
        _say_next(out, done, model)
    output.end(done, out)


def _work(done: "Summary", price_per_hour: float | None) -> str:
    """Return the time, that of rows and its speed, and the cost of a run, as far as is known."""
    cost, counts = done.cost(price_per_hour), done.counts
    rows = (
        f", of which {duration(counts.seconds)} on rows at {counts.speed}" if counts.speed else ""
    )
    paid = "" if cost is None else f"; cost {cost:.2f}, loading included"
    return f"{duration(done.seconds)}{rows}{paid}"


def _say_next(run: Path, done: "output.Decided", model: str) -> None:
    """Print what to do with a run's pairs, or without any: look at what the binding test drops.

    Pairs without an effect of the principles are nothing to train on.
    """
    kept, why = len(done.decision.kept), done.explanation
    if kept and why.effect.is_missing:
        stats = shlex.join(["sso-data", "principles", "stats", str(run)])
        output.next_step(shlex.join(["sso-data", "show", str(run)]), stats)
    elif kept:
        named = run if run.name.strip(".") else real_path(run)
        trained = named.with_name(f"{named.name}-model")
        train = shell_command("sso-data", "train", str(run), "-m", model, "--out", str(trained))
        output.next_step(shlex.join(["sso-data", "show", str(run)]), train)
    elif binding := why.binding:
        output.next_step(shlex.join(["sso-data", "show", str(run), "--reason", binding.reason]))


def filter_(
    run: Annotated[
        Path, typer.Argument(help="Run directory, or the Hub id of a pushed run (with --out).")
    ],
    out: Annotated[Path | None, opt.out_option("New run directory for a run on the Hub.")] = None,
    preset: Annotated[
        str | None,
        opt.choice(
            "--preset",
            "closeness, reference or none (default: the run's).",
            *("closeness", "reference", "none"),
        ),
    ] = None,
    settings: opt.Settings = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the funnel; write nothing.")
    ] = False,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Only show the rows kept by other tests and thresholds."),
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Decide again which rows become pairs, from the journal: no GPU, as often as you like."""
    from sso_data.filtering.refilter import differences, last_decision, refilter, run_config
    from sso_data.filtering.sweep import SWEPT, sweep_run
    from sso_data.publishing.read_back import run_directory

    with showing_progress(f"{(out or run) / 'pairs'} is unchanged") as progress:
        run = run_directory(str(run), out, dry_run=dry_run or sweep, progress=progress)
        resolved = run_config(run, settings, preset=preset)
        if sweep:
            swept = sweep_run(run, resolved.filter)
            if last := last_decision(run):
                same = {key: getattr(resolved.filter, key) for key in SWEPT}
                apart = differences(last.config.model_copy(update=same), resolved.filter)
                if apart:
                    progress.note(
                        f"the pairs were decided with {apart}, which this sweep leaves out; "
                        "give it with --set to count with it"
                    )
        else:
            done = refilter(run, resolved, progress, dry_run=dry_run)
    if sweep:
        if as_json:
            print_json(swept.to_json())
        else:
            output.console().print(output.sweep(swept))
        return
    if as_json:
        print_json(output.run_summary(run, done) | {"dry_run": dry_run})
    else:
        output.show_decision(done)
        if not dry_run:
            echo(str(run / "pairs" / "train.jsonl"))
            _say_next(run, done, resolved.model)
    if done.unfinished:
        say(
            f"the run is unfinished: {done.account.done} of {done.expected} "
            f"{done.account.unit} are done"
        )
    output.explain(done.explanation, run)


def retry(
    run: opt.RunPath,
    model: opt.ModelMoved = None,
    engines: opt.Engines = None,
    cluster: opt.Cluster = None,
    servers: opt.Servers = None,
    settings: opt.Settings = None,
    as_json: opt.Json = False,
) -> None:
    """Run only the prompts of failed.jsonl once more, then filter again.

    Sampling settings are the run's own, and the filter is as `filter` last decided; settings of
    speed (engine.max_num_seqs and the like) may be given.
    """
    from sso_data.generation.retry import retry as run_retry

    resolved, asked = _standing(run, settings, model, engines, servers, cluster)
    with showing_progress(_SAFE.format(run)) as progress:
        done = run_retry(run, resolved, progress, asked=asked)
    tried, rows, decided = done.counts.taken, done.counts.rows, done.refiltered
    if as_json:
        counts = {
            "tried": tried,
            "new_rows": rows,
            "failed_again": done.counts.failed,
            "failed_again_by_reason": dict(done.again),
        }
        summary = output.run_summary(run, decided)
        print_json(summary | counts | {"no_prompts": done.no_prompts})
    elif tried:
        output.show_decision(decided)
        output.show_steering(done.steering)
        echo(f"{rows} of {tried} failed prompts are rows now ({duration(done.seconds)})")
    else:
        echo("no prompt failed: nothing to retry")
    for text in _failed_again(done.again):
        say(text)
    if done.no_prompts:
        bad = "malformed row" if done.no_prompts == 1 else "malformed rows"
        say(
            f"{done.no_prompts} {bad} cannot be retried; correct the prompt file and run "
            "`generate` again"
        )
    if decided.unfinished:
        say(
            f"the run is unfinished: {decided.account.done} of {decided.expected} "
            f"{decided.account.unit} are done; `retry` runs failed prompts only, run `generate` "
            "for the rest"
        )
    if tried or done.no_prompts:
        output.end(decided, run)


def _failed_again(again: Mapping[str, int]) -> Iterator[str]:
    """Yield a line about the failures that the next try repeats, and one about the others."""
    by_kind = {
        "fail again with these settings: change the prompts and run `generate`": False,
        "may pass another time: run `retry` again": True,
    }
    for verdict, is_temporary in by_kind.items():
        some = {name: n for name, n in again.items() if (name in TEMPORARY) == is_temporary}
        if some:
            parts = ", ".join(f"{name} {count}" for name, count in some.items())
            yield f"{sum(some.values())} failures ({parts}) {verdict}"


def _standing(
    run: Path,
    settings: list[str] | None,
    model: str | None,
    engines: str | None,
    servers: list[str] | None,
    cluster: str | None,
) -> tuple["RunConfig", bool]:
    """Return the configuration of work on a run, and whether a filter was asked for."""
    from sso_data.filtering.refilter import standing_config

    engine = opt.engine_keys(None, engines, cluster, servers)
    resolved = standing_config(run, settings, model=model, **engine)
    return resolved, any(setting.startswith("filter.") for setting in settings or [])


def complete(
    run: opt.RunPath,
    model: opt.ModelMoved = None,
    engines: opt.Engines = None,
    cluster: opt.Cluster = None,
    servers: opt.Servers = None,
    settings: opt.Settings = None,
    as_json: opt.Json = False,
) -> None:
    """Make the answers and scores that scoring.when=needed left out, then filter again.

    All of them, or, with filter settings (--set filter.steered=off), those that this filter
    needs. Seeds are the rows' own: they end as with scoring.when=all.
    """
    from sso_data.generation.complete import complete as run_complete

    resolved, asked = _standing(run, settings, model, engines, servers, cluster)
    with showing_progress(_SAFE.format(run)) as progress:
        done = run_complete(run, resolved, progress, asked=asked)
    if as_json:
        summary = output.run_summary(run, done.refiltered)
        print_json(summary | {"completed": done.rows, "refused": len(done.refused)})
    else:
        output.show_decision(done.refiltered)
        echo(f"{done.rows} rows completed ({duration(done.seconds)})")
    output.explain(done.refiltered.explanation, run)
    for failure in done.refused:
        say(f"stays as it is: {failure.id}: {failure.reason}: {failure.detail}")
    if done.refused:
        raise typer.Exit(SOME_FAILED)


def merge(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories that differ only in their prompts.")
    ],
    out: Annotated[Path, opt.out_option("Run directory to make of them.")],
    overwrite: opt.OverwriteRun = False,
    as_json: opt.Json = False,
) -> None:
    """Join runs that differ only in their prompts, such as the shards of several machines.

    A row or failure that is in two of them is taken once; the runs are not changed.
    """
    from sso_data.generation.merge import merge as run_merge

    hint = f"what was copied is safe in {out}; run the same command again to continue"
    with showing_progress(hint) as progress:
        merged = run_merge(runs, out, progress, overwrite=overwrite)
    if as_json:
        summary = output.run_summary(out, merged.refiltered)
        print_json(summary | {"repeated": merged.repeated, "not_here": merged.not_here})
    else:
        output.show_decision(merged.refiltered)
        echo(str(out / "pairs" / "train.jsonl"))
    if merged.repeated:
        say(f"{merged.repeated} rows were in more than one of the runs; the first was taken")
    if merged.not_here:
        say(
            f"{merged.not_here} rows were left to other runs (--except) and are in none of these; "
            "merge those runs, too"
        )
    for run, how_far in merged.unfinished:
        say(f"{run} is unfinished: {how_far}; finish it and merge again")
    output.end(merged.refiltered, out)


def preview(
    prompts: opt.Prompts,
    model: opt.Model = None,
    number: Annotated[int, typer.Option("-n", min=1, help="How many prompts.")] = 5,
    engine: opt.EngineName = None,
    engines: opt.Engines = None,
    cluster: opt.Cluster = None,
    servers: opt.Servers = None,
    principles: opt.PrinciplesDir = None,
    templates: opt.TemplatesDir = None,
    seed: opt.Seed = None,
    split: opt.Split = None,
    column: opt.Column = None,
    format_: opt.Format = None,
    take: opt.Take = None,
    config: opt.ConfigFile = None,
    settings: opt.Settings = None,
    summary: Annotated[
        bool,
        typer.Option("--summary", help="Show no rows, but what share of all would be kept."),
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Show the first few prompts' three responses side by side with their scores; write nothing.

    With --summary (and -n 32, say): the share of rows that a whole run would keep, with its 95 %
    interval, and why.
    """
    from sso_data.config.run import load_config
    from sso_data.generation.preview import preview as run_preview

    resolved = load_config(
        config,
        settings,
        model=model,
        seed=seed,
        principles=principles,
        templates=templates,
        **opt.engine_keys(engine, engines, cluster, servers),
        **opt.source_keys(split, column, number, layout=format_, take=take),
    )
    with showing_progress() as progress:
        shown = run_preview(prompts, resolved, progress)
    if as_json:
        rows = [row.to_json() | {"reason": verdict} for row, verdict in shown.rows]
        failures = [failure.to_json() for failure in shown.failures]
        found = {"failed": failures, "explanation": shown.explanation.to_json()}
        print_json(found if summary else {"rows": rows, **found})
    elif summary:
        console = output.console()
        console.print(output.funnel(shown.decision))
        echo(shown.explanation.prediction)
        output.explain(shown.explanation, None)
    else:
        from sso_data.cli.rows import RowView
        from sso_data.filtering.measures import outcomes

        console = output.console()
        checked = outcomes(shown.records, resolved.filter, shown.decision.thresholds)
        for (row, verdict), one in zip(shown.rows, checked, strict=True):
            console.print(RowView(row, verdict, one))
    for failure in shown.failures:
        say(f"failed: {failure.source_id or failure.id}: {failure.reason}: {failure.detail}")
    if shown.failures:
        raise typer.Exit(SOME_FAILED)
