"""The dataset card: what a run's pairs are and how they were made."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sso_data.config.run import RunConfig, validated
from sso_data.core.jinja import render
from sso_data.core.paths import is_local, public_name
from sso_data.core.records import SIDE_OF
from sso_data.publishing.commands import making_commands
from sso_data.publishing.numbers import PairNumbers, count_pairs, draw_plots
from sso_data.publishing.public import clean_name, public_setting
from sso_data.publishing.readme import (
    Card,
    Cells,
    check_options,
    code,
    inline,
    merge_card,
    size_category,
    table,
)
from sso_data.runs.journal import Scores, load_scores
from sso_data.runs.pairs import read_decided
from sso_data.runs.run import Account, require_run, run_account, unfinished
from sso_data.runs.workdir import Manifest, section

_TAGS = ("preference", "dpo", "on-policy", "synthetic", "self-steering-optimization", "sso-data")
_CONFIG_NAMES = frozenset(("pairs", "rows"))
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
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """One entry of the card's `configs`: a name, and its files (paths or globs) in the repository.

    `rows` is how many rows the files hold together, `features` are their columns.
    """

    name: str
    files: tuple[str, ...]
    rows: int
    default: bool = False
    features: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run, read once: run.json, filter.json, the scores and the account of its prompts.

    `config` is that of run.json with today's defaults for what it does not name.
    """

    run: Path
    manifest: Manifest
    config: RunConfig
    decided: Mapping[str, Any]
    scores: Scores
    account: Account

    @property
    def unfinished(self) -> str | None:
        """How many prompts are done, where the run is unfinished."""
        return unfinished(self.manifest, self.account)


def read_facts(run: Path) -> RunFacts:
    """Read a run. Raises RunError for one without pairs, ConfigError naming a key that is wrong."""
    manifest = require_run(run)
    scores = load_scores(run, dry=True)
    return RunFacts(
        run=run,
        manifest=manifest,
        config=validated(manifest["config"], origin=str(run / "run.json")),
        decided=read_decided(run),
        scores=scores,
        account=run_account(run, scores),
    )


def dataset_card(
    facts: RunFacts,
    *,
    repo: str,
    configs: Sequence[DataConfig],
    language: Sequence[str] = (),
    license: str | None = None,  # noqa: A002 - the name of the metadata's field
    failures: str | None = None,
    command: str | None = None,
) -> tuple[Card, dict[str, bytes]]:
    """The card of a run's pairs, and its pictures: path in the repository -> PNG.

    `failures` is the file of the repository that names what failed, where there is one. `command`
    is shown after those that make the run. Raises InputError naming the field that is wrong.
    """
    check_options(language=list(language), license=license)
    numbers = count_pairs(facts.run)
    plots = draw_plots(numbers)
    metadata: dict[str, Any] = {
        "task_categories": ["text-generation"],
        "tags": list(_TAGS),
        "size_categories": [size_category(max((one.rows for one in configs), default=0))],
        "configs": [
            {
                "config_name": one.name,
                "data_files": [
                    {
                        "split": "train",
                        "path": one.files[0] if len(one.files) == 1 else list(one.files),
                    }
                ],
                **({"default": True} if one.default else {}),
            }
            for one in configs
        ],
    }
    metadata |= {"language": list(language)} if language else {}
    metadata |= {"license": license} if license else {}
    metadata["dataset_info"] = [
        {"config_name": one.name, "features": list(one.features)} for one in configs if one.features
    ]
    variables = {
        **_sections(facts, numbers),
        "failures": code(failures) if failures else "",
        "plots": sorted(plots),
        "commands": making_commands(facts.manifest, facts.config, facts.decided, command),
    }
    page, shared_page = (
        render("dataset_card.j2", **_data(repo, configs, others=others), **variables)
        for others in (False, True)
    )
    card = Card(metadata=metadata, page=page, shared_page=shared_page, config_names=_CONFIG_NAMES)
    merge_card(card)  # checks the metadata
    return card, plots


def _data(repo: str, configs: Sequence[DataConfig], *, others: bool) -> dict[str, Any]:
    """The page's variables for the repository; `others`: it has more configurations than ours."""
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
    return {
        "repo": repo,
        "source": f"{repo}:{chosen.name}" if others else repo,
        "title": inline(repo.rpartition("/")[2]),
        "config": chosen.name,
        "files": table(("configuration", "rows", "what", "files"), rows, "lrll"),
    }


def _sections(facts: RunFacts, numbers: PairNumbers) -> dict[str, Any]:
    """The tables of the page."""
    decided, model = facts.decided, facts.config.model
    steered = [
        (inline(name), f"{count:,}", f"{count / numbers.rows:.1%}")
        for name, count in sorted(numbers.features.items(), key=lambda item: (-item[1], item[0]))
    ]
    statistics = list(_statistics(numbers))
    cut_off = [
        f"{side} {count:,}" for view, side in SIDE_OF.items() if (count := numbers.cut_off[view])
    ]
    resolved = decided["thresholds"]["resolved"]
    limits = [code(f"{k} = {'-' if v is None else f'{v:.4g}'}") for k, v in resolved.items()]
    return {
        "model": "MODEL" if is_local(model) else model,
        "made": table(("", ""), list(_made(facts, numbers)), "ll"),
        "failed": f"{facts.account.failed:,}",
        "steered": table(("principle", "pairs", "share"), steered, "lrr") if steered else "",
        "preset": code(decided["preset"]),
        "kept": f"{decided['kept']:,}",
        "rows": f"{decided['rows']:,}",
        "thresholds": ", ".join(limits),
        "funnel": table(_FUNNEL_HEAD, list(_funnel(decided)), "lrrrrr"),
        "statistics": table(_NUMBERS_HEAD, statistics, "lrrrr") if statistics else "",
        "cut_off": ", ".join(cut_off),
    }


def _made(facts: RunFacts, numbers: PairNumbers) -> Iterator[Cells]:
    """(property, value) of the run."""
    config, manifest = facts.config, facts.manifest
    identity, revision = section(manifest, "identity"), config.engine.revision
    if is_local(config.model):
        yield "model", code(clean_name(config.model))
    else:
        at = f", revision {code(revision)}" if revision else ""
        yield "model", f"[{inline(config.model)}](https://huggingface.co/{config.model}){at}"
    if config.engine.adapter:
        yield "adapter (LoRA)", code(public_name(str(config.engine.adapter)))
    yield "fingerprint of the weights", code(identity.get("model", "-"))
    listed = manifest.get("sources")
    sources = [clean_name(str(one)) for one in listed] if isinstance(listed, list) else []
    yield "prompts from", ", ".join(map(_source_link, sources)) or "not recorded"
    account = facts.account
    parts = [f"{account.prompts:,} = rows {account.rows:,} + failed {account.failed:,}"]
    if numbers.several_turns:
        parts.append(f"{numbers.several_turns:,} of the pairs have several turns")
    if numbers.own_system:
        parts.append(f"{numbers.own_system:,} of the pairs have a system message of their own")
    yield "prompts", "; ".join(parts)
    if facts.unfinished:
        yield "unfinished", f"the run was published before its end: {facts.unfinished}"
    catalogue = code(clean_name(str(config.principles))) if config.principles else "as shipped"
    yield "principles", f"{catalogue} (fingerprint {code(identity.get('principles', '-'))})"
    yield "principles chosen", ", ".join(map(inline, sorted(numbers.chosen_by))) or "-"
    if numbers.written_by:
        writers = (inline(clean_name(name)) for name in sorted(numbers.written_by))
        yield "their texts by", ", ".join(writers)
    sampling = config.sampling.model_dump(mode="json")
    settings = (code(f"{key} = {value}") for key, value in sampling.items())
    yield "sampling, all three times", ", ".join(settings)
    yield "seed", code(config.seed)
    if kwargs := section(manifest, "template").get("template_kwargs"):
        yield "arguments of the chat template", code(public_setting(kwargs))
    if found := section(manifest, "engine"):
        words = (found.get(key, "") for key in ("name", "version", "device", "dtype"))
        yield "engine", inline(" ".join(map(str, words)))
    yield "made by", f"sso-data {inline(manifest.get('sso_data', '-'))}, {inline(manifest['date'])}"


def _source_link(source: str) -> str:
    name = source.partition(":")[0]
    if is_local(source) or "/" not in name:
        return code(source)
    return f"[{inline(source)}](https://huggingface.co/datasets/{name})"


def _funnel(decided: Mapping[str, Any]) -> Iterator[Cells]:
    """The filter's stages: (stage, dropped, left, log-probs, lengths, gaps), as `filter` shows."""

    def means(one: str, other: str, digits: int) -> str:
        return f"{_number(stage.get(one), digits)} / {_number(stage.get(other), digits)}"

    for place, stage in enumerate(decided["funnel"]):
        reason = stage["reason"]
        if place and not stage["dropped"] and reason not in ("not_steered", "off_policy", "gap"):
            continue
        yield (
            code(reason),
            "" if reason == "rows" else f"{stage['dropped']:,}",
            f"{stage['left']:,}",
            means("mean_logp_plain_chosen", "mean_logp_plain_rejected", 3),
            means("mean_tokens_chosen", "mean_tokens_rejected", 1),
            means("mean_gap_good", "mean_gap_bad", 3),
        )


def _statistics(numbers: PairNumbers) -> Iterator[Cells]:
    """(quantity, mean, 5 %, median, 95 %) of lengths, plain-view log-probs and gaps."""
    sides = SIDE_OF.items()
    for what, values, digits in (
        *((f"length of {side} (tokens)", numbers.tokens[view], 0) for view, side in sides),
        *(
            (f"log-prob of {side}, plain view (nats/token)", numbers.logp[view], 3)
            for view, side in sides
        ),
        ("gap of chosen, good - bad view (nats/token)", numbers.gap["good"], 3),
        ("gap of rejected, bad - good view (nats/token)", numbers.gap["bad"], 3),
    ):
        if values.count:
            quantiles = (_number(values.quantile(share), digits) for share in _QUANTILES)
            yield what, _number(values.mean, max(digits, 1)), *quantiles


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
