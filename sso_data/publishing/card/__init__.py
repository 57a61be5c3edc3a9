"""The dataset card: what a run's pairs are and how they were made; others' words stay in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sso_data.core.jinja import render
from sso_data.core.naming import is_local
from sso_data.publishing.card import facts
from sso_data.publishing.card.markdown import code, inline, outside_marks, put_between_marks, table
from sso_data.publishing.card.metadata import (
    check,
    check_wording,
    merged,
    read_metadata,
    size_category,
    split_page,
    with_changes,
)
from sso_data.publishing.card.numbers import PairNumbers, count_pairs
from sso_data.publishing.card.plots import draw_plots
from sso_data.runs.decided import read_decided

_TASKS = ("text-generation",)
_TAGS = ("preference", "dpo", "on-policy", "synthetic", "self-steering-optimization", "sso-data")

_TITLE = "Preference pairs by Self-Steering Optimization"
_PURPOSE = {
    "pairs": "what the filter kept",
    "rows": "every row with all its scores, kept or not, to filter again",
}
_FUNNEL_HEAD = (
    "stage",
    "dropped",
    "left",
    "log-prob, plain view: chosen / rejected",
    "tokens: chosen / rejected",
    "gap: good / bad",
)
_NUMBERS_HEAD = ("", "mean", "5 %", "median", "95 %")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """One entry of the card's `configs`: a name, and its files (paths or globs) in the repository.

    `rows` is how many rows the files hold together.
    """

    name: str
    files: tuple[str, ...]
    rows: int
    default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetCard:
    """README.md with its YAML metadata, and its pictures: path in the repository -> PNG."""

    text: str
    plots: Mapping[str, bytes]


def dataset_card(
    run: Path,
    *,
    repo: str | None,
    configs: Sequence[DataConfig],
    existing: str | None = None,
    language: Sequence[str] = (),
    license: str | None = None,  # noqa: A002 - the name of the metadata's field
    failures: str | None = None,
    command: str | None = None,
) -> DatasetCard:
    """The card of a run's pairs, merged into the `existing` README.md of its repository.

    `failures` is the file of the repository that names what failed, where there is one. `command`
    is shown beside those that make the run. Raises InputError naming the field that is wrong,
    RunError where the run holds no pairs that can be read.
    """
    check_wording(language=list(language), license=license)
    made, decided = facts.read_facts(run), read_decided(run)
    front, page = split_page(existing or "")
    below = bool(outside_marks(page).strip())
    changes = _changes(front, configs, language=language, license_=license)
    numbers = count_pairs(run)
    plots = draw_plots(numbers)
    part = render(
        "dataset_card.j2",
        **_data(repo, configs, others=len(changes["configs"]) > len(configs)),
        **_sections(made, decided, numbers),
        below=below,
        failures=code(failures) if failures else "",
        plots=sorted(plots),
        commands=[
            *facts.making_commands(made),
            facts.filter_command(decided),
            *facts.published_by(command),
        ],
    )
    metadata = with_changes(front, changes)
    return DatasetCard(
        text=f"---\n{metadata}---\n\n{put_between_marks(page, part).lstrip()}", plots=plots
    )


def _changes(
    front: str, configs: Sequence[DataConfig], *, language: Sequence[str], license_: str | None
) -> dict[str, Any]:
    """The metadata to set; what the user did not say about language and licence is not in it."""
    there = read_metadata(front)
    ours: dict[str, Any] = {
        "task_categories": list(_TASKS),
        "tags": list(_TAGS),
        "size_categories": [size_category(max((one.rows for one in configs), default=0))],
        "configs": [_config(one) for one in configs],
    }
    changes = merged(there, ours)
    if language:
        changes["language"] = list(language)
    if license_:
        changes["license"] = license_
    check({key: value for key, value in (there | changes).items() if value is not None})
    return changes


def _config(config: DataConfig) -> dict[str, Any]:
    files = config.files[0] if len(config.files) == 1 else list(config.files)
    entry: dict[str, Any] = {
        "config_name": config.name,
        "data_files": [{"split": "train", "path": files}],
    }
    return entry | ({"default": True} if config.default else {})


def _data(repo: str | None, configs: Sequence[DataConfig], *, others: bool) -> dict[str, Any]:
    """What the page says of the repository and its files; `others`: it has more than ours."""
    chosen = next((one for one in configs if one.default), configs[0])
    rows = [
        (
            code(one.name) + (" (default)" if one.default and not others else ""),
            f"{one.rows:,}",
            _PURPOSE.get(one.name, ""),
            ", ".join(code(file) for file in one.files),
        )
        for one in configs
    ]
    shown = repo or "NAMESPACE/NAME"
    return {
        "repo": shown,
        "source": f"{shown}:{chosen.name}" if others else shown,
        "title": inline((repo or "").rpartition("/")[2] or _TITLE),
        "config": chosen.name,
        "files": table(("configuration", "rows", "what", "files"), rows, "lrll"),
    }


def _sections(
    made: facts.RunFacts, decided: Mapping[str, Any], numbers: PairNumbers
) -> dict[str, Any]:
    """The tables of the page."""
    steered, numbered = facts.principles(numbers), facts.statistics(numbers)
    model = made.config.model
    return {
        "model": "MODEL" if is_local(model) else model,
        "made": table(("", ""), list(facts.made(made, numbers)), "ll"),
        "failed": f"{made.account.failed:,}",
        "steered": table(("principle", "pairs", "share"), steered, "lrr") if steered else "",
        "preset": code(decided["preset"]),
        "kept": f"{decided['kept']:,}",
        "rows": f"{decided['rows']:,}",
        "thresholds": ", ".join(facts.thresholds(decided)),
        "funnel": table(_FUNNEL_HEAD, facts.funnel(decided), "lrrrrr"),
        "statistics": table(_NUMBERS_HEAD, numbered, "lrrrr") if numbered else "",
        "cut_off": facts.cut_off(numbers),
    }
