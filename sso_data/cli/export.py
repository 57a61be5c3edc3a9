"""`export`: a run's pairs or answers in the format of another program."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sso_data.cli.options import Json, RunPath
from sso_data.cli.outcome import ends_well, hint_to_continue, print_json, say

if TYPE_CHECKING:
    from sso_data.exporting.export import Exported

EXPORT_EXAMPLE = "Example: sso-data export runs/first --to trl --out exports/trl"


@ends_well
def export(
    run: RunPath,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="trl, llama-factory, axolotl, openrlhf, sso, autoalign, rewardbench, alpaca-eval "
            "or mt-bench.",
            metavar="FORMAT",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New directory for the files.")],
    drawn: Annotated[
        str | None,
        typer.Option(
            "--drawn",
            help="alpaca-eval, mt-bench: whose answers, plain, good or bad (default: plain).",
            metavar="VIEW",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="alpaca-eval, mt-bench: the model's name (default: the model's own)."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write files that another program reads, and the recipe that trains on them.

    Trainers get the pairs that the filter kept; alpaca-eval and mt-bench get every row's answer.
    """
    from sso_data.cli.progress import showing_progress
    from sso_data.exporting.export import export as run_export

    with hint_to_continue(f"{out} is as it was before"), showing_progress() as progress:
        done = run_export(
            run, to, out, drawn=drawn, name=name, overwrite=overwrite, progress=progress
        )
    _show(done, as_json=as_json)


def _show(done: "Exported", *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "out": str(done.directory),
                "format": done.format,
                done.holds: done.rows,
                "exported": done.exported,
                "skipped": dict(done.skipped),
                "files": [str(done.directory / file) for file in done.files],
                "next": done.next,
            }
        )
    else:
        typer.echo(done.account)
        for file in done.files:
            typer.echo(str(done.directory / file))
        typer.echo(f"next: {done.next}")
    for note in done.notes:
        say(note)
