"""What is to be exported, from the options and from run.json."""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sso_data.config.run import validated
from sso_data.core.errors import ConfigError, one_line
from sso_data.core.naming import public_name
from sso_data.core.records import VIEWS, View
from sso_data.exporting.formats import ExportJob, Format
from sso_data.exporting.recipes import TrainerRecipe
from sso_data.runs.decided import section

_LONGEST_NAME = 100
_NAME = re.compile(r"\w[\w. +-]*")


def job_of(
    run: Path,
    out: Path,
    manifest: Mapping[str, Any],
    decided: Mapping[str, Any] | None,
    wanted: Format,
    *,
    drawn: str | None,
    name: str | None,
) -> ExportJob:
    """The export that the options ask for; ConfigError for one that is wrong or has no effect."""
    if wanted.holds == "pairs" and (drawn or name):
        given = "--drawn" if drawn else "--name"
        raise ConfigError(f"{given} is for the formats of answers, not for {wanted.name}")
    config = validated(manifest["config"], origin=str(run / "run.json"))
    view = _view(drawn or "plain")
    template = section(manifest, "template")
    return ExportJob(
        recipe=TrainerRecipe(
            directory=out.resolve(),
            config=config,
            template_kwargs=dict(section(template, "template_kwargs")),
            date=template.get("date"),
            mean_tokens=_mean_tokens(decided) if decided else 0.0,
        ),
        drawn=view,
        name=_checked_name(name) if name else model_name(config.model, view),
        folded=template.get("system_role") == "folded",
        made=_seconds(manifest.get("created")),
    )


def _view(drawn: str) -> View:
    for view in VIEWS:
        if view == drawn:
            return view
    raise ConfigError(f"--drawn {drawn}: must be one of {', '.join(VIEWS)}")


def _checked_name(name: str) -> str:
    """A name that can be a file's; ConfigError for another."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"--name {one_line(name, 100)}: it becomes a file's name: letters, digits, '.', '-' "
            f"and '_', at most {_LONGEST_NAME} characters"
        )
    return name


def model_name(model: str, drawn: View = "plain") -> str:
    """The last part of the model's name, in characters that a file name can have."""
    last = public_name(model).rpartition("/")[2].partition(":")[0]
    safe = re.sub(r"[^\w.+-]+", "-", last).strip("-.")[:_LONGEST_NAME] or "model"
    return safe if drawn == "plain" else f"{safe}-{drawn}"


def _seconds(created: Any) -> float:
    """An ISO time in seconds since 1970; 0 where there is none."""
    try:
        return datetime.fromisoformat(created).timestamp()
    except (TypeError, ValueError):
        return 0.0


def _mean_tokens(decided: Mapping[str, Any]) -> float:
    """The mean length of the kept chosen and rejected responses, in tokens."""
    last = decided["funnel"][-1] if decided["funnel"] else {}
    lengths = (last.get(f"mean_tokens_{side}") for side in ("chosen", "rejected"))
    known = [float(length) for length in lengths if length is not None]
    return sum(known) / len(known) if known else 0.0
