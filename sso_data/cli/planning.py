"""`plan`: what a run would take and give."""

from typing import TYPE_CHECKING, Annotated

import typer

from sso_data.cli import options as opt
from sso_data.cli import output
from sso_data.cli.outcome import echo, print_json, say
from sso_data.cli.progress import showing_progress
from sso_data.core.progress import duration

if TYPE_CHECKING:
    from sso_data.core.statistics import Estimate
    from sso_data.generation.preview import Plan


def plan(
    prompts: opt.Prompts,
    model: opt.Model = None,
    number: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=30,
            help="Prompts to make rows of, at least 30 (default: 32; on vLLM twice "
            "engine.max_num_seqs).",
        ),
    ] = None,
    price_per_hour: opt.PricePerHour = None,
    engine: opt.EngineName = None,
    engines: opt.Engines = None,
    cluster: opt.Cluster = None,
    servers: opt.Servers = None,
    principles: opt.PrinciplesDir = None,
    templates: opt.TemplatesDir = None,
    limit: opt.Limit = None,
    seed: opt.Seed = None,
    split: opt.Split = None,
    column: opt.Column = None,
    format_: opt.Format = None,
    take: opt.Take = None,
    skip_bad_rows: opt.SkipBadRows = False,
    config: opt.ConfigFile = None,
    settings: opt.Settings = None,
    as_json: opt.Json = False,
) -> None:
    """Estimate time, tokens, disk, pairs and cost of a run, by real rows; write nothing.

    Rows of some prompts are made on this machine. Another machine takes another time.
    """
    from sso_data.config.run import load_config
    from sso_data.generation.preview import plan as run_plan

    resolved = load_config(
        config,
        settings,
        model=model,
        seed=seed,
        principles=principles,
        templates=templates,
        **opt.engine_keys(engine, engines, cluster, servers),
        **opt.source_keys(
            split, column, limit, layout=format_, take=take, skip_bad_rows=skip_bad_rows
        ),
    )
    with showing_progress() as progress:
        found = run_plan(prompts, resolved, number, progress)
    price = price_per_hour
    cost = None if price is None else found.forecast.cost(price, found.loading)
    if as_json:
        print_json(found.to_json() | {"cost": cost.to_json() if cost else None})
    else:
        _show(found, cost)


def _show(found: "Plan", cost: "Estimate | None") -> None:
    """Print what a run would take, and why so many rows would be kept."""
    failed = f" ({found.failed} of the probe failed)" if found.failed else ""
    bad = f" and {found.bad} malformed rows" if found.bad else ""
    echo(f"{found.prompts:,} prompts{bad}; loading takes {duration(found.loading)}{failed}")
    echo(found.forecast)
    if found.prompt_tokens:
        low, high = found.prompt_tokens.low, found.prompt_tokens.high
        interval = f" [{low:,.0f}, {high:,.0f}]" if low < high else ""
        echo(f"prompts of the three views: {found.prompt_tokens.value:,.0f}{interval} tokens")
    if cost:
        interval = f"[{cost.low:.2f}, {cost.high:.2f}]"
        echo(f"cost {cost.value:.2f} {interval} at that speed, loading included")
    output.explain(found.explanation, None)
    if found.rows > found.probed and found.probed < 2 * found.in_flight:
        say("a larger -n keeps the engine busier: the time is an upper estimate")
