"""`principles`: list, show, check and make principle files, and see which of them work."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sso_data.cli import options as opt
from sso_data.cli import output
from sso_data.cli.outcome import SOME_FAILED, echo, print_json, say, someone_reads
from sso_data.cli.progress import showing_progress
from sso_data.core.errors import InputError, nearest

if TYPE_CHECKING:
    from sso_data.config.run import RunConfig

Asked = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model directory or Hub id; its name at --endpoint."),
]
EndpointUrl = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        help="OpenAI-compatible server, e.g. http://host:8000/v1; its key in OPENAI_API_KEY.",
        metavar="URL",
    ),
]


def list_(principles: opt.PrinciplesDir = None, as_json: opt.Json = False) -> None:
    """List the features of a catalogue."""
    from sso_data.steering.principles import load_catalogue

    found = load_catalogue(principles)
    if as_json:
        print_json([principle.model_dump() for principle in found.principles.values()])
        return
    output.console().print(output.catalogue(found))


def show(
    feature: Annotated[str, typer.Argument(help="Name of the feature.")],
    principles: opt.PrinciplesDir = None,
) -> None:
    """Show one principle in full: the texts of its good and its bad side."""
    from sso_data.steering.principles import listing, load_catalogue

    found = load_catalogue(principles)
    by_name = {name.lower(): principle for name, principle in found.principles.items()}
    if feature.lower() not in by_name:
        near = nearest(feature, found.principles, listing(found.directory))
        known = ", ".join(found.principles)
        raise InputError(f"no principle {feature!r} in {found.directory} ({known}){near}")
    echo(output.principle_text(by_name[feature.lower()]))


def check(
    directory: Annotated[Path, typer.Argument(help="Directory of principle files.")],
    as_json: opt.Json = False,
) -> None:
    """Check principle files: both sides, their lengths, leaks, wordings that are too similar.

    Every file is reported. Exit code 1 if one has an error; warnings do not change the exit code.
    """
    from dataclasses import asdict

    from sso_data.steering.checks import TextFinding, review
    from sso_data.steering.principles import load_catalogue

    bad: list[TextFinding] = []

    def note(file: Path, error: InputError) -> None:
        text = str(error).removeprefix(f"{file}: ")
        bad.append(TextFinding(severity="error", feature=file.name, text=text))

    found = load_catalogue(directory, on_bad_file=note)
    findings = [*bad, *review(list(found.principles.values()))]
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        print_json(
            {"principles": list(found.principles), "findings": [asdict(one) for one in findings]}
        )
    else:
        for one in findings:
            echo(f"{one.severity}: {one.feature}: {one.text}")
        counts = f"{errors} errors, {len(findings) - errors} warnings"
        names = f": {', '.join(found.principles)}" if found.principles else ""
        number = f"{len(found.principles)} principle{'s' * (len(found.principles) != 1)}"
        echo(f"{directory}: {number}, {counts}{names}")
    if errors:
        raise typer.Exit(1)


def new(
    description: Annotated[str, typer.Argument(help="What the model will do, in plain words.")],
    out: Annotated[Path, opt.out_option("Directory to make.")],
    number: Annotated[int, typer.Option("-n", min=1, max=50, help="How many principles.")] = 6,
    model: Asked = None,
    endpoint: EndpointUrl = None,
    engine: opt.EngineName = None,
    engines: opt.Engines = None,
    cluster: opt.Cluster = None,
    servers: opt.Servers = None,
    templates: opt.TemplatesDir = None,
    seed: opt.Seed = None,
    config: opt.ConfigFile = None,
    settings: opt.Settings = None,
) -> None:
    """Make a catalogue from a plain description with a model; read it before you use it.

    What was wrong with an answer is said, and the missing ones are asked for again. If too few can
    be made, they are written all the same, and the exit code is 3.
    """
    from sso_data.steering.new_principles import new_catalogue

    resolved = _asking(
        config,
        settings,
        model,
        endpoint,
        seed=seed,
        templates=templates,
        **opt.engine_keys(engine, engines, cluster, servers),
    )
    with showing_progress() as progress:
        made = new_catalogue(description, number, out, resolved, progress)
    output.console().print(output.catalogue(made))
    echo(f"{out} ({len(made.principles)} principles); next: sso-data principles check {out}")
    if len(made.principles) < number:
        say(
            f"warning: {len(made.principles)} of {number} principles could be made; ask for the "
            "others with another --out and --seed, or a stronger model, and put the files together"
        )
        raise typer.Exit(SOME_FAILED)


def write(
    prompts: opt.Prompts,
    model: Asked = None,
    endpoint: EndpointUrl = None,
    number: Annotated[int | None, typer.Option("-n", min=1, help="Only the first N.")] = None,
    engine: opt.EngineName = None,
    engines: opt.Engines = None,
    cluster: opt.Cluster = None,
    servers: opt.Servers = None,
    principles: opt.PrinciplesDir = None,
    templates: opt.TemplatesDir = None,
    seed: opt.Seed = None,
    split: opt.Split = None,
    column: opt.Column = None,
    config: opt.ConfigFile = None,
    settings: opt.Settings = None,
) -> None:
    """Show the principles that a model writes for each query, as JSON lines; save nothing."""
    from sso_data.steering.counts import SteeringCounts
    from sso_data.steering.dry_run import write_principles

    resolved = _asking(
        config,
        settings,
        model,
        endpoint,
        seed=seed,
        principles=principles,
        templates=templates,
        **opt.engine_keys(engine, engines, cluster, servers),
        **opt.source_keys(split, column, number),
    )
    counts = SteeringCounts()
    with showing_progress("nothing was saved") as progress:
        for line in write_principles(prompts, resolved, counts, progress):
            print_json(line, indent=None)
            if not someone_reads():
                break
    warnings = counts.warnings(resolved.steering.max_fallback_share)
    for text in (*counts.summary(), *(f"warning: {one}" for one in warnings)):
        say(text)


def stats(
    run: opt.RunPath,
    wordings: Annotated[
        bool, typer.Option("--wordings", help="Also each wording of a principle.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Show which principles of a run give pairs: kept share, gap and closeness of each."""
    from dataclasses import asdict

    from sso_data.steering.stats import principle_stats

    found = principle_stats(run, wordings=wordings)
    if as_json:
        print_json([asdict(one) | {"kept_share": one.kept_share} for one in found])
        return
    output.console().print(output.principle_stats(found))


def _asking(
    config: Path | None,
    settings: list[str] | None,
    model: str | None,
    endpoint: str | None,
    **overrides: Any,
) -> "RunConfig":
    """Return the configuration to ask one model; at an endpoint `model` is its name there."""
    from sso_data.config.run import load_config

    overrides["steering__principles"] = "written"
    if endpoint:
        overrides |= {"steering__endpoint": endpoint, "steering__principle_model": model}
    else:
        overrides["model"] = model
    return load_config(config, settings, **overrides)
