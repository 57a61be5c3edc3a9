"""How runs were made: the settings of one, and those in which several differ.

No directory of this machine, no address and no token is told.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sso_data.config.run import RunConfig
from sso_data.core.errors import without_secrets
from sso_data.core.paths import CATALOGUES
from sso_data.core.records import Row
from sso_data.core.trees import leaves
from sso_data.filtering.refilter import in_words
from sso_data.publishing.public import clean_name, public_setting
from sso_data.runs.workdir import Manifest, section

Texts = dict[tuple[str, str, int], str]
"""Texts of a catalogue in the rows of a run, by principle, side and number of the wording."""
_CONTENTS = ("model", "tokenizer", "chat_template", "principles", "templates")
"""Keys of a run's identity that are fingerprints."""


def settings(config: RunConfig) -> dict[str, str]:
    """Return every setting by its dotted key; a value as in JSON, a text without quotes."""
    texts = (
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in leaves(public_setting(config.model_dump(mode="json")), depth=2)
    )
    return {key: without_secrets(text) for key, text in texts}


def made(manifest: Manifest, config: RunConfig) -> dict[str, Any]:
    """Return how a run was made: `line`, and `rows` of (part, its settings).

    Sampling is told whole; the filter's and other settings where they are not the defaults.
    """
    own, default = settings(config), settings(RunConfig())
    model, catalogue = clean_name(config.model), _catalogue(config)
    of_model = [f"{key} {own[f'engine.{key}']}" for key in ("revision", "adapter")]
    which = "features" if config.steering.choose == "fixed" else "count"
    choice = [f"steering.{key}" for key in ("choose", which, "principles")]
    told = {*choice, *("model", "principles", "seed")}
    told |= {f"engine.{key}" for key in ("name", "revision", "adapter")}
    others = [
        f"{key}={value}"
        for key, value in own.items()
        if value != default[key] and key not in told and not key.startswith(("sampling", "filter"))
    ]
    engine, date = _engine(manifest, config), str(manifest.get("date", "-"))
    sampling, by = config.sampling, f"sso-data {manifest.get('sso_data', '-')}"
    rows = {
        "model": ", ".join([model, *(one for one in of_model if not one.endswith(" null"))]),
        "engine": engine,
        "prompts from": _sources(manifest),
        "principles": ", ".join([catalogue, *(f"{key}={own[key]}" for key in choice)]),
        "sampling": ", ".join(f"{key}={value}" for key, value in sampling.model_dump().items()),
        "filter": in_words(config.filter),
        "other settings": ", ".join(others) or "the defaults",
        "seed": own["seed"],
        "made by": f"{by}, {date}",
    }
    line = (
        f"{model}, {engine}; principles {catalogue}; temperature {sampling.temperature}, at most "
        f"{sampling.max_tokens} tokens; filter preset {config.filter.preset}; {date}"
    )
    return {"line": line, "rows": [list(row) for row in rows.items()]}


def facts(manifest: Manifest, config: RunConfig) -> dict[str, str]:
    """Return what decided a run, and what made it: settings, fingerprints, versions, prompts."""
    identity = section(manifest, "identity")
    found = settings(config) | {"principles": _catalogue(config)}
    found |= {f"{key} (fingerprint)": str(identity.get(key, "-")) for key in _CONTENTS}
    return found | {
        "views.date": str(identity.get("views.date", found["views.date"])),
        "engine that ran": _engine(manifest, config),
        "sso-data": str(manifest.get("sso_data", "-")),
        "prompts from": _sources(manifest),
    }


def differing(sides: Sequence[Mapping[str, str]]) -> Iterator[list[str]]:
    """Yield [key, value of each side] where the values are not all the same."""
    for key in dict.fromkeys(key for side in sides for key in side):
        values = [side.get(key, "-") for side in sides]
        if len(set(values)) > 1:
            yield [key, *values]


def note_texts(row: Row, texts: Texts) -> None:
    """Take the texts of a row's principles that are a catalogue's, with the wording's number."""
    told = row.steering
    sides = (("good", told.good, told.paraphrase_good), ("bad", told.bad, told.paraphrase_bad))
    for side, of_side, wordings in sides:
        for name, text, number, by in zip(
            told.features, of_side, wordings, told.written_by, strict=False
        ):
            if by == "catalogue":
                texts[name, side, number] = text


def differing_texts(sides: Sequence[Texts]) -> Iterator[list[str]]:
    """Yield [principle and wording, text in each run] where runs have other texts for the same."""
    for key in sorted({key for side in sides for key in side}):
        texts = [side.get(key) for side in sides]
        if len({text for text in texts if text is not None}) > 1:
            name, side, number = key
            yield [
                f"{name}, {side}" + f", wording {number}" * bool(number),
                *(t or "-" for t in texts),
            ]


def _catalogue(config: RunConfig) -> str:
    return clean_name(str(config.principles or CATALOGUES[0]))


def _engine(manifest: Manifest, config: RunConfig) -> str:
    found = section(manifest, "engine")
    words = (str(found[key]) for key in ("name", "version", "device", "dtype") if found.get(key))
    return without_secrets(" ".join(words)) or config.engine.name


def _sources(manifest: Manifest) -> str:
    listed = manifest.get("sources")
    return (
        ", ".join(clean_name(str(one)) for one in listed or ()) if isinstance(listed, list) else "-"
    )
