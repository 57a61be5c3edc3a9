"""Configuration of a training; unknown keys are refused.

The docstring under each field is its documentation (`docs/train_configuration.md` is made from
them).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from sso_data.config.paper import DefaultsFrom, over_paper, training_of
from sso_data.config.run import ViewsConfig
from sso_data.config.section import Count, NotNegative, Positive, Section, Share

PartOf = Annotated[float, Field(ge=0, lt=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Reporter = Literal["tensorboard", "wandb", "trackio"]
_ALIASES = {"pbaa": "pairs", "sigmoid": "dpo"}


def _without_alias(value: object) -> object:
    return _ALIASES.get(value, value) if isinstance(value, str) else value


PairObjective = Annotated[Literal["sso", "sso-generator", "pairs"], BeforeValidator(_without_alias)]
LossType = Annotated[
    Literal["ipo", "dpo", "hinge", "robust", "simpo", "orpo"], BeforeValidator(_without_alias)
]

_SSO_ONLY = ("alpha", "g", "use_w", "use_g", "detach_weight", "weight_scope", "recipe")


class LossConfig(Section):
    """Loss of the policy (arXiv 2410.17131)."""

    objective: PairObjective = "sso"
    """`sso`: the base term, and the two steered terms weighted by W; `sso-generator`: the steered
    terms alone, for a model that makes data; `pairs` (also called `pbaa`): the base term alone, on
    any preference pairs."""
    type: LossType = "ipo"
    """Loss of each preference term (the base loss): `ipo`, `simpo` and `orpo` compare means per
    token; `dpo` (also called `sigmoid`), `hinge` and `robust` totals. sso-generator starts from
    `dpo`."""
    beta: Positive = 0.2
    """Strength of the base loss; SimPO's paper uses 2 to 2.5. sso-generator starts from 0.1."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs taken to be the wrong way round (`dpo`: conservative DPO, `robust`)."""
    simpo_gamma: NotNegative = 0.5
    """Margin that `simpo` asks for."""
    alpha: Share = 0.66
    """Share of the chosen response in W."""
    g: NotNegative = 0.1
    """Weight of the two steered terms."""
    use_w: bool = True
    """Weight by W; off is an ablation."""
    use_g: bool = True
    """Use the steered terms; off is an ablation, which leaves W times the base term."""
    detach_weight: bool = False
    """Keep W out of the gradient; with it W*G raises the plain-view likelihood of both responses
    no more."""
    weight_scope: Literal["good_bad", "all"] = "good_bad"
    """Terms that W multiplies: the steered terms, or the base term as well."""
    recipe: Literal["method", "as-published"] = "method"
    """`as-published`: the published code's reading of an ablation; without W the steered terms are
    dropped, too."""
    nll: NotNegative = 0.0
    """Weight of the negative mean log-prob of y+ (and, times g, of the steered preferred
    responses)."""
    generator_nll: NotNegative = 0.1
    """Weight of the negative mean log-prob of sso-generator's two preferred responses."""

    @model_validator(mode="before")
    @classmethod
    def _generator_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("objective") == "sso-generator":
            return {"type": "dpo", "beta": 0.1} | values
        return values

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> "LossConfig":
        if self.objective != "sso" and (idle := self._set_of(*_SSO_ONLY)):
            raise ValueError(f"{idle[0]} has an effect only with objective sso; leave it out")
        if self.label_smoothing and self.type not in {"dpo", "robust"}:
            raise ValueError(
                "label_smoothing has an effect only with type dpo or robust; leave it out"
            )
        if self.type != "simpo" and self._set_of("simpo_gamma"):
            raise ValueError("simpo_gamma has an effect only with type simpo; leave it out")
        if self.objective != "sso-generator" and self._set_of("generator_nll"):
            raise ValueError(
                "generator_nll has an effect only with objective sso-generator; leave it out"
            )
        if self.nll and self.objective == "sso-generator":
            raise ValueError(
                "nll has an effect only with objective sso or pairs; use generator_nll"
            )
        if not self.use_w and (self.detach_weight or self.weight_scope == "all"):
            raise ValueError(
                "detach_weight and weight_scope have an effect only with use_w; leave them out"
            )
        return self

    def _set_of(self, *names: str) -> list[str]:
        """Return the names of the fields that differ from their defaults."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]

    @property
    def needs_reference(self) -> bool:
        """Return True if the base loss compares with a reference policy."""
        return self.type not in {"simpo", "orpo"}

    @property
    def compares(self) -> Literal["means", "totals"]:
        """Return the log-probs that the base loss compares: means (nats/token) or totals (nats)."""
        return "totals" if self.type in {"dpo", "hinge", "robust"} else "means"


class SequenceConfig(Section):
    """Length limits of the training sequences."""

    max_length: Annotated[int, Field(ge=8)] = 2048
    """Most tokens of prompt and response together."""
    too_long: Literal["drop", "truncate"] = "drop"
    """Treatment of a row with a longer sequence. `truncate` cuts the ends of its responses,
    end-of-sequence tokens included (counted and reported), and scores its references again."""


class ReferenceConfig(Section):
    """Source of the reference policy's log-probs."""

    mode: Literal["auto", "strict", "rescore"] = "auto"
    """`auto`: the rows' own where a check agrees, else scored again; `strict`: the rows' own or
    none; `rescore`: scored again."""
    check_rows: Annotated[int, Field(ge=64)] = 64
    """Rows whose recorded log-probs are compared with this machine's."""
    tolerance: Positive = 0.05
    """Largest difference that is accepted, in what the loss sees: |delta D| in nats/token where it
    compares means, beta*|delta D| where it compares totals; the 95th percentile of each term."""


class MixPart(Section):
    """Another preference set that is mixed in."""

    data: Annotated[str, Field(min_length=1)]
    """A file, a directory or a Hub dataset with `chosen` and `rejected` (and `prompt`)."""
    split: str = "train"
    """Split of a Hub or `datasets` dataset."""
    weight: Positive = 1.0
    """Repetitions of each of its rows in an epoch: 1 takes all of them once, 0.5 a random half, 2.5
    each of them twice and a random half once more."""


class RewardConfig(Section):
    """Training of a reward model on pairs."""

    center_rewards_coefficient: NotNegative = 0.0
    """Weight of (r+ + r-)^2 (arXiv 2312.09244), which keeps the mean reward near 0; 0.01 is
    usual."""
    tokens: Literal["sampled", "rendered"] = "sampled"
    """Of our own rows. `sampled`: the token ids that were sampled; the reward model has the
    tokenizer and chat template of the model that made the data. `rendered`: their text through this
    model's chat template, for a reward model of another family."""
    own_weight: Positive = 1.0
    """Repetitions of each of our own rows in an epoch, as in `mix`."""
    mix: tuple[MixPart, ...] = ()
    """Other preference sets to train on together with ours."""


class DataConfig(Section):
    """Training rows and held-out rows."""

    split: str = "train"
    """Split of a Hub or `datasets` dataset, or of an exported directory."""
    limit: Count | None = None
    """Take only this many rows from the start."""
    skip_bad_rows: bool = False
    """Leave malformed preference rows of other programs out, and count them, instead of
    stopping."""
    order: Literal["file", "id"] = "file"
    """`id`: by the rows' ids before they are shuffled by the seed, so that the order in which a run
    finished its rows does not matter (policies only)."""
    eval_share: PartOf = 0.0
    """Share of the prompts that is held out and evaluated at every checkpoint; chosen by a hash of
    the prompt, so that the order of the rows does not matter."""


class OptimConfig(Section):
    """Optimizer, its schedule and the size of a step."""

    lr: Positive = 5e-7
    """Peak learning rate; LoRA wants about 1e-5."""
    batch_size: Count = 32
    """Rows of one optimizer step, over all processes. A row is up to three pairs."""
    micro_batch_rows: Count = 4
    """Most rows of a process in one forward pass; changes memory and speed, not the step."""
    epochs: Positive = 1.0
    """Passes over the rows."""
    max_steps: Count | None = None
    """Optimizer steps; overrides `epochs`."""
    beta1: Beta = 0.9
    """AdamW's decay of the mean gradient."""
    beta2: Beta = 0.95
    """AdamW's decay of the squared gradient."""
    weight_decay: NotNegative = 0.1
    """AdamW's weight decay."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay of the learning rate after the warm-up."""
    warmup_steps: NotNegative = 0.1
    """Steps in which the learning rate rises; below 1, a share of all steps. The generator recipe
    uses 0.04."""
    warmup_from_zero: bool = False
    """Begin the warm-up at a rate of 0, as transformers' schedules do: the first step then changes
    nothing. Off: step k of n warm-up steps has k/(n + 1) of the rate."""
    max_grad_norm: NotNegative = 1.0
    """Gradients are clipped to this norm; 0: never."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass; by default on GPUs."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of forward and backward; `auto`: bfloat16 on GPUs that have it, else
    float32."""
    param_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights being trained. `auto` is float32: at these learning rates a
    bfloat16 weight would not move. LoRA's frozen weights keep the model's own format on GPUs."""
    save_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the saved weights; `auto`: that of `model`. Saved in bfloat16, a weight that
    moved by less than half a step of that format (about 0.2 to 0.4 % of it) is back where it
    was."""


class CheckpointConfig(Section):
    """Checkpoints, which a continued training starts from."""

    every: Positive = 0.25
    """Steps between checkpoints (and evaluations); below 1, a share of all steps."""
    keep: Count = 1
    """Number of the newest checkpoints that are kept during training."""
    keep_best: bool = False
    """Save the checkpoint with the lowest evaluation loss as the model; needs data.eval_share."""
    keep_finished: bool = False
    """Keep the checkpoints when training has finished."""


class LoraConfig(Section):
    """Train a LoRA adapter instead of the model (needs `sso-data[lora]`)."""

    enabled: bool = False
    """Switched on by `--lora`. Adapters are trained without dropout: the three
    preference terms and the reference must agree."""
    r: Count = 16
    """Rank of the adapter's matrices."""
    alpha: Positive = 32.0
    """Scale: the adapter counts alpha / r times."""
    targets: tuple[str, ...] = ()
    """Names of the layers that get an adapter; by default every linear layer but the LM head."""
    merge: bool = False
    """Save the model with the adapter merged in, instead of the adapter."""


class EarlyStoppingConfig(Section):
    """Limits for warnings and for stopping early."""

    chosen_drop: Positive | None = 1.0
    """Stop when the mean log-prob of y+ under the plain view has fallen by more than this,
    nats/token, as a mean over the last logged steps. none: never."""
    warn_chosen_drop: Positive = 0.3
    """Warn at this fall, nats/token."""
    warn_length_ratio: Annotated[float, Field(gt=1)] = 1.25
    """Warn when the data's chosen responses are this many times as long as the rejected ones (or
    the other way round): the policy learns length from them."""


class LogConfig(Section):
    """Metrics reported during training."""

    every: Count = 1
    """Steps between lines of metrics.jsonl."""
    report_to: tuple[Reporter, ...] = ()
    """Further destinations of metrics, through transformers.Trainer; each needs its own package."""
    plot: bool = True
    """Draw loss.png at the end (needs `sso-data[train]`)."""


class TrainConfig(Section):
    """A whole training; every key may be given in the YAML file of `--config` or by `--set`."""

    page: ClassVar[str] = "docs/train_configuration.md"

    model: str = ""
    """Model directory or Hub id of the policy that is trained: the one that made the data."""
    revision: str | None = None
    """Model revision on the Hub: a branch, tag or commit."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""
    recipe: Annotated[DefaultsFrom, Field(exclude=True)] = "default"
    """`paper`: keys that are not given take the paper's values in place of our defaults; train.json
    records the values, not this key (docs/recipes.md). Not to be confused with `loss.recipe`,
    which is about ablations."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the order of the rows and of the weights of a new adapter or reward head."""
    kind: Literal["policy", "reward"] = "policy"
    """Model to train: the policy with `loss`, or a reward model on top of it with `reward`
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
                raise ValueError(
                    f"{key} must be a whole number of steps or a share below 1 (got {value})"
                )
        if self.stop.chosen_drop and self.stop.warn_chosen_drop > self.stop.chosen_drop:
            raise ValueError("stop.warn_chosen_drop must not be above stop.chosen_drop")
        idle = ("loss", "reference") if self.kind == "reward" else ("reward",)
        for section in idle:
            if getattr(self, section) != type(self).model_fields[section].default:
                raise ValueError(f"{section} has no effect on a {self.kind}; leave it out")
        return self
