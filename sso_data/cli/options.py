"""Options that several commands share, declared once so that they mean the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Prompts = Annotated[
    str,
    typer.Argument(
        help="Prompts: .jsonl, .json, .parquet, .csv, .txt, a datasets directory or a Hub id."
    ),
]
RunPath = Annotated[Path, typer.Argument(help="Run directory, made by `sso-data generate`.")]
RunOrHubId = Annotated[
    Path, typer.Argument(help="Run directory, or the Hub id of a pushed run (with --out).")
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Model directory or Hub id of the policy.")
]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first N prompts.")]
EngineName = Annotated[
    str | None, typer.Option("--engine", help="auto, vllm or transformers.", metavar="NAME")
]
PrinciplesDir = Annotated[
    Path | None,
    typer.Option("--principles", help="Directory of principle files; by default the shipped ones."),
]
TemplatesDir = Annotated[
    Path | None,
    typer.Option(
        "--templates", help="Directory of templates in the place of shipped ones of their names."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; see docs/configuration.md.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", help="One config key, e.g. sampling.temperature=0.6; repeat for more."
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the run.")]
Split = Annotated[str | None, typer.Option("--split", help="Split of a dataset.")]
Column = Annotated[str | None, typer.Option("--column", help="Column that holds the prompt.")]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON summary on stdout.")]
PrincipleModel = Annotated[
    str | None,
    typer.Option("--principle-model", help="A model that writes principles for each prompt."),
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", help="Only share I of N, for several machines.", metavar="I/N"),
]
SkipBadRows = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Malformed rows go to failed.jsonl.")
]
JudgeName = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="Who judges: oracle (tiny world), reward:MODEL, llm:MODEL, python:MODULE:FUNCTION or "
        "none.",
        metavar="JUDGE",
    ),
]
JudgeEndpoint = Annotated[
    str | None,
    typer.Option(
        "--judge-endpoint", help="OpenAI-compatible server of an llm judge.", metavar="URL"
    ),
]
