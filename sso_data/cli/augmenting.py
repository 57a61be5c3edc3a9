"""`augment`: new queries from seed queries."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sso_data.cli import options as opt
from sso_data.cli.outcome import SOME_FAILED, echo, print_json, say
from sso_data.cli.progress import showing_progress
from sso_data.core.progress import duration

if TYPE_CHECKING:
    from sso_data.augmentation.augment import Augmented


def augment(
    prompts: opt.Prompts,
    out: Annotated[
        Path, opt.out_option("File of new queries (.jsonl); an existing one is continued.")
    ],
    number: Annotated[int, typer.Option("--n", "-n", min=1, help="How many new queries.")],
    model: opt.Model = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", help="OpenAI-compatible server with --model.", metavar="URL"),
    ] = None,
    decontaminate: Annotated[
        list[Path] | None,
        typer.Option(
            "--decontaminate", help="Benchmark file whose texts must not be repeated; repeatable."
        ),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option("--templates", help="Directory with an augment.j2 of your own."),
    ] = None,
    engine: opt.EngineName = None,
    engines: opt.Engines = None,
    cluster: opt.Cluster = None,
    servers: opt.Servers = None,
    seed: opt.Seed = None,
    split: opt.Split = None,
    column: opt.Column = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Skip malformed rows of the seed file.")
    ] = False,
    overwrite: Annotated[
        bool, opt.overwrite_option("Delete the queries in --out and start over.")
    ] = False,
    config: Annotated[Path | None, opt.config_option("docs/augment.md")] = None,
    settings: Annotated[list[str] | None, opt.set_option("answers.top_p=1", "augment")] = None,
    as_json: opt.Json = False,
) -> None:
    """Make new queries from seed queries with the policy, checked and without duplicates.

    Run the same command again to continue after an interruption, or with a larger --n for more.
    """
    from sso_data.augmentation.augment import augment as run_augment
    from sso_data.config.augmentation import AugmentConfig
    from sso_data.config.loading import load

    resolved = load(
        AugmentConfig,
        config,
        settings,
        model=model,
        seed=seed,
        endpoint=endpoint,
        templates=templates,
        decontaminate__files=tuple(decontaminate) if decontaminate else None,
        **opt.engine_keys(engine, engines, cluster, servers),
        **opt.source_keys(split, column, skip_bad_rows=skip_bad_rows),
    )
    hint = f"every new query is safe in {out}; run the same command again to continue"
    with showing_progress(hint) as progress:
        done = run_augment(prompts, out, number, resolved, progress, overwrite=overwrite)
    _show(done, as_json=as_json)


def _show(done: "Augmented", *, as_json: bool) -> None:
    """Print the report on stdout; exit with code 3 if there are too few queries."""
    if as_json:
        print_json(
            {
                "out": str(done.paths.queries),
                "rejected_file": str(done.paths.rejected),
                "report_file": str(done.paths.report),
                **{key: value for key, value in done.report.items() if key != "config"},
                "new_attempts": done.new_attempts,
                "seconds": round(done.seconds, 2),
            }
        )
    else:
        for line in _lines(done):
            echo(line)
    if done.tally.num_accepted > done.wanted:
        say(
            f"{done.paths.queries} already has {done.tally.num_accepted} queries "
            f"({done.wanted} requested): nothing to do"
        )
    if done.shortfall:
        say(f"warning: {done.shortfall}")
        raise typer.Exit(SOME_FAILED)


def _lines(done: "Augmented") -> list[str]:
    """Return the report as text."""
    tally, report = done.tally, done.report
    lines = [
        f"{tally.num_accepted} new queries of {tally.num_attempts} attempts, from "
        f"{report['seeds']['used']} seeds"
    ]
    for operation, counts in report["operations"].items():
        rejected = ", ".join(f"{reason} {n}" for reason, n in counts["rejected"].items())
        lines.append(f"  {operation:<10}{counts['accepted']:>8} accepted; {rejected or 'none'}")
    found = report["duplicates"]
    lines.append(
        f"duplicates (from similarity {found['threshold']:g}): of seeds "
        f"{found['duplicate_of_seed']} same, {found['near_duplicate_of_seed']} near; of new "
        f"queries {found['duplicate']} same, {found['near_duplicate']} near"
    )
    for file, count in report["contaminated"].items():
        lines.append(f"overlap with {file}: {count}")
    return [*lines, f"{done.paths.queries} ({duration(done.seconds)})"]
