"""Recipes for other trainers: the defaults of `sso-data train`, in their words."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sso_data.config.run import RunConfig
from sso_data.config.training import TrainConfig
from sso_data.core.jinja import render


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerRecipe:
    """What the recipe templates know: where the rows are, and which policy made them.

    `mean_tokens` is the mean length of the kept chosen and rejected responses, in tokens; `date`
    the day that the chat template was told, where it shows one.
    """

    directory: Path
    config: RunConfig
    template_kwargs: dict[str, Any]
    date: str | None
    mean_tokens: float

    @property
    def model(self) -> str:
        """The policy: a Hub id, or the whole path of a directory that is there."""
        local = Path(self.config.model).expanduser()
        return str(local.resolve()) if local.exists() else self.config.model

    @property
    def out(self) -> str:
        """Where the trained model goes: beside the exported files."""
        return f"{self.directory}-model"


def recipe_text(template: str, recipe: TrainerRecipe) -> str:
    """The recipe of `template`; every value from outside is quoted for its language."""
    train = TrainConfig()
    quote = shlex.quote if ".sh" in template else quoted
    config = recipe.config
    text = render(
        template,
        folder=quote(str(recipe.directory)),
        file=quote(str(recipe.directory / "train.jsonl")),
        model=quote(recipe.model),
        revision=quote(comment(config.engine.revision)) if config.engine.revision else "",
        adapter=comment(str(config.engine.adapter)) if config.engine.adapter else "",
        out=quote(recipe.out),
        template_kwargs=comment(json.dumps(recipe.template_kwargs)),
        has_kwargs=bool(recipe.template_kwargs),
        thinking=recipe.template_kwargs.get("enable_thinking"),
        date=comment(recipe.date) if recipe.date else "",
        their_template=published_template(config.model),
        train=train,
        lr=number(train.optim.lr),
        accumulation=max(1, train.optim.batch_size // train.optim.micro_batch_rows),
        first_loss=f"{(1 / (2 * train.loss.beta)) ** 2:.2f}",
        beta_of_sums=f"{train.loss.beta / max(recipe.mean_tokens, 1.0):.2g}",
        mean_tokens=f"{recipe.mean_tokens:.0f}",
    )
    return text + "\n"


def command_of(command: str, recipe: TrainerRecipe, *, name: str) -> str:
    """A command whose `{directory}` and `{name}` are filled in, quoted for a shell."""
    words = (
        word.format(directory=recipe.directory, name=name) if "{" in word else word
        for word in command.split()
    )
    return shlex.join(words)


def quoted(text: str) -> str:
    """`text` as one YAML scalar on one line."""
    dumped: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return dumped.strip()


def number(value: float) -> str:
    """A number that YAML 1.1, too, reads as one: 5e-07 would be a text there."""
    text = repr(value)
    return text if "." in text or "e" not in text else text.replace("e", ".0e")


def comment(text: str) -> str:
    """`text` for a comment: printable, on one line."""
    return "".join(char if char.isprintable() else "?" for char in text)


def published_template(model: str) -> str:
    """The LLaMA-Factory template that the published SSO script takes for a model; else empty."""
    name = model.lower()
    known = {"qwen": "qwen", "glm": "glm", "mistral": "mistral", "llama": "llama3"}
    return next((template for word, template in known.items() if word in name), "")
