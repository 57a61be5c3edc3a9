"""`show`: rows of a run in the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sso_data.cli import options as opt
from sso_data.cli import output
from sso_data.cli.completion import principles_of_run, reasons
from sso_data.cli.outcome import print_json, say
from sso_data.cli.progress import showing_progress
from sso_data.core.records import SIDE_OF

if TYPE_CHECKING:
    from sso_data.runs.tokens import Answers


def show(
    run: opt.RunPath,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Rows: ids, starts of ids, or your own ids."),
    ] = None,
    reason: Annotated[
        str | None,
        opt.choice("--reason", "Only rows dropped for this reason, or `kept`.", complete=reasons),
    ] = None,
    principle: Annotated[
        str | None,
        opt.choice(
            "--principle", "Only rows that this principle steered.", complete=principles_of_run
        ),
    ] = None,
    sort: Annotated[
        str | None,
        opt.choice(
            "--sort",
            "margin, gap, closeness or length, the largest first (default: as written).",
            *("margin", "gap", "closeness", "length"),
        ),
    ] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 3,
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens",
            help="Tint each token by its log-prob under good minus bad; without "
            "scoring.keep_tokens the model scores the rows.",
        ),
    ] = False,
    model: opt.ModelNow = None,
    engine: opt.EngineName = None,
    as_json: opt.Json = False,
) -> None:
    """Show rows: prompt, principles, three answers, every number beside its threshold.

    Answers stand side by side from 120 columns on. For a pager with colours:
    FORCE_COLOR=1 sso-data show RUN -n 100 | less -R
    """
    from sso_data.filtering.selection import select

    found = select(run, ids or (), reason=reason, principle=principle, sort=sort, number=number)
    answers: Mapping[str, Answers] = {}
    if tokens:
        from sso_data.generation.tokens import tokens_of

        those = [one.row for one in found.chosen]
        with showing_progress() as progress:
            answers = tokens_of(run, those, progress, model=model, engine__name=engine)
    if as_json:
        rows = [one.to_json() | _tokens_json(answers.get(one.row.id, {})) for one in found.chosen]
        print_json({"rows": found.rows, "matching": found.matching, "shown": rows})
        return
    from sso_data.cli.rows import RowView

    console = output.console()
    for place, one in enumerate(found.chosen, start=1):
        heading = f"row {place} of {found.matching}"
        said = answers.get(one.row.id, {})
        console.print(RowView(one.row, one.reason, one.outcomes, heading, said))
    if not found.chosen:
        say(f"no row of {found.rows} matches; they are {found.decided}")
    elif found.matching > len(found.chosen):
        say(f"{len(found.chosen)} of {found.matching} rows; -n shows more")


def _tokens_json(answers: "Answers") -> dict[str, Any]:
    """Return the tokens of a row's answers for `--json`."""
    return {f"{SIDE_OF[view]}_tokens": said.to_json() for view, said in answers.items()}
