"""Configuration of a reward model's training: its loss, its tokens, what is mixed in."""

from typing import Annotated, Literal

from pydantic import Field

from sso_data.config.section import NotNegative, Positive, Section


class MixPart(Section):
    """Another preference set that is mixed in."""

    data: Annotated[str, Field(min_length=1)]
    """A file, a directory or a Hub dataset with `chosen` and `rejected` (and `prompt`)."""
    split: str = "train"
    """Split of a Hub or `datasets` dataset."""
    weight: Positive = 1.0
    """How often an epoch takes each of its rows: 1 takes all of them once, 0.5 a random half, 2.5
    each of them twice and a random half once more."""


class RewardConfig(Section):
    """How a reward model is trained on pairs."""

    center_rewards_coefficient: NotNegative = 0.0
    """Weight of (r+ + r-)^2 (arXiv 2312.09244), which keeps the mean reward near 0; 0.01 is
    usual."""
    tokens: Literal["sampled", "rendered"] = "sampled"
    """Of our own rows. `sampled`: the token ids that were sampled; the reward model has the
    tokenizer and chat template of the model that made the data. `rendered`: their text through this
    model's chat template, for a reward model of another family."""
    own_weight: Positive = 1.0
    """How often an epoch takes each of our own rows, as in `mix`."""
    mix: tuple[MixPart, ...] = ()
    """Other preference sets to train on together with ours."""
