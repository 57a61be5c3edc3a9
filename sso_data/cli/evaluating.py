"""`eval`: a model against the one it started from, on held-out prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sso_data.cli.options import (
    Column,
    EngineName,
    Json,
    JudgeEndpoint,
    JudgeName,
    Limit,
    PrinciplesDir,
    Seed,
    SkipBadRows,
    Split,
    TemplatesDir,
)
from sso_data.cli.outcome import SOME_FAILED, ends_well, hint_to_continue, print_json, say
from sso_data.core.errors import ConfigError

if TYPE_CHECKING:
    from sso_data.evaluation.result import Evaluation, Side

EVAL_EXAMPLE = (
    "Example: sso-data eval models/second --against Qwen/Qwen3-8B --prompts held_out.jsonl "
    "--judge reward:models/reward --out evals/second"
)


@ends_well
def evaluate(
    model: Annotated[str, typer.Argument(help="Model directory or Hub id to evaluate.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Directory of the evaluation; continued if there.")
    ],
    against: Annotated[
        str,
        typer.Option(
            "--against", help="Model directory or Hub id that it started from.", metavar="MODEL"
        ),
    ],
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", help="Held-out prompts: a file, a directory or a Hub id."),
    ] = None,
    judge: JudgeName = None,
    judge_endpoint: JudgeEndpoint = None,
    limit: Limit = None,
    engine: EngineName = None,
    principles: PrinciplesDir = None,
    templates: TemplatesDir = None,
    seed: Seed = None,
    split: Split = None,
    column: Column = None,
    skip_bad_rows: SkipBadRows = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the evaluation in --out and start over.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file; see docs/evaluation.md.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            help="One config key, e.g. generate.sampling.temperature=0.6; repeat for more.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Win rate against the starting model with a judge, steering, and files for benchmarks.

    Run the same command again to continue after an interruption, or with another --judge to have
    the same answers judged once more.
    """
    from sso_data.cli.progress import showing_progress
    from sso_data.config.evaluation import load_eval_config
    from sso_data.evaluation.run import evaluate as run_evaluation

    resolved = load_eval_config(
        config,
        settings,
        prompts=prompts,
        seed=seed,
        source__limit=limit,
        source__split=split,
        source__column=column,
        source__skip_bad_rows=skip_bad_rows or None,
        generate__engine__name=engine,
        generate__principles=principles,
        generate__templates=templates,
        **judge_overrides(judge, judge_endpoint),
    )
    hint = f"every answer and verdict is safe in {out}; run the same command again to continue"
    with hint_to_continue(hint), showing_progress() as progress:
        done = run_evaluation(model, against, resolved, out, progress, overwrite=overwrite)
    _show(done, out, as_json=as_json)


def judge_overrides(
    judge: str | None, endpoint: str | None, prefix: str = "judge"
) -> dict[str, Any]:
    """The configuration keys that `--judge` and `--judge-endpoint` set, with `__` for dots.

    Raises ConfigError for a judge that is none, or an endpoint without one.
    """
    from sso_data.config.judging import judge_tree

    if judge is None:
        if endpoint is not None:
            raise ConfigError("--judge-endpoint: name the model there with --judge llm:MODEL")
        return {}
    return {f"{prefix}__{key}": value for key, value in judge_tree(judge, endpoint).items()}


def _show(done: "Evaluation", out: Path, *, as_json: bool) -> None:
    """Print the numbers on stdout, and on stderr what failed, with exit code 3."""
    if as_json:
        print_json(done.to_json() | {"out": str(out), "commands": list(done.commands)})
    else:
        for line in _lines(done, out):
            typer.echo(line)
    for note in done.notes:
        say(note)
    if done.judge and not done.judged:
        say("warning: the judge has judged no pair; nothing can be said of win rates")
    if done.failed or done.signal_failed:
        raise typer.Exit(SOME_FAILED)


def _lines(done: "Evaluation", out: Path) -> list[str]:
    """The evaluation for a person."""
    from sso_data.cli.progress import duration

    wins, steering = done.wins, done.steering
    lines = [done.account]
    if wins is not None:
        lines.append(
            f"win rate of {done.model.name} against {done.against.name} by {done.judge}: "
            f"{wins.rate} ({wins.won} won, {wins.tied} tied, {wins.lost} lost); at equal lengths "
            f"{wins.length_controlled}"
        )
        if wins.agreement is not None:
            lines.append(f"both orders agree on {wins.agreement:.1%} of the pairs")
    lines += [_side_line(done.model), _side_line(done.against)]
    lines.append(
        f"steering over {steering.rows} rows: the good view raises y+ in {_share(steering.good)}, "
        f"the bad view y- in {_share(steering.bad)}, both in {_share(steering.both)}; gaps "
        f"{_number(steering.gap_good)} and {_number(steering.gap_bad)} nats/token"
    )
    if done.signal is not None:
        lines.append(f"signal accuracy (y+ better than y-): {done.signal}")
    if done.signal_failed:
        parts = ", ".join(f"{count} {reason}" for reason, count in done.signal_failed.items())
        lines.append(f"of y+ against y-, not judged: {parts}")
    lines += ["benchmarks:", *(f"  {command}" for command in done.commands)]
    return [*lines, f"{out / 'commands.sh'}", f"{out / 'eval.json'} ({duration(done.seconds)})"]


def _side_line(side: "Side") -> str:
    score = f", score {side.score:.4g}" if side.score is not None else ""
    return (
        f"{side.name}: {_number(side.mean_tokens, 1)} tokens, {_number(side.mean_chars, 0)} "
        f"characters an answer, {_share(side.truncated)} cut off{score}"
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
