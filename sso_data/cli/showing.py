"""`show`: rows of a run in the terminal."""

from typing import Annotated

import typer

from sso_data.cli import options as opt
from sso_data.cli import output
from sso_data.cli.completion import reasons
from sso_data.cli.outcome import print_json, say


def show(
    run: opt.RunPath,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Rows: ids, starts of ids, or your own ids."),
    ] = None,
    reason: Annotated[
        str | None,
        opt.choice("--reason", "Only rows dropped for this reason, or `kept`.", complete=reasons),
    ] = None,
    principle: Annotated[
        str | None, typer.Option("--principle", help="Only rows that this principle steered.")
    ] = None,
    sort: Annotated[
        str | None,
        opt.choice(
            "--sort",
            "margin, gap or length, the largest first (default: as written).",
            *("margin", "gap", "length"),
        ),
    ] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 3,
    as_json: opt.Json = False,
) -> None:
    """Show rows: prompt, principles, three answers, every number beside its threshold.

    Answers stand side by side from 120 columns on. For a pager with colours:
    FORCE_COLOR=1 sso-data show RUN -n 100 | less -R
    """
    from sso_data.filtering.selection import select

    found = select(run, ids or (), reason=reason, principle=principle, sort=sort, number=number)
    if as_json:
        rows = [one.to_json() for one in found.chosen]
        print_json({"rows": found.rows, "matching": found.matching, "shown": rows})
        return
    from sso_data.cli.rows import RowView

    console = output.console()
    for place, one in enumerate(found.chosen, start=1):
        heading = f"row {place} of {found.matching}"
        console.print(RowView(one.row, one.reason, one.outcomes, heading))
    if not found.chosen:
        say(f"no row of {found.rows} matches")
    elif found.matching > len(found.chosen):
        say(f"{len(found.chosen)} of {found.matching} rows; -n shows more")
