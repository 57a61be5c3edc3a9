"""`iterate`: rounds of generating, filtering and training, from prompts and a first policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sso_data.cli.options import Json, JudgeEndpoint, JudgeName, Model, Seed
from sso_data.cli.outcome import SOME_FAILED, ends_well, hint_to_continue, print_json, say
from sso_data.core.errors import ConfigError

if TYPE_CHECKING:
    from sso_data.config.iteration import IterateConfig
    from sso_data.iteration.report import Iterated
    from sso_data.iteration.training import Training

ITERATE_EXAMPLE = (
    "Example: sso-data iterate prompts.jsonl -m Qwen/Qwen3-8B --out runs/sso --rounds 3"
)


@ends_well
def iterate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the rounds; continued.")],
    prompts: Annotated[
        str | None,
        typer.Argument(help="Prompts, as of `generate`; a recipe or --config may name them."),
    ] = None,
    model: Model = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="How many rounds (default: 3).")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="A shipped recipe, or a .yaml file of one.", metavar="NAME"),
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="The recipe on the embedded tiny policy, in minutes.")
    ] = False,
    judge: JudgeName = None,
    judge_endpoint: JudgeEndpoint = None,
    seed: Seed = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the rounds in --out and start over.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file; see docs/iterate.md.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="One config key, e.g. train.loss.g=0.3; repeat for more."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Generate from the policy, filter, measure, train, and again from what came out.

    Run the same command again to continue after an interruption: a finished step is never done
    again. More --rounds may be asked for later.
    """
    wanted = {"model": model, "prompts": prompts, "rounds": rounds, "seed": seed}
    hint = f"every finished step is safe in {out}; run the same command again to continue"
    with hint_to_continue(hint):
        resolved = _resolved(recipe, config, settings, wanted, judge, judge_endpoint, tiny=tiny)
        done = _run(resolved, out, overwrite=overwrite)
    _show(done, as_json=as_json)
    failed = sum(line.get("failed") or 0 for line in done.lines)
    if failed:
        say(f"{failed} prompts failed; see the failed.jsonl of each round's run in {out}")
        raise typer.Exit(SOME_FAILED)


def _resolved(
    recipe: str | None,
    config: Path | None,
    settings: list[str] | None,
    wanted: dict[str, Any],
    judge: str | None,
    endpoint: str | None,
    *,
    tiny: bool,
) -> "IterateConfig":
    """The recipe, over it the file, over that the options, over those the settings."""
    from sso_data.config.iteration import iterate_config
    from sso_data.config.judging import judge_tree
    from sso_data.config.recipes import load_recipe
    from sso_data.config.run import config_tree
    from sso_data.core.yaml_files import deep_merge

    if tiny and recipe is None:
        raise ConfigError("--tiny belongs to --recipe, whose settings for a small machine it takes")
    if endpoint is not None and judge is None:
        raise ConfigError("--judge-endpoint is the server of --judge llm:MODEL; name that, too")
    tree = load_recipe(recipe, tiny=tiny) if recipe is not None else {}
    if config is not None:
        tree = deep_merge(tree, config_tree(config, None))
    if judge is not None:
        tree = deep_merge(tree, {"held_out": {}})
        tree["held_out"]["judge"] = judge_tree(judge, endpoint)
    tree = config_tree(None, settings, base=tree, **wanted)
    return iterate_config(tree, origin=recipe or str(config or "configuration"))


def _run(config: "IterateConfig", out: Path, *, overwrite: bool) -> "Iterated":
    from sso_data.cli.progress import showing_progress
    from sso_data.engines.environment import prepare_environment
    from sso_data.iteration.run import iterate as run_iterate
    from sso_data.iteration.training import train_in_a_process

    prepare_environment(config.generate.engine.model_copy(update={"threads": None}))
    with showing_progress() as progress:

        def train(training: "Training") -> None:
            with progress.paused():  # the training shows its own
                train_in_a_process(training)

        return run_iterate(config, out, progress, overwrite=overwrite, train=train)


def _show(done: "Iterated", *, as_json: bool) -> None:
    if as_json:
        print_json(done.to_json())
        return
    from rich.table import Table
    from rich.text import Text

    from sso_data.cli import tables
    from sso_data.cli.progress import duration
    from sso_data.iteration.report import report_files
    from sso_data.iteration.table import shown

    table = Table(title="Rounds", title_justify="left", title_style="bold")
    table.add_column("")
    for line in done.lines:
        table.add_column(f"round {line['round']}", justify="right")
    for name, cells in shown(done.lines):
        table.add_row(Text(name), *map(Text, cells))
    console = tables.console()
    console.print(table)
    for text in done.verdict:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    typer.echo(done.account)
    files = ", ".join(str(file) for file in report_files(done.out))
    typer.echo(f"{files} ({duration(done.seconds)})")
