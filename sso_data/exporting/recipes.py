"""Recipes for other trainers: the defaults of `sso-data train` under their keys."""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sso_data.config.run import RunConfig
from sso_data.config.training import TrainConfig
from sso_data.core.jinja import render
from sso_data.core.paths import real_path
from sso_data.core.records import View
from sso_data.core.yaml_files import yaml_text

FEW_STEPS = 10
"""Fewer have no warm-up: trainers give its first step, of one the only one, the rate 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """One export, with the variables of the recipe templates.

    `directory` will hold the files; `config` is that of the run. `drawn` chooses the answers, and
    `name` is the model's in files of answers. `folded`: the model's template has no system role.
    `date` is the day that the chat template was given, where it shows one. `made` is when the run
    was started, in seconds since 1970. `mean_tokens` is the mean length of the kept chosen and
    rejected responses, in tokens; `pairs` counts the exported ones.
    """

    directory: Path
    config: RunConfig
    drawn: View
    name: str
    template_kwargs: dict[str, Any]
    folded: bool
    date: str | None
    made: float
    mean_tokens: float
    pairs: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps that a recipe takes on `pairs`, on one device."""
        optim = TrainConfig().optim
        return math.ceil(optim.epochs * math.ceil(self.pairs / optim.batch_size))


def recipe_text(template: str, job: ExportJob) -> str:
    """The recipe of `template`; every value from outside is quoted for its language.

    `their_template` is LLaMA-Factory's, which the published SSO script takes for such a model. The
    trained model goes to a directory next to that of the exported files.
    """
    train = TrainConfig()
    quote = shlex.quote if ".sh" in template else quoted
    config, local = job.config, Path(job.config.model).expanduser()
    families = {"qwen": "qwen", "glm": "glm", "mistral": "mistral", "llama": "llama3"}
    lr = repr(train.optim.lr)
    if "." not in lr:
        lr = lr.replace("e", ".0e")  # YAML 1.1 would read 5e-07 as a text
    text = render(
        template,
        folder=quote(str(job.directory)),
        file=quote(str(job.directory / "train.jsonl")),
        model=quote(str(real_path(local)) if local.exists() else config.model),
        revision=quote(comment(config.engine.revision)) if config.engine.revision else "",
        adapter=comment(str(config.engine.adapter)) if config.engine.adapter else "",
        out=quote(f"{job.directory}-model"),
        template_kwargs=comment(json.dumps(job.template_kwargs)),
        has_kwargs=bool(job.template_kwargs),
        thinking=job.template_kwargs.get("enable_thinking"),
        date=comment(job.date) if job.date else "",
        their_template=next(
            (found for word, found in families.items() if word in config.model.lower()), ""
        ),
        train=train,
        lr=lr,
        warmup=train.optim.warmup_steps if job.steps >= FEW_STEPS else 0,
        steps=job.steps,
        accumulation=max(1, train.optim.batch_size // train.optim.micro_batch_rows),
        first_loss=f"{(1 / (2 * train.loss.beta)) ** 2:.2f}",
        beta_of_sums=f"{train.loss.beta / max(job.mean_tokens, 1.0):.2g}",
        mean_tokens=f"{job.mean_tokens:.0f}",
    )
    return text + "\n"


def quoted(text: str) -> str:
    """`text` as one YAML scalar on one line."""
    return yaml_text(text, width=float("inf"), default_style='"').strip()


def comment(text: str) -> str:
    """`text` for a comment: printable, on one line."""
    return "".join(char if char.isprintable() else "?" for char in text)
