"""Configuration of an iteration: generating, training and measuring in every round.

The docstring under each field is its documentation (`docs/iterate.md` is made from them).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from sso_data.config.evaluation import JudgeConfig
from sso_data.config.run import RunConfig
from sso_data.config.section import Count, NotNegative, Positive, Section, Share
from sso_data.config.training import TrainConfig


class SliceConfig(Section):
    """Prompts of a round."""

    order: Literal["fresh", "same"] = "fresh"
    """`fresh`: every round the next prompts of the file; `same`: every round the first ones."""
    prompts: Count | None = None
    """Prompts of a round (pairs, where they are labelled); by default the file's number divided by
    the rounds (`fresh`), or all."""


class LabelledConfig(Section):
    """Labelled pairs to train on instead of generated ones: the baseline of the paper."""

    data: Annotated[str, Field(min_length=1)]
    """A file, a directory or a Hub dataset with `prompt`, `chosen` and `rejected`."""
    split: str = "train"
    """Split of a Hub or `datasets` dataset."""


class GeneratorConfig(Section):
    """Second version of the paper: a generator is trained first, and the policy on its pairs.

    A round generates with the policy, trains the policy by `train` (sso-generator) into a
    generator, lets that generate again, and trains the *policy* on those pairs by the iteration's
    own `train`.
    """

    train: TrainConfig
    """Training of the generator; its objective is sso-generator."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_model_and_seed(cls, values: Any) -> Any:
        return _without_model(values, ("train",), "generator.")


class HeldOutConfig(Section):
    """Judge and held-out prompts that measure the policies."""

    judge: JudgeConfig = JudgeConfig()
    """Judge of the rows; `none`: only measures from log-probs and lengths."""
    judged_rows: Count | None = 1000
    """Most rows of a round that the judge sees, chosen by their ids; none: all of them."""
    prompts: str | None = None
    """Held-out prompts for the last policy's win rate against the first one's; none: no such
    evaluation."""
    split: str = "train"
    """Split of the held-out prompts, of a Hub or `datasets` dataset."""
    column: str = "prompt"
    """Column of the held-out prompts that holds the prompt."""
    limit: Count | None = None
    """Use only this many held-out prompts."""
    every_round: bool = False
    """Evaluate after every round instead of after the last one only."""


class StopRules(Section):
    """Limits at which the signal is too weak for a further round."""

    signal_accuracy: Share = 0.6
    """Stop when the judge agrees less often than this that chosen is better than rejected."""
    steered: Share = 0.2
    """Stop when fewer rows than this pass the filter's steering test."""
    gap: NotNegative = 0.01
    """Stop when the mean gap between the two steered views is smaller, nats/token; the smaller one
    of good and bad counts."""
    length_growth: Positive = 3.0
    """Stop when the policy's own answers have become this many times as long as the first
    round's."""


class IterateConfig(Section):
    """A whole iteration; any key can be set in a recipe, in `--config` or after `--set`."""

    page: ClassVar[str] = "docs/iterate.md"

    title: str = ""
    """Title of the iteration, one line."""
    reproduces: tuple[str, ...] = ()
    """Tables and figures of the paper that it reproduces."""
    model: str = ""
    """Model directory or Hub id of the first policy."""
    prompts: str = ""
    """File of prompts or Hub dataset id."""
    rounds: Count = 3
    """Number of rounds."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed from which the seeds of all rounds are derived."""
    slices: SliceConfig = SliceConfig()
    generate: RunConfig = RunConfig()
    """Generating and filtering (docs/configuration.md); model and seed are the round's."""
    labelled: LabelledConfig | None = None
    """Labelled pairs instead of generating: `labelled.data`, `labelled.split`."""
    generator: GeneratorConfig | None = None
    """Train a generator first (second version of the paper): `generator.train`, with the keys of a
    training."""
    train: TrainConfig = TrainConfig()
    """Training of a round (docs/train_configuration.md); model and seed are the round's. Of kind
    `reward`, it trains a reward model on the pairs, in one round."""
    carry_float32: bool = True
    """Save the rounds' policies in float32, where `train.optim.save_dtype` is `auto`, so that a
    round goes on from exactly the weights that the one before it trained (4 bytes a weight on disk,
    each round). Off: in the number format of `model`, which small updates do not survive."""
    launcher: Literal["auto"] | tuple[str, ...] = "auto"
    """Command before `-m sso_data train` instead of this Python, for example `[accelerate, launch,
    --config_file, examples/accelerate/fsdp.yaml]`. `auto`: a process for each visible GPU, with
    the whole model on each; `[]`: one process."""
    held_out: HeldOutConfig = HeldOutConfig()
    stop: StopRules = StopRules()

    @model_validator(mode="before")
    @classmethod
    def _refuse_model_and_seed(cls, values: Any) -> Any:
        return _without_model(values, ("generate", "train"), "")

    @model_validator(mode="after")
    def _fits_together(self) -> "IterateConfig":
        if self.generate.engine.servers:
            raise ValueError("generate.engine.servers: rounds load the policies that they train")
        if self.labelled and self.generator:
            raise ValueError("labelled and generator exclude each other")
        if self.train.kind == "reward" and self.rounds != 1:
            raise ValueError("a reward model is trained in one round: set rounds to 1")
        if self.train.kind == "reward" and self.generator:
            raise ValueError("generator cannot be combined with train.kind reward")
        if self.generator and self.generator.train.loss.objective != "sso-generator":
            raise ValueError("generator.train.loss.objective must be sso-generator")
        if self.train.data.split != "train":
            raise ValueError("train.data.split: rounds train on their own pairs; leave it out")
        self._check_model_keys()
        return self

    def _check_model_keys(self) -> None:
        """ValueError where generating and training would load the model in different ways."""
        engine, labelled = self.generate.engine, self.labelled is not None
        if engine.adapter is not None:
            raise ValueError(
                "generate.engine.adapter: a round trains whole models; merge the adapter first"
            )
        for train in (self.train, *((self.generator.train,) if self.generator else ())):
            for key in ("revision", "trust_remote_code"):
                if not labelled and getattr(train, key) != getattr(engine, key):
                    raise ValueError(
                        f"generate.engine.{key} and train.{key} must be equal: they load the same "
                        "model"
                    )


def _without_model(values: Any, sections: tuple[str, ...], prefix: str) -> Any:
    """Return the values. Raises ValueError if a section sets the model or seed of the round."""
    for section in sections:
        given = values.get(section) if isinstance(values, dict) else None
        if isinstance(given, dict) and ("model" in given or "seed" in given):
            name = f"{prefix}{section}"
            raise ValueError(
                f"{name}.model and {name}.seed are set by the iteration itself; leave them out"
            )
    return values
