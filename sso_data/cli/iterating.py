"""`iterate`: rounds of generating, filtering and training, from prompts and a first policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from sso_data.cli import options as opt
from sso_data.cli import output
from sso_data.cli.completion import recipes
from sso_data.cli.outcome import SOME_FAILED, echo, print_json, say
from sso_data.cli.progress import showing_progress
from sso_data.core.errors import ConfigError
from sso_data.core.progress import duration

if TYPE_CHECKING:
    from sso_data.config.iteration import IterateConfig
    from sso_data.iteration.report import Iterated
    from sso_data.iteration.training import Training


def iterate(
    out: Annotated[Path, opt.out_option("Directory of the rounds; an existing one is continued.")],
    prompts: Annotated[
        str | None,
        typer.Argument(help="Prompts, as for `generate`; a recipe or --config may name them."),
    ] = None,
    model: opt.Model = None,
    engines: opt.Engines = None,
    cluster: opt.Cluster = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="How many rounds (default: 3).")
    ] = None,
    recipe: Annotated[
        str | None,
        opt.choice(
            "--recipe",
            "A shipped recipe (`sso-data recipes list`), or a recipe file (.yaml).",
            complete=recipes,
        ),
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Run the recipe on the embedded tiny policy, in minutes.")
    ] = False,
    judge: opt.JudgeName = None,
    judge_endpoint: opt.JudgeEndpoint = None,
    seed: opt.Seed = None,
    overwrite: Annotated[
        bool, opt.overwrite_option("Delete the rounds in --out and start over.")
    ] = False,
    config: Annotated[Path | None, opt.config_option("docs/iterate.md")] = None,
    settings: Annotated[list[str] | None, opt.set_option("train.loss.g=0.3", "iterate")] = None,
    as_json: opt.Json = False,
) -> None:
    """Generate from the policy, filter, measure, train, and repeat with the trained policy.

    Run the same command again to continue after an interruption: finished steps are not repeated.
    More --rounds may be asked for later.
    """
    from sso_data.config.evaluation import judge_tree
    from sso_data.config.iteration import IterateConfig
    from sso_data.config.loading import config_tree, validated
    from sso_data.config.recipes import load_recipe
    from sso_data.core.trees import deep_merge

    if tiny and recipe is None:
        raise ConfigError("--tiny needs --recipe")
    tree = load_recipe(recipe, tiny=tiny) if recipe is not None else {}
    if config is not None:
        tree = deep_merge(tree, config_tree(config))
    tree = config_tree(
        None,
        settings,
        base=tree,
        model=model,
        prompts=prompts,
        rounds=rounds,
        seed=seed,
        generate__engine__count=engines,
        generate__engine__cluster=cluster,
        held_out__judge=judge_tree(judge, judge_endpoint) or None,
    )
    resolved = validated(IterateConfig, tree, origin=recipe or str(config or "configuration"))
    done = _run(resolved, out, overwrite=overwrite)
    if as_json:
        print_json(done.to_json())
    else:
        _show(done)
    failed = sum(line.get("failed") or 0 for line in done.lines)
    if failed:
        say(f"{failed} prompts failed; see the failed.jsonl of each round's run in {out}")
        raise typer.Exit(SOME_FAILED)


def _run(config: "IterateConfig", out: Path, *, overwrite: bool) -> "Iterated":
    """Run the rounds, each training in a process of its own that shows its own progress."""
    from sso_data.engines.environment import prepare_environment
    from sso_data.iteration.run import iterate as run_iterate
    from sso_data.iteration.training import train_in_a_process

    prepare_environment(config.generate.engine.model_copy(update={"threads": None}))
    hint = f"every finished step is safe in {out}; run the same command again to continue"
    with showing_progress(hint) as progress:

        def train(training: "Training") -> None:
            with progress.paused():
                train_in_a_process(training)

        return run_iterate(config, out, progress, overwrite=overwrite, train=train)


def _show(done: "Iterated") -> None:
    """Print the table of rounds, the verdict and the report's files."""
    from sso_data.iteration.report import report_files
    from sso_data.iteration.table import shown

    table = output.table("", *(f"round {line['round']}" for line in done.lines))
    for name, cells in shown(done.lines):
        table.add_row(Text(name), *map(Text, cells))
    console = output.console()
    console.print(table)
    for text in done.verdict:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    echo(done.account)
    files = ", ".join(str(file) for file in report_files(done.out))
    echo(f"{files} ({duration(done.seconds)})")
