"""The dataset card: a run's pairs, how they were made, and the commands that make them again."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sso_data.config.loading import validated
from sso_data.config.run import RunConfig
from sso_data.core.errors import one_line, without_secrets
from sso_data.core.jinja import render
from sso_data.core.markdown import Cells, code, inline, table
from sso_data.core.paths import is_local, public_name, shown_command
from sso_data.core.records import SIDE_OF
from sso_data.core.yaml_files import yaml_text
from sso_data.filtering.explain import effect_of
from sso_data.publishing.numbers import PairNumbers, count_pairs, draw_plots
from sso_data.publishing.public import clean_name, public_setting
from sso_data.publishing.readme import (
    Card,
    check_options,
    merge_card,
    size_category,
)
from sso_data.runs.journal import Scores, load_scores
from sso_data.runs.pairs import read_decided
from sso_data.runs.run import (
    Account,
    Given,
    Origin,
    origin_of,
    require_run,
    run_account,
    unfinished,
)
from sso_data.runs.workdir import Manifest, section

_TAGS = ("preference", "dpo", "on-policy", "synthetic", "self-steering-optimization", "sso-data")
_CONFIG_NAMES = frozenset(("pairs", "rows"))
_PURPOSE = {
    "pairs": "what the filter kept",
    "rows": "every row with its scores, kept or not, to filter again",
}
_FUNNEL_HEAD = (
    "stage",
    "dropped",
    "left",
    "log-prob, plain view: chosen / rejected",
    "tokens: chosen / rejected",
    "gap: good / bad",
)
_FUNNEL_MEANS = (
    ("mean_logp_plain_chosen", "mean_logp_plain_rejected", 3),
    ("mean_tokens_chosen", "mean_tokens_rejected", 1),
    ("mean_gap_good", "mean_gap_bad", 3),
)
_NUMBERS_HEAD = ("", "mean", "5 %", "median", "95 %")
_QUANTILES = (0.05, 0.5, 0.95)
_OPTIONS = ("model", "seed", "principles")
_NO_RECIPE = ("filter", "output", "source")
_RUN = "RUN"
"""The run's directory in the commands of the card."""

_MOST_COMMAND = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class CardConfig:
    """One entry of the card's `configs`: a name, and its file (or a glob) in the repository.

    `rows` is the number of rows in it, `features` are their columns.
    """

    name: str
    path: str
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
        """The number of prompts done, for an unfinished run; else None."""
        return unfinished(self.manifest, self.account)


def read_facts(run: Path) -> RunFacts:
    """Read a run. Raises RunError for one without pairs, ConfigError naming a key that is wrong."""
    manifest = require_run(run)
    scores = load_scores(run, dry=True, whole=True)
    return RunFacts(
        run=run,
        manifest=manifest,
        config=validated(RunConfig, manifest["config"], origin=str(run / "run.json"), given={}),
        decided=read_decided(run),
        scores=scores,
        account=run_account(run, scores),
    )


def dataset_card(
    facts: RunFacts,
    *,
    repo: str,
    configs: Sequence[CardConfig],
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
                "data_files": [{"split": "train", "path": one.path}],
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
    chosen = next((one for one in configs if one.default), configs[0])
    variables = {
        **_sections(facts, numbers),
        "repo": repo,
        "effect": str(effect_of(facts.scores.rows)),
        "not_asked": sum(stage.get("not_asked", 0) for stage in facts.decided["funnel"]),
        "title": inline(repo.rpartition("/")[2]),
        "config": chosen.name,
        "failures": code(failures) if failures else "",
        "plots": sorted(plots),
        "commands": making_commands(facts.manifest, facts.config, facts.decided, command),
    }
    pages = []
    for shared in (False, True):  # shared: others have configurations in the repository too
        rows = [
            (
                code(one.name) + (" (default)" if one.default and not shared else ""),
                f"{one.rows:,}",
                _PURPOSE.get(one.name, ""),
                code(one.path),
            )
            for one in configs
        ]
        variables |= {
            "source": f"{repo}:{chosen.name}" if shared else repo,
            "files": table(("configuration", "rows", "what", "files"), rows, "lrll"),
        }
        pages.append(render("dataset_card.j2", **variables))
    card = Card(metadata=metadata, page=pages[0], shared_page=pages[1], config_names=_CONFIG_NAMES)
    merge_card(card)  # checks the metadata
    return card, plots


def _sections(facts: RunFacts, numbers: PairNumbers) -> dict[str, Any]:
    """The tables of the page."""
    decided, model = facts.decided, facts.config.model
    steered = [
        (inline(name), f"{count:,}", f"{count / numbers.rows:.1%}")
        for name, count in sorted(numbers.features.items(), key=lambda item: (-item[1], item[0]))
    ]
    funnel = []
    for place, stage in enumerate(decided["funnel"]):
        reason = stage["reason"]
        if place and not stage["dropped"] and reason not in ("not_steered", "off_policy", "gap"):
            continue
        means = [
            f"{_number(stage.get(one), digits)} / {_number(stage.get(other), digits)}"
            for one, other, digits in _FUNNEL_MEANS
        ]
        dropped = "" if reason == "rows" else f"{stage['dropped']:,}"
        funnel.append((code(reason), dropped, f"{stage['left']:,}", *means))
    sides = SIDE_OF.items()
    statistics = []
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
            statistics.append((what, _number(values.mean, max(digits, 1)), *quantiles))
    cut_off = [f"{side} {count:,}" for view, side in sides if (count := numbers.cut_off[view])]
    resolved = decided["thresholds"]["resolved"]
    limits = [code(f"{k} = {'-' if v is None else f'{v:.4g}'}") for k, v in resolved.items()]
    return {
        "model": "MODEL" if is_local(model) else model,
        "made": table(("", ""), list(_made(facts, numbers)), "ll"),
        "failed": f"{facts.account.failed:,}",
        "steered": table(("principle", "pairs", "share"), steered, "lrr") if steered else "",
        "placement": facts.config.steering.placement,
        "peoples_chats": bool(facts.manifest.get("peoples_chats")),
        "preset": code(decided["preset"]),
        "kept": f"{decided['kept']:,}",
        "rows": f"{decided['rows']:,}",
        "thresholds": ", ".join(limits),
        "funnel": table(_FUNNEL_HEAD, funnel, "lrrrrr"),
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
    links = []
    for source in sources:
        name = source.partition(":")[0]
        is_file = is_local(source) or "/" not in name
        link = f"[{inline(source)}](https://huggingface.co/datasets/{name})"
        links.append(code(source) if is_file else link)
    yield "prompts from", ", ".join(links) or "not recorded"
    account = facts.account
    balance = f"{account.prompts:,}{account.times} = rows {account.rows:,}"
    there = f" + made elsewhere {account.elsewhere:,}" if account.elsewhere else ""
    parts = [f"{balance} + failed {account.failed:,}{there}"]
    if numbers.several_turns:
        parts.append(f"{numbers.several_turns:,} of the pairs have several turns")
    if numbers.own_system:
        parts.append(f"{numbers.own_system:,} of the pairs have a system message of their own")
    yield "prompts", "; ".join(parts)
    if not_asked := sum(stage.get("not_asked", 0) for stage in facts.decided["funnel"]):
        what = f"{not_asked:,} of the dropped rows lack scores, `chosen` or `original`"
        yield "not asked for", f"{what}; means are over the rows that are complete by design"
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


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def making_commands(
    manifest: Manifest, config: RunConfig, decided: Mapping[str, Any], command: str | None = None
) -> list[str]:
    """The `generate`, `merge` and `filter` commands that make this run, then `command`.

    One `generate` for each source and way of reading it, with every setting that differs from its
    default, except the filter's.
    """
    made = [*_commands(config, origin_of(manifest, _RUN), _RUN, {_RUN})]
    defaults = RunConfig().filter.model_dump(mode="json")
    changed = _set_words("filter.", section(decided, "config"), defaults)
    made.append(shlex.join(["sso-data", "filter", _RUN, *changed]))
    made += [shown_command(command)] if command else []
    return [one_line(one, _MOST_COMMAND) for one in made]


def _commands(run: RunConfig, origin: Origin, out: str, taken: set[str]) -> Iterator[str]:
    """The commands that make the directory `out`; `taken` are the names of directories so far."""
    names = []
    for part in origin.merged:
        name = wanted = clean_name(part.run)
        number = 2
        while name in taken:
            name, number = f"{wanted}-{number}", number + 1
        taken.add(name)
        names.append(name)
        yield from _commands(run, part, name, taken)
    if names:
        yield shlex.join(["sso-data", "merge", *names, "--out", out])
    config, defaults = run.model_dump(mode="json"), RunConfig().model_dump(mode="json")
    options = []
    for key in _OPTIONS:
        if config[key] != defaults[key]:
            options += [f"--{key}", clean_name(str(config[key]))]
    own = {key: value for key, value in config.items() if key not in (*_OPTIONS, *_NO_RECIPE)}
    sections = {key: value for key, value in own.items() if isinstance(value, dict)}
    options += _set_words("", {k: v for k, v in own.items() if k not in sections}, defaults)
    for key, value in sections.items():
        options += _set_words(f"{key}.", value, defaults[key])
    for one in origin.given or (() if names else (Given(source="PROMPTS", settings={}),)):
        read = _set_words("source.", one.settings, defaults["source"])
        words = ["sso-data", "generate", clean_name(one.source), *options, *read, "--out", out]
        yield without_secrets(shlex.join(words))


def _set_words(prefix: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """`--set prefix-key=value` for every value that is not the default; a value is YAML."""
    words = []
    for key, value in public_setting(values).items():
        if key not in defaults or value != defaults[key]:
            text = yaml_text(value, width=float("inf"), sort_keys=True, default_flow_style=True)
            text = text.removesuffix("...\n").strip()
            words += ["--set", f"{prefix}{key}={text}"]
    return words
