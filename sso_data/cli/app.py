"""Table of all commands with their examples; `demo` and `doctor`.

A command reads its options, calls one function, and shows what it returned.
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sso_data import __version__
from sso_data.cli import configuring, output, principles
from sso_data.cli import options as opt
from sso_data.cli.augmenting import augment
from sso_data.cli.command import Command, Group
from sso_data.cli.evaluating import evaluate
from sso_data.cli.generating import complete, filter_, generate, merge, preview, retry
from sso_data.cli.iterating import iterate
from sso_data.cli.outcome import echo, ends_well, print_json
from sso_data.cli.planning import plan
from sso_data.cli.progress import showing_progress
from sso_data.cli.publishing import export, push
from sso_data.cli.reporting import report, view
from sso_data.cli.showing import show
from sso_data.cli.training import train

app = typer.Typer(
    name="sso-data",
    cls=Group,
    help="On-policy preference datasets without human labels: Self-Steering Optimization.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Start with `sso-data demo` (no GPU needed), then `sso-data doctor --model M`.",
)


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


def demo(
    out: Annotated[Path | None, opt.out_option("Keep the run in this directory.")] = None,
    number: Annotated[
        int | None,
        typer.Option("-n", min=8, help="Number of prompts; by default 288, with --real all 48."),
    ] = None,
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            help="On SmolLM2-135M-Instruct, from the Hub or a package index (0.3 GB), in minutes.",
        ),
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Run every step on the embedded tiny policy: no GPU, no download, under a minute."""
    from sso_data.demo import run_demo

    with showing_progress() as progress:
        result = run_demo(out, number, progress, real=real)
    if as_json:
        print_json(result.to_json())
        return
    from sso_data.cli.rows import RowView
    from sso_data.filtering.measures import outcomes_of

    console = output.console()
    decision, config = result.summary.decision, result.story.run.filter
    for row in result.examples:
        console.print(RowView(row, None, outcomes_of(row, config, decision.thresholds)))
    output.show_decision(result.summary)
    echo(result.verdict)
    shown = [shlex.join(["sso-data", "show", str(out)])] if out else []
    output.next_step(*shown, "sso-data doctor --model MODEL")


def doctor(model: opt.Model = None, as_json: opt.Json = False) -> None:
    """Check this machine, and a model's chat template, and say what to do."""
    from sso_data.config.run import EngineConfig
    from sso_data.doctor import examine

    output.show_findings(list(examine(model, EngineConfig())), as_json=as_json)


def verify(
    directory: Annotated[
        Path, typer.Argument(help="A directory with runs, trainings, iterations or augmentations.")
    ],
    as_json: opt.Json = False,
) -> None:
    """Check every file of a directory that later commands read; change nothing.

    Names what is not as it was written, by file and line, and says what can be done about it. Exit
    code 1 if anything is wrong.
    """
    from sso_data.verification import verify as run_verify

    with showing_progress() as progress:
        found = run_verify(directory, progress)
    output.show_findings(found, as_json=as_json)


_COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("generate", generate, "prompts.jsonl -m Qwen/Qwen3-8B --out runs/first"),
    ("show", show, "runs/first --reason off_policy --sort margin -n 5"),
    ("filter", filter_, "runs/first --set filter.gap=0.1 --dry-run"),
    ("retry", retry, "runs/first --set engine.max_num_seqs=64"),
    ("complete", complete, "runs/first --set filter.steered=off"),
    ("merge", merge, "runs/part1 runs/part2 --out runs/whole"),
    ("augment", augment, "prompts.jsonl -m Qwen/Qwen3-8B --out more.jsonl --n 1000"),
    ("report", report, "runs/first"),
    ("view", view, "runs/first"),
    ("export", export, "runs/first --to trl --out exports/trl"),
    ("push", push, "runs/first alice/pairs --license apache-2.0 --language en"),
    ("train", train, "runs/first -m Qwen/Qwen3-8B --out models/second --loss-type dpo"),
    ("iterate", iterate, "prompts.jsonl -m Qwen/Qwen3-8B --out runs/sso --rounds 3"),
    (
        "eval",
        evaluate,
        "models/second --against Qwen/Qwen3-8B --prompts held_out.jsonl "
        "--judge reward:models/reward --out evals/second",
    ),
    ("plan", plan, "prompts.jsonl -m Qwen/Qwen3-8B --price-per-hour 2.5"),
    ("preview", preview, "prompts.jsonl -m Qwen/Qwen3-8B -n 5"),
    ("demo", demo, ""),
    ("doctor", doctor, "--model Qwen/Qwen3-8B"),
    ("verify", verify, "runs/first"),
    ("config keys", configuring.keys, "generate filter"),
    ("config init", configuring.init, "generate --out run.yaml"),
    ("recipes list", configuring.list_, ""),
    ("recipes show", configuring.show, "llama3.1-8b-instruct-sso --tiny"),
    ("principles list", principles.list_, ""),
    ("principles show", principles.show, "Helpfulness"),
    ("principles check", principles.check, "my-principles/"),
    (
        "principles new",
        principles.new,
        '"legal assistant: careful, cites sources" -m Qwen/Qwen3-8B --out legal',
    ),
    ("principles write", principles.write, "prompts.jsonl -m Qwen/Qwen3-8B -n 10"),
    ("principles stats", principles.stats, "runs/first"),
)
"""Each command's name, function and example, in the order of `--help`."""

_GROUPS = {
    "config": "Keys of --config and --set: list them, or write a file to start from.",
    "recipes": "Shipped recipes of `iterate`: list them, show one.",
    "principles": "List, show, check and make principle files; see which of them give pairs.",
}
_groups = {
    name: typer.Typer(cls=Group, no_args_is_help=True, help=text) for name, text in _GROUPS.items()
}
for _name, _function, _example in _COMMANDS:
    _group, _, _last = _name.rpartition(" ")
    _epilog = f"Example: sso-data {_name} {_example}".rstrip()
    _to = _groups[_group] if _group else app
    _to.command(_last, cls=Command, epilog=_epilog)(ends_well(_function))
for _name, _made in _groups.items():
    app.add_typer(_made, name=_name)
