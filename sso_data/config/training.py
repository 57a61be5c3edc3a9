"""The configuration of a training: declared once, frozen, unknown keys refused.

The docstring under each field is its documentation (`docs/train_configuration.md` is made from
them).
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sso_data.config.loss import LossConfig, ReferenceConfig, SequenceConfig
from sso_data.config.paper import DefaultsFrom, training_of
from sso_data.config.reward import RewardConfig
from sso_data.config.run import ViewsConfig, config_tree, over_paper, validated_as
from sso_data.config.section import Count, NotNegative, Positive, Section

PartOf = Annotated[float, Field(ge=0, lt=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Reporter = Literal["tensorboard", "wandb", "trackio"]
PAGE = "docs/train_configuration.md"


class DataConfig(Section):
    """The rows to train on, and those that are held out."""

    split: str = "train"
    """Split of a Hub or `datasets` dataset, or of an exported directory."""
    limit: Count | None = None
    """Take only this many rows from the start."""
    order: Literal["file", "id"] = "file"
    """`id`: by the rows' ids before they are shuffled by the seed, so that the order in which a run
    finished its rows does not matter (policies only)."""
    eval_share: PartOf = 0.0
    """Share of the prompts that is held out and evaluated at every checkpoint; chosen by a hash of
    the prompt, so that the order of the rows does not matter."""


class OptimConfig(Section):
    """The optimizer, its schedule and the size of a step."""

    lr: Positive = 5e-7
    """Peak learning rate; LoRA wants about 1e-5."""
    batch_size: Count = 32
    """Rows of one optimizer step, over all processes. A row is up to three pairs."""
    micro_batch_rows: Count = 4
    """Most rows of a process in one forward pass; changes memory and speed, not the step."""
    epochs: Positive = 1.0
    """How often every row is seen."""
    max_steps: Count | None = None
    """Optimizer steps; takes the place of `epochs`."""
    beta1: Beta = 0.9
    """AdamW's decay of the mean gradient."""
    beta2: Beta = 0.95
    """AdamW's decay of the squared gradient."""
    weight_decay: NotNegative = 0.1
    """AdamW's weight decay."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes down after the warm-up."""
    warmup_steps: NotNegative = 0.1
    """Steps in which the learning rate rises; below 1, a share of all steps. The generator recipe
    uses 0.04."""
    max_grad_norm: NotNegative = 1.0
    """Longer gradients are cut to this length; 0 leaves them."""
    gradient_checkpointing: bool | None = None
    """Compute activations again in the backward pass; by default on GPUs."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of forward and backward; `auto`: bfloat16 on GPUs that have it, else
    float32."""
    param_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights being trained. `auto` is float32: at these learning rates a
    bfloat16 weight would not move. LoRA's frozen weights keep the model's own format on GPUs."""


class CheckpointConfig(Section):
    """Checkpoints, which a continued training starts from."""

    every: Positive = 0.25
    """Steps between checkpoints (and evaluations); below 1, a share of all steps."""
    keep: Count = 1
    """How many of the newest checkpoints stay while training goes on."""
    keep_best: bool = False
    """The final model is the checkpoint with the lowest evaluation loss; needs
    data.eval_share."""
    keep_finished: bool = False
    """Leave the checkpoints there when training has finished."""


class LoraConfig(Section):
    """Train a LoRA adapter in place of the model (needs `sso-data[lora]`)."""

    enabled: bool = False
    """Switched on by `--lora`. Adapters are trained without dropout: the three
    contrasts and the reference must agree."""
    r: Count = 16
    """Rank of the adapter's matrices."""
    alpha: Positive = 32.0
    """Scale: the adapter counts alpha / r times."""
    targets: tuple[str, ...] = ()
    """Names of the layers that get an adapter; by default every linear layer but the LM head."""
    merge: bool = False
    """Save the model with the adapter merged in, in place of the adapter."""


class EarlyStoppingConfig(Section):
    """When to warn, and when to stop early."""

    chosen_drop: Positive | None = 1.0
    """Stop when the mean log-prob of y+ under the plain view has fallen by more than this,
    nats/token, as a mean over the last logged steps. none: never."""
    warn_chosen_drop: Positive = 0.3
    """Warn at this fall, nats/token."""
    warn_length_ratio: Annotated[float, Field(gt=1)] = 1.25
    """Warn when the data's chosen responses are this many times as long as the rejected ones (or
    the other way round): the policy learns length from them."""


class LogConfig(Section):
    """Which metrics are reported while training goes on, and where."""

    every: Count = 1
    """Steps between lines of metrics.jsonl."""
    report_to: tuple[Reporter, ...] = ()
    """Where else metrics go, through transformers.Trainer; each needs its own package."""
    plot: bool = True
    """Draw loss.png at the end (needs `sso-data[train]`)."""


class TrainConfig(Section):
    """A whole training; every key may be given in the YAML file of `--config` or by `--set`."""

    model: str = ""
    """Model directory or Hub id of the policy that is trained: the one that made the data."""
    revision: str | None = None
    """Model revision on the Hub: a branch, tag or commit."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""
    recipe: Annotated[DefaultsFrom, Field(exclude=True)] = "default"
    """`paper`: keys that are not given take the paper's values in place of our defaults; train.json
    records the values, not this word (docs/recipes.md). Not to be confused with `loss.recipe`,
    which says how an ablation is read."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides the order of the rows, and the weights of a new adapter or reward head."""
    kind: Literal["policy", "reward"] = "policy"
    """What is trained: the policy with `loss`, or a reward model on top of it with `reward`
    (`--objective reward`)."""
    loss: LossConfig = LossConfig()
    sequence: SequenceConfig = SequenceConfig()
    reference: ReferenceConfig = ReferenceConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    lora: LoraConfig = LoraConfig()
    stop: EarlyStoppingConfig = EarlyStoppingConfig()
    log: LogConfig = LogConfig()
    views: ViewsConfig = ViewsConfig()
    reward: RewardConfig = RewardConfig()

    @model_validator(mode="before")
    @classmethod
    def _paper_below(cls, values: Any) -> Any:
        return over_paper(values, training_of(values)) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainConfig":
        if self.checkpoints.keep_best and not self.data.eval_share:
            raise ValueError("checkpoints.keep_best needs held-out rows: set data.eval_share")
        steps = {
            "checkpoints.every": self.checkpoints.every,
            "optim.warmup_steps": self.optim.warmup_steps,
        }
        for key, value in steps.items():
            if value >= 1 and value != int(value):
                raise ValueError(f"{key} is a number of steps or a share below 1: {value}")
        if self.stop.chosen_drop and self.stop.warn_chosen_drop > self.stop.chosen_drop:
            raise ValueError("stop.warn_chosen_drop lies above stop.chosen_drop")
        idle = ("loss", "reference") if self.kind == "reward" else ("reward",)
        for section in idle:
            if getattr(self, section) != type(self).model_fields[section].default:
                raise ValueError(f"{section} has no effect on a {self.kind}; leave it out")
        return self


def load_train_config(
    file: Path | None = None, settings: list[str] | None = None, **overrides: object
) -> TrainConfig:
    """The configuration: defaults, then `file`, then `overrides`, then `--set` settings.

    `overrides` names keys with `__` for the dot and skips None. Raises ConfigError naming the key.
    """
    tree: dict[str, Any] = config_tree(file, settings, base=None, **overrides)
    return validated_as(TrainConfig, tree, origin=str(file) if file else "configuration", page=PAGE)
