"""The commands that make a run again, without names of this machine, for its card."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from sso_data.config.run import RunConfig
from sso_data.core.errors import one_line, without_secrets
from sso_data.core.paths import shown_command
from sso_data.publishing.public import clean_name, public_setting
from sso_data.runs.run import Given, Origin, origin_of
from sso_data.runs.workdir import section

_OPTIONS = ("model", "seed", "principles")
_NO_RECIPE = ("filter", "output", "source")
_RUN = "RUN"
"""The run's directory in the commands of the card."""

_MOST_COMMAND = 4000


def making_commands(
    manifest: Mapping[str, Any],
    config: RunConfig,
    decided: Mapping[str, Any],
    command: str | None = None,
) -> list[str]:
    """The `generate`, `merge` and `filter` commands that make this run, then `command`.

    One `generate` for each source and way of reading it, with every setting that differs from its
    default, those of the filter apart.
    """
    made = [*_commands(config, origin_of(manifest, _RUN), _RUN, {_RUN})]
    defaults = RunConfig().filter.model_dump(mode="json")
    changed = _set_words("filter.", section(decided, "config"), defaults)
    made.append(shlex.join(["sso-data", "filter", _RUN, *changed]))
    made += [shown_command(command)] if command else []
    return [one_line(one, _MOST_COMMAND) for one in made]


def _commands(config: RunConfig, origin: Origin, run: str, taken: set[str]) -> Iterator[str]:
    """The commands that make the directory `run`; `taken` are the names of directories so far."""
    names = []
    for part in origin.merged:
        name = wanted = clean_name(part.run)
        number = 2
        while name in taken:
            name, number = f"{wanted}-{number}", number + 1
        taken.add(name)
        names.append(name)
        yield from _commands(config, part, name, taken)
    if names:
        yield shlex.join(["sso-data", "merge", *names, "--out", run])
    given = origin.given
    if not given and not origin.merged:
        given = (Given(source="PROMPTS", settings={}),)
    for one in given:
        yield _generate_command(config, one, run)


def _generate_command(run: RunConfig, given: Given, out: str) -> str:
    """The command that reads `given` into the run directory `out`."""
    config, defaults = run.model_dump(mode="json"), RunConfig().model_dump(mode="json")
    words = ["sso-data", "generate", clean_name(given.source)]
    for key in _OPTIONS:
        if config[key] != defaults[key]:
            words += [f"--{key}", clean_name(str(config[key]))]
    own = {key: value for key, value in config.items() if key not in (*_OPTIONS, *_NO_RECIPE)}
    sections = {key: value for key, value in own.items() if isinstance(value, dict)}
    words += _set_words("", {k: v for k, v in own.items() if k not in sections}, defaults)
    for key, value in sections.items():
        words += _set_words(f"{key}.", value, defaults[key])
    words += _set_words("source.", given.settings, defaults["source"])
    return without_secrets(shlex.join([*words, "--out", out]))


def _set_words(prefix: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """`--set prefix-key=value` for every value that is not the default; a value is YAML."""
    words = []
    for key, value in values.items():
        if key not in defaults or value != defaults[key]:
            text: str = yaml.safe_dump(
                public_setting(value),
                default_flow_style=True,
                width=float("inf"),
                allow_unicode=True,
            )
            text = text.removesuffix("...\n").strip()
            words += ["--set", f"{prefix}{key}={text}"]
    return words
