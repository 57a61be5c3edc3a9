"""`train`: preference data and a model in, a trained model out."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sso_data.cli import options as opt
from sso_data.cli import output
from sso_data.cli.outcome import echo, one_reader, print_json, say
from sso_data.cli.progress import showing_progress
from sso_data.cli.publishing import show_published
from sso_data.core.errors import ConfigError, SsoDataError, TrainError
from sso_data.core.paths import shell_command
from sso_data.core.progress import duration

if TYPE_CHECKING:
    from sso_data.publishing.upload import Published
    from sso_data.training.run import TrainSummary

Data = Annotated[
    str,
    typer.Argument(
        help="Run directory, exported .jsonl or .parquet, directory or Hub id with chosen and "
        "rejected."
    ),
]
Objective = Annotated[
    str | None,
    opt.choice(
        "--objective",
        "sso, sso-generator, pairs (alias pbaa) or reward (default: sso).",
        *("sso", "sso-generator", "pairs", "reward"),
    ),
]
LossType = Annotated[
    str | None,
    opt.choice(
        "--loss-type",
        "ipo, dpo (alias sigmoid), hinge, robust, simpo or orpo (default: ipo).",
        *("ipo", "dpo", "hinge", "robust", "simpo", "orpo"),
    ),
]
Base = Annotated[str | None, typer.Option("--base", hidden=True)]
NoW = Annotated[bool, typer.Option("--no-w", help="Ablation: without the weight W.")]
NoG = Annotated[bool, typer.Option("--no-g", help="Ablation: without the steered terms.")]
References = Annotated[
    str | None,
    opt.choice("--ref", "auto, strict or rescore (default: auto).", *("auto", "strict", "rescore")),
]
Overwrite = Annotated[
    bool,
    opt.overwrite_option(
        "Delete the training in --out and start over; with --push, replace what the repository "
        "holds."
    ),
]
Push = Annotated[
    str | None,
    typer.Option(
        "--push", help="Also publish the model in this repository.", metavar="NAMESPACE/NAME"
    ),
]

_OBJECTIVES = ("sso", "sso-generator", "pairs", "pbaa", "reward")
_SHOWN = (
    *("loss", "accuracy", "margin", "accuracy_base", "margin_base"),
    *("logp_chosen", "logp_rejected"),
)


def train(
    data: Data,
    out: Annotated[
        Path, opt.out_option("Directory of the trained model; an existing one is continued.")
    ],
    model: opt.Model = None,
    objective: Objective = None,
    loss_type: LossType = None,
    base: Base = None,
    no_w: NoW = False,
    no_g: NoG = False,
    lora: Annotated[bool, typer.Option("--lora", help="Train a LoRA adapter.")] = False,
    ref: References = None,
    split: opt.Split = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave malformed rows out and count them.")
    ] = False,
    seed: opt.Seed = None,
    overwrite: Overwrite = False,
    push: Push = None,
    public: opt.Public = False,
    private: opt.Private = False,
    config: Annotated[Path | None, opt.config_option("docs/train_configuration.md")] = None,
    settings: Annotated[list[str] | None, opt.set_option("optim.lr=5e-7", "train")] = None,
    as_json: opt.Json = False,
) -> None:
    """Train a policy on preference pairs with the SSO loss; no reference model is needed.

    Run the same command again to continue after an interruption. For several GPUs: accelerate
    launch --config_file examples/accelerate/ddp.yaml -m sso_data train ...
    """
    rank = int(os.environ.get("RANK", "0"))
    is_reward = objective == "reward"
    wanted = {
        "model": model,
        "seed": seed,
        "kind": "reward" if is_reward else "policy" if objective else None,
        "loss__objective": None if is_reward else objective,
        "loss__type": loss_type,
        "loss__use_w": False if no_w else None,
        "loss__use_g": False if no_g else None,
        "lora__enabled": lora or None,
        "reference__mode": ref,
        "data__split": split,
        "data__skip_bad_rows": skip_bad_rows or None,
    }
    try:
        if base is not None:
            raise ConfigError(f"--base was renamed: write --loss-type {base}")
        if objective not in (None, *_OBJECTIVES):
            raise ConfigError(
                f"--objective {objective}: must be one of sso, sso-generator, pairs (pbaa), reward"
            )
        seen = opt.private_of(public=public, private=private)
        if seen is not None and push is None:
            raise ConfigError("--public and --private need --push, which names the repository")
        target = push if rank == 0 else None
        summary, published = _run(
            data, out, config, settings, wanted, target, seen, overwrite=overwrite
        )
    except SsoDataError as error:
        if rank == 0:
            raise
        if isinstance(error, TrainError):  # the first process reports all others
            say(f"error: process {rank}: {error}")
        raise typer.Exit(1) from error
    if rank == 0 and as_json:
        print_json(summary.to_json() | ({"push": published.to_json()} if published else {}))
    elif rank == 0:
        _show(summary, published)


def _run(
    data: str,
    out: Path,
    config: Path | None,
    settings: list[str] | None,
    wanted: dict[str, Any],
    push: str | None,
    private: bool | None,
    *,
    overwrite: bool,
) -> "tuple[TrainSummary, Published | None]":
    """Check the target of --push before hours of training, train, and publish."""
    from sso_data.config.run import EngineConfig
    from sso_data.engines.environment import prepare_environment

    prepare_environment(EngineConfig())  # before torch and transformers are imported
    hint = (
        f"run the same command again to continue from the newest of {out / 'checkpoints'}, or from "
        "the start where there is none"
    )
    with showing_progress(hint if not int(os.environ.get("RANK", "0")) else None) as progress:
        from sso_data.config.loading import load  # seconds, in which a user may interrupt
        from sso_data.config.training import TrainConfig
        from sso_data.publishing.model import check_model_target, push_model
        from sso_data.training.processes import leaving_the_group
        from sso_data.training.run import train as run_training

        if push is not None:
            check_model_target(push, private=private, progress=progress)
        resolved = load(TrainConfig, config, settings, **wanted)
        with leaving_the_group():
            summary = run_training(data, out, resolved, progress, overwrite=overwrite)
        if push is None:
            return summary, None
        published = push_model(out, push, private=private, overwrite=overwrite, progress=progress)
        return summary, published


def _show(summary: "TrainSummary", published: "Published | None") -> None:
    """Print the steps, the metrics of the first and last step, and where the model is.

    What the same reader saw on stderr while it trained is not said again.
    """
    manifest = summary.manifest
    first, last = manifest["first"], manifest["last"]
    is_known = summary.new_steps > 0 and one_reader()
    of = f"steps {manifest['steps']} of {manifest['max_steps']}"
    rows = f"{manifest['data']['training']} rows"
    echo(f"{of} on {rows}" + ("" if is_known else f"; {manifest['references']['text']}"))
    for name in _SHOWN:
        if name in first and name in last:
            echo(f"{name}: {first[name]:.4g} at the first step, {last[name]:.4g} at the last")
    if (comparison := manifest.get("comparison")) and not is_known:
        echo(comparison["text"])
    echo(f"{summary.out} ({duration(summary.seconds)})")
    out = str(summary.out)
    if manifest["config"]["kind"] == "reward":
        use = ["--against", "MODEL", "--prompts", "HELD_OUT", "--judge", f"reward:{out}"]
        output.next_step(shell_command("sso-data", "eval", "MODEL", *use, "--out", f"{out}-eval"))
    else:
        use = ["--against", manifest["config"]["model"], "--prompts", "HELD_OUT"]
        output.next_step(shell_command("sso-data", "eval", out, *use, "--out", f"{out}-eval"))
    if published:
        show_published(published)
