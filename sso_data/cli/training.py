"""`train`: preference data and a model in, a trained model out."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sso_data.cli.options import Json, Model, Seed, Split
from sso_data.cli.outcome import ends_well, hint_to_continue, print_json, say
from sso_data.cli.push import Private, Public, private_of, show_published
from sso_data.core.errors import ConfigError, SsoDataError, TrainError

if TYPE_CHECKING:
    from sso_data.publishing.upload import Published
    from sso_data.training.run import TrainSummary

TRAIN_EXAMPLE = (
    "Example: sso-data train runs/first -m Qwen/Qwen3-8B --out models/second --loss-type dpo"
)


Data = Annotated[
    str,
    typer.Argument(
        help="Run directory, exported .jsonl or .parquet, directory or Hub id with chosen and "
        "rejected."
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Directory of the trained model; continued if there.")
]
Objective = Annotated[
    str | None,
    typer.Option(
        "--objective",
        help="sso, sso-generator, pairs (alias pbaa) or reward (default: sso).",
        metavar="NAME",
    ),
]
LossType = Annotated[
    str | None,
    typer.Option(
        "--loss-type",
        help="ipo, dpo (alias sigmoid), hinge, robust, simpo or orpo (default: ipo).",
        metavar="NAME",
    ),
]
Base = Annotated[str | None, typer.Option("--base", hidden=True)]
NoW = Annotated[bool, typer.Option("--no-w", help="Ablation: without the weight W.")]
NoG = Annotated[bool, typer.Option("--no-g", help="Ablation: without the steered terms.")]
Lora = Annotated[bool, typer.Option("--lora", help="Train a LoRA adapter.")]
References = Annotated[
    str | None,
    typer.Option("--ref", help="auto, strict or rescore (default: auto).", metavar="NAME"),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Delete the training in --out and start over; with --push, replace what is there.",
    ),
]
Push = Annotated[
    str | None,
    typer.Option(
        "--push", help="Publish the model in this repository, too.", metavar="NAMESPACE/NAME"
    ),
]
TrainFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file; see docs/train_configuration.md."),
]
TrainSettings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="One config key, e.g. optim.lr=5e-7; repeat for more."),
]


_OBJECTIVES = ("sso", "sso-generator", "pairs", "pbaa", "reward")
_SHOWN = (
    *("loss", "accuracy", "margin", "accuracy_base", "margin_base"),
    *("logp_chosen", "logp_rejected"),
)


@ends_well
def train(
    data: Data,
    out: Out,
    model: Model = None,
    objective: Objective = None,
    loss_type: LossType = None,
    base: Base = None,
    no_w: NoW = False,
    no_g: NoG = False,
    lora: Lora = False,
    ref: References = None,
    split: Split = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
    push: Push = None,
    public: Public = False,
    private: Private = False,
    config: TrainFile = None,
    settings: TrainSettings = None,
    as_json: Json = False,
) -> None:
    """Train a policy on preference pairs with the SSO loss; no reference model is needed.

    Run the same command again to continue after an interruption. For several GPUs: accelerate
    launch --config_file examples/accelerate/ddp.yaml -m sso_data train ...
    """
    rank = int(os.environ.get("RANK", "0"))
    kind = None if objective is None else "reward" if objective == "reward" else "policy"
    wanted = {
        "model": model,
        "seed": seed,
        "kind": kind,
        "loss__objective": None if objective == "reward" else objective,
        "loss__type": loss_type,
        "loss__use_w": False if no_w else None,
        "loss__use_g": False if no_g else None,
        "lora__enabled": lora or None,
        "reference__mode": ref,
        "data__split": split,
    }
    hint = f"what {out / 'checkpoints'} holds is safe; run the same command again to continue"
    try:
        if base is not None:
            raise ConfigError(f"--base was renamed: write --loss-type {base}")
        if objective not in (None, *_OBJECTIVES):
            raise ConfigError(
                f"--objective {objective}: none of sso, sso-generator, pairs (pbaa), reward"
            )
        with hint_to_continue(hint) if rank == 0 else nullcontext():
            seen = private_of(public=public, private=private)
            if rank == 0:
                _check_target(push, seen)
            summary = _run(data, out, config, settings, wanted, overwrite=overwrite)
            published = None
            if rank == 0 and push is not None:
                published = _pushed(out, push, seen, overwrite=overwrite)
    except SsoDataError as error:
        if rank == 0:
            raise
        _say_alone(error, rank)
        raise typer.Exit(1) from error
    if rank == 0:
        _show(summary, published, as_json=as_json)


def _run(
    data: str,
    out: Path,
    config: Path | None,
    settings: list[str] | None,
    wanted: dict[str, Any],
    *,
    overwrite: bool,
) -> "TrainSummary":
    from sso_data.cli.progress import showing_progress
    from sso_data.config.run import EngineConfig
    from sso_data.engines.environment import prepare_environment

    prepare_environment(EngineConfig())  # before torch and transformers are imported
    from sso_data.config.training import load_train_config
    from sso_data.training.processes import leaving_the_group
    from sso_data.training.run import train as run_training

    resolved = load_train_config(config, settings, **wanted)
    with leaving_the_group(), showing_progress() as progress:
        return run_training(data, out, resolved, progress, overwrite=overwrite)


def _check_target(repo: str | None, private: bool | None) -> None:
    """Find what is wrong with the target of --push before hours of training."""
    if repo is not None:
        from sso_data.cli.progress import showing_progress
        from sso_data.publishing.model import check_model_target

        with showing_progress() as progress:
            check_model_target(repo, private=private, progress=progress)
    elif private is not None:
        raise ConfigError("--public and --private are about --push, which names the repository")


def _pushed(out: Path, repo: str, private: bool | None, *, overwrite: bool) -> "Published":
    from sso_data.cli.progress import showing_progress
    from sso_data.publishing.model import push_model

    with showing_progress() as progress:
        return push_model(out, repo, private=private, overwrite=overwrite, progress=progress)


def _say_alone(error: SsoDataError, rank: int) -> None:
    """Print a failure that only this process has seen; others are reported by the first process."""
    if isinstance(error, TrainError):
        say(f"error: process {rank}: {error}")


def _show(summary: "TrainSummary", published: "Published | None", *, as_json: bool) -> None:
    if as_json:
        pushed = {"push": published.to_json()} if published else {}
        print_json(summary.to_json() | pushed)
        return
    from sso_data.cli.progress import duration

    manifest = summary.manifest
    first, last = manifest["first"], manifest["last"]
    typer.echo(
        f"steps {manifest['steps']} of {manifest['max_steps']} on {manifest['data']['training']} "
        f"rows; {manifest['references']['text']}"
    )
    for name in _SHOWN:
        if name in first and name in last:
            typer.echo(f"{name}: {first[name]:.4g} at the first step, {last[name]:.4g} at the last")
    typer.echo(f"{summary.out} ({duration(summary.seconds)})")
    if published:
        show_published(published, as_json=False)
