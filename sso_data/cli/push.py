"""`push`: a run to a dataset repository on the Hub."""

from typing import TYPE_CHECKING, Annotated

import typer

from sso_data.cli.options import Json, RunPath
from sso_data.cli.outcome import ends_well, hint_to_continue, print_json
from sso_data.core.errors import ConfigError

if TYPE_CHECKING:
    from sso_data.publishing.upload import Published

PUSH_EXAMPLE = "Example: sso-data push runs/first alice/pairs --license apache-2.0 --language en"

INTERRUPTED = "{repo} is as it was, or private, or complete; run the same command again to continue"

Public = Annotated[
    bool,
    typer.Option("--public", help="Everybody may see the repository; a new one is private."),
]
Private = Annotated[
    bool,
    typer.Option("--private", help="Close the repository first, where it is public."),
]


@ends_well
def push(
    run: RunPath,
    repo: Annotated[str, typer.Argument(help="Dataset repository: namespace/name.")],
    public: Public = False,
    private: Private = False,
    what: Annotated[
        str,
        typer.Option(
            "--what",
            help="all (pairs and every scored row) or pairs.",
            metavar="NAME",
        ),
    ] = "all",
    revision: Annotated[
        str, typer.Option("--revision", help="Branch of the repository; it must be there.")
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
        str | None, typer.Option("--license", help="Licence for the card, e.g. apache-2.0.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace what another run put into the repository."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a run on the Hub: pairs, every scored row, a card. Private unless you say --public.

    Everything goes in one commit. Run the same command again after any failure: it continues.
    """
    from sso_data.cli.progress import showing_progress
    from sso_data.publishing.dataset import push_run

    seen = private_of(public=public, private=private)
    with hint_to_continue(INTERRUPTED.format(repo=repo)), showing_progress() as progress:
        done = push_run(
            run,
            repo,
            what=what,
            private=seen,
            revision=revision,
            endpoint=endpoint,
            language=language or (),
            license=license_,
            overwrite=overwrite,
            progress=progress,
        )
    show_published(done, as_json=as_json)


def private_of(*, public: bool, private: bool) -> bool | None:
    """The visibility of the options: private, public, or None where the user did not say.

    Raises ConfigError for both options together.
    """
    if public and private:
        raise ConfigError("--public and --private: give one of them")
    return private if public or private else None


def show_published(done: "Published", *, as_json: bool) -> None:
    """Print the repository's new state on stdout."""
    if as_json:
        print_json(done.to_json())
        return
    from sso_data.cli.progress import size

    who = "private" if done.private else "public"
    if done.new_files:
        typer.echo(f"{done.new_files} files, {size(done.new_bytes)}, commit {done.commit}")
    else:
        typer.echo(f"nothing to do: it holds all of this since commit {done.commit}")
    typer.echo(f"{done.url} ({who})")
