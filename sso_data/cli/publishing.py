"""`export` and `push`: a run for other programs, and as a dataset on the Hub."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sso_data.cli import options as opt
from sso_data.cli.outcome import echo, print_json, say
from sso_data.cli.progress import showing_progress
from sso_data.core.errors import LicenceError
from sso_data.core.progress import size

if TYPE_CHECKING:
    from sso_data.publishing.dataset import Packed
    from sso_data.publishing.upload import Published

_FORMATS = (
    *("trl", "llama-factory", "axolotl", "openrlhf", "sso", "autoalign", "rewardbench"),
    *("alpaca-eval", "mt-bench"),
)


def export(
    run: opt.RunPath,
    to: Annotated[
        str,
        opt.choice("--to", f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}.", *_FORMATS),
    ],
    out: Annotated[Path, opt.out_option("New directory for the files.")],
    drawn: Annotated[
        str | None,
        opt.choice(
            "--drawn",
            "alpaca-eval, mt-bench: the view of the answers, plain, good or bad (default: plain).",
            *("plain", "good", "bad"),
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="alpaca-eval, mt-bench: the model's name (default: the model's own)."
        ),
    ] = None,
    overwrite: Annotated[bool, opt.overwrite_option("Replace an earlier export in --out.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Write files that another program reads, and the recipe that trains on them.

    Trainers get the pairs that the filter kept; alpaca-eval and mt-bench get the answer
    of every row that has one.
    """
    from sso_data.exporting.export import export as run_export

    with showing_progress(f"{out} is unchanged") as progress:
        done = run_export(
            run, to, out, drawn=drawn, name=name, overwrite=overwrite, progress=progress
        )
    files = [str(done.directory / file) for file in done.files]
    if as_json:
        print_json(
            {
                "out": str(done.directory),
                "format": done.format,
                done.holds: done.rows,
                "exported": done.exported,
                "skipped": dict(done.skipped),
                "files": files,
                "next": done.next,
            }
        )
    else:
        for line in (done.account, *files, f"next: {done.next}"):
            echo(line)
    for note in done.notes:
        say(note)


def push(
    run: opt.RunPath,
    repo: Annotated[str, typer.Argument(help="Dataset repository: namespace/name.")],
    public: opt.Public = False,
    private: opt.Private = False,
    what: Annotated[
        str,
        opt.choice("--what", "all (pairs and every scored row) or pairs.", "all", "pairs"),
    ] = "all",
    revision: Annotated[
        str, typer.Option("--revision", help="Existing branch of the repository.")
    ] = "main",
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", help="Address of the Hub; by default HF_ENDPOINT, or the Hub."),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option("--language", help="Language of the data for the card, e.g. en; repeatable."),
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option("--license", help="Licence for the card, e.g. apache-2.0; asked if public."),
    ] = None,
    overwrite: Annotated[
        bool, opt.overwrite_option("Replace what another run put into the repository.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="With --public: even without an effect, or a licence."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="List what would be sent, write the card to RUN/push-dry-run; no token.",
        ),
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Publish a run on the Hub: pairs, every scored row, a card. Private unless you say --public.

    Everything goes in one commit. Run the same command again after any failure: it continues.
    """
    given: dict[str, Any] = {
        "what": what,
        "private": opt.private_of(public=public, private=private),
        "language": language or (),
        "license": license_,
        "confirmed": yes,
        "revision": revision,
        "endpoint": endpoint,
        "overwrite": overwrite,
        "dry_run": dry_run,
    }
    try:
        done = _pushed(run, repo, given)
    except LicenceError as error:
        if as_json or not _is_terminal():
            raise
        say(str(error))
        given["license"] = typer.prompt("licence", err=True).strip()
        done = _pushed(run, repo, given)
    if dry_run:
        _show_packed(done, as_json=as_json)
    elif as_json:
        print_json(done.to_json())
    else:
        show_published(done)


def _is_terminal() -> bool:
    """Return True where somebody reads the question and can answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _pushed(run: Path, repo: str, given: dict[str, Any]) -> Any:
    """Return the result of `push_run`."""
    from sso_data.publishing.dataset import push_run

    hint = f"{repo} shows its old or its new state; run the same command again to continue"
    with showing_progress(None if given["dry_run"] else hint) as progress:
        return push_run(run, repo, **given, progress=progress)


def _show_packed(packed: "Packed", *, as_json: bool) -> None:
    """Print the files that a push would send."""
    if as_json:
        made = {"repo": packed.repo, "folder": str(packed.folder), "dry_run": True}
        where = {path: str(file) for path, file in packed.files.items()}
        total = {"bytes": sum(packed.sizes.values())}
        print_json(made | {"files": packed.sizes, "made_of": where} | total)
        return
    for path, count in packed.sizes.items():
        file = packed.files[path]
        echo(f"{size(count):>9}  {path}" + f", read from {file}" * (file != packed.folder / path))
    echo(f"{size(sum(packed.sizes.values())):>9}  in {len(packed.sizes)} files, not sent")
    echo(f"made for it, in {packed.folder}: what is not read from the run")
    echo(str(packed.folder / "README.md"))


def show_published(done: "Published") -> None:
    """Print the repository's new state on stdout."""
    if done.new_files:
        echo(f"{done.new_files} files, {size(done.new_bytes)}, commit {done.commit}")
    else:
        echo(f"nothing to do: up to date since commit {done.commit}")
    echo(f"{done.url} ({'private' if done.private else 'public'})")
