"""What a card says of a run, as Markdown: from run.json, filter.json and its pairs' numbers."""

import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sso_data.config.run import RunConfig, validated
from sso_data.core.errors import one_line, without_secrets
from sso_data.core.naming import is_local, public_name, shown_command
from sso_data.core.records import SIDE_OF
from sso_data.publishing.card.markdown import Cells, code, inline
from sso_data.publishing.card.numbers import Distribution, PairNumbers
from sso_data.runs.decided import section
from sso_data.runs.origin import Given, Origin, origin_of
from sso_data.runs.run import Account, require_run, run_account, unfinished
from sso_data.runs.scores import load_scores

_QUANTILES = (0.05, 0.5, 0.95)
_OPTIONS = ("model", "seed", "principles")
_NO_RECIPE = ("filter", "output", "source")
_RUN = "RUN"
"""How the commands of the card call the run's directory."""
_MOST_COMMAND = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """run.json: its configuration with today's defaults for what it does not name, and the rest.

    `account` is what is in the run.
    """

    config: RunConfig
    manifest: Mapping[str, Any]
    account: Account

    @property
    def sources(self) -> list[str]:
        """The prompt files or Hub ids, without directories of this machine."""
        found = self.manifest.get("sources")
        return [_clean(str(source)) for source in found] if isinstance(found, list) else []

    @property
    def unfinished(self) -> str | None:
        """How far the run is, where it is unfinished."""
        return unfinished(dict(self.manifest), self.account)


def read_facts(run: Path) -> RunFacts:
    """What run.json says, and the books; RunError, or ConfigError naming a key that is wrong."""
    manifest = require_run(run)
    config = validated(manifest["config"], origin=str(run / "run.json"))
    account = run_account(run, load_scores(run, dry=True))
    return RunFacts(config=config, manifest=manifest, account=account)


def made(facts: RunFacts, numbers: PairNumbers) -> Iterator[Cells]:
    """(what, how it was) of the run."""
    config, manifest = facts.config, facts.manifest
    identity = section(manifest, "identity")
    yield "model", model_link(config.model, config.engine.revision)
    if config.engine.adapter:
        yield "adapter (LoRA)", code(public_name(str(config.engine.adapter)))
    yield "fingerprint of the weights", code(identity.get("model", "-"))
    yield "prompts from", ", ".join(map(_source_link, facts.sources)) or "not recorded"
    yield "prompts", _prompts(facts.account, numbers)
    if facts.unfinished:
        yield "unfinished", f"the run was published before its end: {facts.unfinished}"
    catalogue = code(_clean(str(config.principles))) if config.principles else "as shipped"
    yield "principles", f"{catalogue} (fingerprint {code(identity.get('principles', '-'))})"
    yield "principles chosen", ", ".join(map(inline, sorted(numbers.chosen_by))) or "-"
    if numbers.written_by:
        yield (
            "their texts by",
            ", ".join(inline(_clean(name)) for name in sorted(numbers.written_by)),
        )
    sampling = config.sampling.model_dump(mode="json")
    yield (
        "sampling, all three times",
        ", ".join(code(f"{key} = {value}") for key, value in sampling.items()),
    )
    yield "seed", code(config.seed)
    if kwargs := section(manifest, "template").get("template_kwargs"):
        yield "arguments of the chat template", code(_public(kwargs))
    if found := section(manifest, "engine"):
        words = (found.get(key, "") for key in ("name", "version", "device", "dtype"))
        yield "engine", inline(" ".join(map(str, words)))
    yield "made by", f"sso-data {inline(manifest.get('sso_data', '-'))}, {inline(manifest['date'])}"


def model_link(model: str, revision: str | None) -> str:
    """The model as Markdown: a link where it is one on the Hub."""
    if is_local(model):
        return code(_clean(model))
    at = f", revision {code(revision)}" if revision else ""
    return f"[{inline(model)}](https://huggingface.co/{model}){at}"


def _source_link(source: str) -> str:
    name = source.partition(":")[0]
    if is_local(source) or "/" not in name:
        return code(source)
    return f"[{inline(source)}](https://huggingface.co/datasets/{name})"


def principles(numbers: PairNumbers) -> list[Cells]:
    """(principle, pairs, share of the pairs), the most frequent first."""
    return [
        (inline(name), f"{count:,}", f"{count / numbers.rows:.1%}")
        for name, count in sorted(numbers.features.items(), key=lambda item: (-item[1], item[0]))
    ]


def funnel(decided: Mapping[str, Any]) -> list[Cells]:
    """The filter's stages: (stage, dropped, left, log-probs, lengths, gaps), as `filter` shows."""
    return [
        (
            code(stage["reason"]),
            "" if stage["reason"] == "rows" else f"{stage['dropped']:,}",
            f"{stage['left']:,}",
            _pair(stage, "mean_logp_plain_chosen", "mean_logp_plain_rejected", digits=3),
            _pair(stage, "mean_tokens_chosen", "mean_tokens_rejected", digits=1),
            _pair(stage, "mean_gap_good", "mean_gap_bad", digits=3),
        )
        for place, stage in enumerate(decided["funnel"])
        if not place or stage["dropped"] or stage["reason"] in ("not_steered", "off_policy", "gap")
    ]


def thresholds(decided: Mapping[str, Any]) -> list[str]:
    """The resolved thresholds, each as `name = value`."""
    resolved = decided["thresholds"]["resolved"]
    return [code(f"{k} = {'-' if v is None else f'{v:.4g}'}") for k, v in resolved.items()]


def statistics(numbers: PairNumbers) -> list[Cells]:
    """(what, mean, 5 %, median, 95 %) of lengths, plain-view log-probs and gaps."""
    rows = []
    for view, side in SIDE_OF.items():
        rows.append((f"length of {side} (tokens)", numbers.tokens[view], 0))
    for view, side in SIDE_OF.items():
        rows.append((f"log-prob of {side}, plain view (nats/token)", numbers.logp[view], 3))
    rows.append(("gap of chosen, good - bad view (nats/token)", numbers.gap["good"], 3))
    rows.append(("gap of rejected, bad - good view (nats/token)", numbers.gap["bad"], 3))
    return [_described(what, values, digits) for what, values, digits in rows if values.count]


def making_commands(facts: RunFacts) -> list[str]:
    """The `generate` and `merge` commands that make this run, without names of this machine.

    One `generate` for each source and way of reading it. Every setting that differs from its
    default stands in it, those of the filter apart.
    """
    return list(_commands(facts.config, origin_of(facts.manifest, _RUN), _RUN, {_RUN}))


def _commands(config: RunConfig, origin: Origin, run: str, taken: set[str]) -> Iterator[str]:
    """The commands that make the directory `run`; `taken` are the names of directories so far."""
    names = []
    for part in origin.merged:
        names.append(_distinct(_clean(part.run), taken))
        yield from _commands(config, part, names[-1], taken)
    if names:
        yield _bounded(shlex.join(["sso-data", "merge", *names, "--out", run]))
    given: Iterable[Given] = origin.given
    if not given and not origin.merged:
        given = [Given(source="PROMPTS", settings={})]
    for one in given:
        yield _generate_command(config, one, run)


def _distinct(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where it is taken; it is taken then."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    found = next(one for one in itertools.chain([name], numbered) if one not in taken)
    taken.add(found)
    return found


def _generate_command(run: RunConfig, given: Given, out: str) -> str:
    """The command that reads `given` into the run directory `out`."""
    config, defaults = run.model_dump(mode="json"), RunConfig().model_dump(mode="json")
    words = ["sso-data", "generate", _clean(given.source)]
    for key in _OPTIONS:
        if config[key] != defaults[key]:
            words += [f"--{key}", _clean(str(config[key]))]
    own = {key: value for key, value in config.items() if key not in (*_OPTIONS, *_NO_RECIPE)}
    sections = {key: value for key, value in own.items() if isinstance(value, dict)}
    words += _set_words("", {k: v for k, v in own.items() if k not in sections}, defaults)
    for key, value in sections.items():
        words += _set_words(f"{key}.", value, defaults[key])
    words += _set_words("source.", given.settings, defaults["source"])
    return _bounded(without_secrets(shlex.join([*words, "--out", out])))


def filter_command(decided: Mapping[str, Any]) -> str:
    """The `sso-data filter` command that keeps these rows of the run."""
    defaults = RunConfig().filter.model_dump(mode="json")
    changed = _set_words("filter.", section(decided, "config"), defaults)
    return _bounded(shlex.join(["sso-data", "filter", _RUN, *changed]))


def published_by(command: str | None) -> list[str]:
    """The command that the caller names, as a list of at most one line."""
    return [_bounded(shown_command(command))] if command else []


def _set_words(prefix: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """`--set prefix-key=value` for every value that is not the default."""
    words = []
    for key, value in values.items():
        if key not in defaults or value != defaults[key]:
            words += ["--set", f"{prefix}{key}={_setting(_public(value))}"]
    return words


def _setting(value: Any) -> str:
    """A value as `--set` reads it: YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return str(text).removesuffix("...\n").strip()


def _public(value: Any) -> Any:
    """A setting without paths of this machine, and without tokens."""
    if isinstance(value, dict):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_public(inner) for inner in value]
    return _clean(value) if isinstance(value, str) and "/" in value else value


def _clean(name: str) -> str:
    return without_secrets(public_name(name))


def _bounded(command: str) -> str:
    return one_line(command, _MOST_COMMAND)


def _prompts(account: Account, numbers: PairNumbers) -> str:
    """The books of the prompts, and what they are like."""
    parts = [f"{account.prompts:,} = rows {account.rows:,} + failed {account.failed:,}"]
    if numbers.several_turns:
        parts.append(f"{numbers.several_turns:,} of the pairs have several turns")
    if numbers.own_system:
        parts.append(f"{numbers.own_system:,} of the pairs have a system message of their own")
    return "; ".join(parts)


def cut_off(numbers: PairNumbers) -> str:
    """How many responses were cut off, by side; empty where none was."""
    found = [
        f"{side} {count:,}" for view, side in SIDE_OF.items() if (count := numbers.cut_off[view])
    ]
    return ", ".join(found)


def _pair(stage: Mapping[str, Any], one: str, other: str, *, digits: int) -> str:
    return " / ".join(_number(stage.get(key), digits) for key in (one, other))


def _described(what: str, values: Distribution, digits: int) -> Cells:
    quantiles = (_number(values.quantile(share), digits) for share in _QUANTILES)
    return what, _number(values.mean, max(digits, 1)), *quantiles


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
