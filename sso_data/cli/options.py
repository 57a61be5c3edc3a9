"""Options that several commands share, each declared once so that it means the same everywhere."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sso_data.cli.completion import (
    Completion,
    directories_or,
    settings_of,
    values,
    values_of,
)
from sso_data.core.errors import ConfigError
from sso_data.core.paths import CATALOGUES


def out_option(text: str) -> Any:
    """Return `--out` with its help text."""
    return typer.Option("--out", "-o", help=text)


def overwrite_option(text: str) -> Any:
    """Return `--overwrite` with its help text."""
    return typer.Option("--overwrite", help=text)


def config_option(page: str) -> Any:
    """Return `--config`; `page` documents the keys of the file."""
    return typer.Option("--config", "-c", help=f"YAML file; see {page}.")


def set_option(example: str, command: str) -> Any:
    """Return `--set` for the keys of a command's configuration; `example` is one setting."""
    return typer.Option(
        "--set",
        "-s",
        help=f"One config key, e.g. {example}; repeat for more.",
        metavar="KEY=VALUE",
        autocompletion=settings_of(command),
    )


def choice(name: str, text: str, *known: str, complete: Completion | None = None) -> Any:
    """Return an option that takes one of the `known` values; `text` names them and the default."""
    completion = complete or values(*known)
    return typer.Option(name, help=text, metavar="NAME", autocompletion=completion)


Prompts = Annotated[
    str,
    typer.Argument(
        help="Prompts: .jsonl, .json, .parquet, .csv, .txt, a directory, a Hub id, or - (stdin)."
    ),
]
RunPath = Annotated[Path, typer.Argument(help="Run directory, made by `sso-data generate`.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model directory or Hub id of the policy.", metavar="MODEL"),
]
ModelMoved = Annotated[
    str | None,
    typer.Option("--model", "-m", help="New path of the same model, if it was moved."),
]
ModelNow = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Where the run's model is now, for --tokens.", metavar="MODEL"
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", help="Only the first N prompts (default: all).")
]
EngineName = Annotated[
    str | None,
    choice(
        "--engine",
        "auto, vllm or transformers (default: auto).",
        *("auto", "vllm", "transformers"),
    ),
]
Engines = Annotated[
    str | None,
    typer.Option(
        "--engines",
        help="auto, or how many engines work, each on GPUs of its own (default: auto).",
        metavar="N",
        autocompletion=values("auto"),
    ),
]
Servers = Annotated[
    list[str] | None,
    typer.Option(
        "--server", help="A vLLM server in place of an engine here; repeat for more.", metavar="URL"
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="A Ray cluster that has the engines: auto, ray://host:10001 or host:6379.",
        metavar="ADDRESS",
    ),
]
PrinciplesDir = Annotated[
    Path | None,
    typer.Option(
        "--principles",
        help="long, short, checkable, or a directory of principle files (default: long).",
        metavar="NAME|DIR",
        autocompletion=directories_or(*CATALOGUES),
    ),
]
TemplatesDir = Annotated[
    Path | None,
    typer.Option(
        "--templates",
        help="Directory of templates that replace those of the same name (default: the shipped).",
    ),
]
OverwriteRun = Annotated[bool, overwrite_option("Delete the run in --out and start over.")]
ConfigFile = Annotated[Path | None, config_option("docs/configuration.md")]
PricePerHour = Annotated[
    float | None,
    typer.Option("--price-per-hour", min=0, help="Price of the machine, for the cost."),
]
Settings = Annotated[list[str] | None, set_option("sampling.temperature=0.6", "generate")]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed (default: 0).")]
Split = Annotated[str | None, typer.Option("--split", help="Split of a dataset (default: train).")]
Column = Annotated[
    str | None,
    typer.Option("--column", help="Column that holds the prompt (default: prompt)."),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Layout of the rows, e.g. messages, sharegpt, alpaca; column: the prompt's column "
        "alone (default: recognised; docs/sources.md).",
        metavar="NAME",
        autocompletion=values_of("source.format"),
    ),
]
Take = Annotated[
    str | None,
    typer.Option(
        "--take",
        help="Of a conversation: last-user, first-user or every-user turn (default: last-user "
        "where answers are given, else all of it).",
        metavar="TURN",
        autocompletion=values_of("source.take"),
    ),
]
SkipBadRows = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Malformed rows go to failed.jsonl.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for an error, too.")]
JudgeName = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="Judge: oracle (tiny world), rule[:CATALOGUE], reward:MODEL, llm:MODEL, "
        "python:MODULE:FUNCTION or none (default: none).",
        metavar="JUDGE",
        autocompletion=values("oracle", "rule", "rule:", "reward:", "llm:", "python:", "none"),
    ),
]
JudgeEndpoint = Annotated[
    str | None,
    typer.Option(
        "--judge-endpoint", help="OpenAI-compatible server of an llm judge.", metavar="URL"
    ),
]
Public = Annotated[
    bool,
    typer.Option("--public", help="Make the repository public; by default a new one is private."),
]
Private = Annotated[
    bool, typer.Option("--private", help="Make the repository private first, if it is public.")
]


def engine_keys(
    name: str | None, count: str | None, cluster: str | None, servers: list[str] | None
) -> dict[str, Any]:
    """Return the configuration keys of the options about engines, with `__` for dots."""
    return {
        "engine__name": name,
        "engine__count": count,
        "engine__cluster": cluster,
        "engine__servers": servers or None,
    }


def source_keys(
    split: str | None,
    column: str | None,
    limit: int | None = None,
    shard: str | None = None,
    *,
    layout: str | None = None,
    take: str | None = None,
    skip_bad_rows: bool = False,
) -> dict[str, Any]:
    """Return the configuration keys of the options about reading prompts, with `__` for dots."""
    return {
        "source__split": split,
        "source__column": column,
        "source__limit": limit,
        "source__shard": shard,
        "source__format": layout,
        "source__take": take,
        "source__skip_bad_rows": skip_bad_rows or None,
    }


def private_of(*, public: bool, private: bool) -> bool | None:
    """Return the visibility asked for: private, public, or None when neither option is given.

    Raises ConfigError for both options together.
    """
    if public and private:
        raise ConfigError("--public and --private: give one of them")
    return private if public or private else None
