"""`report` and `view`: a run as a page to read, in files or served on this machine."""

import getpass
import socket
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sso_data.cli import options as opt
from sso_data.cli.outcome import echo, print_json, say
from sso_data.cli.progress import TerminalProgress, showing_progress
from sso_data.core.errors import ConfigError
from sso_data.core.progress import size

if TYPE_CHECKING:
    from sso_data.runs.tokens import Answers

Tokens = Annotated[
    int,
    typer.Option(
        "--tokens",
        min=0,
        help="Tint the tokens of the first N rows; without scoring.keep_tokens the model scores "
        "them.",
        metavar="N",
    ),
]


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Run directory; two or more are compared, and the rounds of an iteration.",
        ),
    ],
    out: Annotated[
        Path | None,
        opt.out_option(
            "New directory (default: RUN-report, or LAST-against-FIRST, which is made anew)."
        ),
    ] = None,
    single: Annotated[
        bool,
        typer.Option("--single", help="One file that holds every row, for at most 5,000 of them."),
    ] = False,
    tokens: Tokens = 0,
    model: opt.ModelNow = None,
    engine: opt.EngineName = None,
    overwrite: Annotated[bool, opt.overwrite_option("Replace an earlier report in --out.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Write a run as a page that opens from disk: accounting, checks, histograms, every row.

    Of several runs, or the rounds of an iteration, it shows the numbers and the answers to the
    same prompts side by side. It needs no network. The same run gives the same bytes.
    """
    from sso_data.iteration.state import ITERATION

    overwrite = overwrite or out is None
    is_iteration = (runs[0] / ITERATION.manifest).is_file()
    if tokens and (len(runs) > 1 or is_iteration):
        raise ConfigError("--tokens: tints the rows of one run; leave it out to compare")
    with showing_progress() as progress:
        if len(runs) > 1:
            from sso_data.reporting.compare import compare

            done = compare(runs, out, single=single, overwrite=overwrite, progress=progress)
        elif is_iteration:
            from sso_data.iteration.report import report as report_rounds

            done = report_rounds(
                runs[0], out, single=single, overwrite=overwrite, progress=progress
            )
        else:
            from sso_data.reporting.page import report as run_report

            answers = _answers(runs[0], tokens, progress, model, engine)
            done = run_report(
                runs[0], out, single=single, overwrite=overwrite, progress=progress, tokens=answers
            )
    if as_json:
        print_json({"page": str(done.page), "rows": done.rows, "bytes": done.size})
    else:
        counted = "" if len(runs) > 1 or is_iteration else f"{done.rows} rows, "
        echo(f"{done.page} ({counted}{size(done.size)})")


def view(
    run: opt.RunPath,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 0,
    tokens: Tokens = 0,
    model: opt.ModelNow = None,
    engine: opt.EngineName = None,
) -> None:
    """Serve the page of a run on this machine, also of one that is being made; Ctrl-C ends it.

    It reads only. The address holds a random part: who does not know it sees nothing.
    """
    from sso_data.reporting.server import Viewer

    with showing_progress() as progress:
        answers = _answers(run, tokens, progress, model, engine)
    with Viewer(run, port, answers) as viewer:
        number = viewer.server_address[1]
        echo(viewer.url)
        echo(
            f"from another machine: ssh -N -L {number}:127.0.0.1:{number} "
            f"{getpass.getuser()}@{socket.gethostname()}"
        )
        try:
            viewer.serve_forever()
        except KeyboardInterrupt:
            say("ended")


def _answers(
    run: Path, number: int, progress: TerminalProgress, model: str | None, engine: str | None
) -> "Mapping[str, Answers]":
    """Return the tokens of the first rows of a run, by id; nothing where none are asked for."""
    if not number:
        return {}
    from sso_data.generation.tokens import tokens_of
    from sso_data.runs.journal import read_rows

    rows = list(islice(read_rows(run), number))
    return tokens_of(run, rows, progress, model=model, engine__name=engine)
