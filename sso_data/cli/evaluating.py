"""`eval`: a model against its starting model, on held-out prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sso_data.cli import options as opt
from sso_data.cli.outcome import SOME_FAILED, echo, print_json, say
from sso_data.cli.output import number, share
from sso_data.cli.progress import showing_progress
from sso_data.core.progress import duration

if TYPE_CHECKING:
    from sso_data.evaluation.result import Evaluation, Side


def evaluate(
    model: Annotated[str, typer.Argument(help="Model directory or Hub id to evaluate.")],
    out: Annotated[
        Path, opt.out_option("Directory of the evaluation; an existing one is continued.")
    ],
    against: Annotated[
        str,
        typer.Option(
            "--against", help="Model directory or Hub id of the starting model.", metavar="MODEL"
        ),
    ],
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", help="Held-out prompts: a file, a directory or a Hub id."),
    ] = None,
    judge: opt.JudgeName = None,
    judge_endpoint: opt.JudgeEndpoint = None,
    limit: opt.Limit = None,
    engine: opt.EngineName = None,
    engines: opt.Engines = None,
    cluster: opt.Cluster = None,
    principles: opt.PrinciplesDir = None,
    templates: opt.TemplatesDir = None,
    seed: opt.Seed = None,
    split: opt.Split = None,
    column: opt.Column = None,
    skip_bad_rows: opt.SkipBadRows = False,
    overwrite: Annotated[
        bool, opt.overwrite_option("Delete the evaluation in --out and start over.")
    ] = False,
    config: Annotated[Path | None, opt.config_option("docs/evaluation.md")] = None,
    settings: Annotated[
        list[str] | None, opt.set_option("generate.sampling.temperature=0.6", "eval")
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Measure the win rate against the starting model and the steering; write benchmark files.

    Run the same command again to continue after an interruption, or with another --judge to have
    the same answers judged again.
    """
    from sso_data.config.evaluation import EvalConfig, judge_tree
    from sso_data.config.loading import load
    from sso_data.evaluation.run import evaluate as run_evaluation

    resolved = load(
        EvalConfig,
        config,
        settings,
        prompts=prompts,
        seed=seed,
        **opt.source_keys(split, column, limit, skip_bad_rows=skip_bad_rows),
        generate__engine__name=engine,
        generate__engine__count=engines,
        generate__engine__cluster=cluster,
        generate__principles=principles,
        generate__templates=templates,
        **{f"judge__{key}": value for key, value in judge_tree(judge, judge_endpoint).items()},
    )
    hint = f"every answer and verdict is safe in {out}; run the same command again to continue"
    with showing_progress(hint) as progress:
        done = run_evaluation(model, against, resolved, out, progress, overwrite=overwrite)
    _show(done, out, as_json=as_json)


def _show(done: "Evaluation", out: Path, *, as_json: bool) -> None:
    """Print the numbers on stdout, and on stderr what failed, with exit code 3."""
    if as_json:
        print_json(done.to_json() | {"out": str(out), "commands": list(done.commands)})
    else:
        for line in _lines(done, out):
            echo(line)
    for note in done.notes:
        say(note)
    for warning in done.warnings:
        say(f"warning: {warning}")
    if done.failed or done.signal_failed:
        raise typer.Exit(SOME_FAILED)


def _lines(done: "Evaluation", out: Path) -> list[str]:
    """Return the evaluation as text."""
    wins, steering = done.wins, done.steering
    lines = [done.account]
    if wins is not None:
        twice = f"{wins.contradicted} contradicted, " if wins.consistency else ""
        lines.append(
            f"win rate of {done.model.name} against {done.against.name} by {done.judge}: "
            f"{wins.rate} ({wins.won} won, {wins.tied} tied, {twice}{wins.lost} lost); at equal "
            f"lengths {wins.length_controlled}"
        )
        if wins.consistency is not None:
            lines.append(f"the judge: {wins.consistency}")
    lines += [_side_line(done.model), _side_line(done.against)]
    lines.append(
        f"steering over {steering.rows} rows: the good view raises y+ in {share(steering.good)}, "
        f"the bad view y- in {share(steering.bad)}, both in {share(steering.both)}; gaps "
        f"{number(steering.gap_good)} and {number(steering.gap_bad)} nats/token"
    )
    lines.append(str(steering.effect))
    if done.signal is not None:
        judge = f"; the judge: {done.signal_consistency}" if done.signal_consistency else ""
        lines.append(f"signal accuracy (y+ better than y-): {done.signal}{judge}")
    if done.signal_failed:
        parts = ", ".join(f"{count} {reason}" for reason, count in done.signal_failed.items())
        lines.append(f"y+ against y-, without verdict: {parts}")
    lines += ["benchmarks:", *(f"  {command}" for command in done.commands)]
    return [*lines, f"{out / 'commands.sh'}", f"{out / 'eval.json'} ({duration(done.seconds)})"]


def _side_line(side: "Side") -> str:
    score = f", score {side.score:.4g}" if side.score is not None else ""
    return (
        f"{side.name}: {number(side.mean_tokens, 1)} tokens, {number(side.mean_chars, 0)} "
        f"characters an answer, {share(side.truncated)} cut off{score}"
    )
