"""`config` and `recipes`: every key with its default, a file to start from, the shipped recipes."""

from pathlib import Path
from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from sso_data.cli import options as opt
from sso_data.cli import output
from sso_data.cli.completion import recipes, values
from sso_data.cli.outcome import echo, print_json
from sso_data.core.errors import InputError

_COMMANDS = ("generate", "train", "iterate", "eval", "augment")
For = Annotated[
    str,
    typer.Argument(
        help=f"Command: {', '.join(_COMMANDS[:-1])} or {_COMMANDS[-1]}.",
        autocompletion=values(*_COMMANDS),
    ),
]


def init(
    command: For = "generate",
    out: Annotated[
        Path | None, opt.out_option("New file; by default the text goes to stdout.")
    ] = None,
) -> None:
    """Write a YAML file for --config: every key with its meaning and default, commented out."""
    from sso_data.config.keys import template
    from sso_data.runs.files import make_dir, write_atomic

    text = template(command)
    if out is None:
        echo(text.rstrip("\n"))
        return
    if out.exists():
        raise InputError(f"{out}: exists already; name a new file with --out")
    make_dir(out.parent)
    write_atomic(out, text.encode())
    echo(out)


def keys(
    command: For = "generate",
    search: Annotated[
        str, typer.Argument(help="Only keys whose name or meaning holds this text.")
    ] = "",
    as_json: opt.Json = False,
) -> None:
    """List the keys of --config and --set with their defaults and meanings."""
    from sso_data.config.keys import keys_of, kind_of

    wanted = search.lower()
    found = [
        key
        for key in keys_of(kind_of(command))
        if wanted in key.name.lower() or wanted in key.meaning.lower()
    ]
    if as_json:
        print_json(
            [{"key": key.name, "default": key.shown, "meaning": key.meaning} for key in found]
        )
        return
    table = output.table("key", "default", "meaning")
    for key in found:
        table.add_row(*map(Text, (key.name, key.shown, key.meaning)))
    output.console().print(table)


def list_(as_json: opt.Json = False) -> None:
    """List the shipped recipes of `iterate`, and what of the paper each reproduces."""
    from sso_data.config.recipes import load_recipe, recipe_names

    trees = {name: load_recipe(name) for name in recipe_names()}
    if as_json:
        print_json(
            [
                {"recipe": name, "title": tree["title"], "reproduces": tree["reproduces"]}
                for name, tree in trees.items()
            ]
        )
        return
    console = output.console()
    for name, tree in trees.items():
        about = Text(f"{tree['title']} ({', '.join(tree['reproduces'])})")
        console.print(Text(name), Padding(about, (0, 0, 0, 4)), sep="\n")


def show(
    recipe: Annotated[
        str,
        typer.Argument(help="Name of a shipped recipe, or a file (.yaml).", autocompletion=recipes),
    ],
    tiny: Annotated[
        bool, typer.Option("--tiny", help="As it runs on the embedded tiny policy.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Show all keys of a recipe, with those of the recipes that it extends, as YAML."""
    from sso_data.config.recipes import load_recipe
    from sso_data.core.yaml_files import yaml_text

    tree = load_recipe(recipe, tiny=tiny)
    if as_json:
        print_json(tree)
    else:
        echo(yaml_text(tree, width=98).rstrip("\n"))
