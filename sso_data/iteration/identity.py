"""Who an iteration is: everything that decides the weights that come out of it, flat.

Left out is what may change between an interruption and its continuation: how many rounds there are,
where files lie, who judges and when it stops, and what only changes speed, memory or output.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sso_data.config.iteration import IterateConfig
from sso_data.config.run import VLLM_SPEED_KEYS
from sso_data.core.jinja import Templates
from sso_data.models.directory import model_fingerprint, resolve_model
from sso_data.steering.models import identity_of as steering_identity
from sso_data.steering.principles import load_catalogue
from sso_data.steering.rules import Rules

_FREE = re.compile(
    r"(title|reproduces|rounds|model|prompts|launcher|held_out|stop)\b.*"
    r"|labelled\.data"
    r"|generate\.(model|seed|principles|templates|output\..*)"
    r"|generate\.engine\.(?!name$|dtype$|max_model_len$|revision$|vllm\.).*"
    rf"|generate\.engine\.vllm\.({'|'.join(sorted(VLLM_SPEED_KEYS))})"
    r"|(generator\.)?train\.(model|seed|stop\..*|log\..*)"
    r"|(generator\.)?train\.optim\.(micro_batch_rows|gradient_checkpointing)"
    r"|(generator\.)?train\.checkpoints\.(every|keep|keep_finished)"
)


def identity_of(config: IterateConfig, fingerprint: str) -> dict[str, Any]:
    """The identity of an iteration whose first policy has this fingerprint.

    Raises SsoDataError where the catalogue or the templates cannot be read.
    """
    dumped = config.model_dump(mode="json", exclude=_without(config))
    flat = {key: value for key, value in _flat(dumped, "") if not _FREE.fullmatch(key)}
    found = {"model": fingerprint, **flat}
    if not config.labelled:
        catalogue = load_catalogue(config.generate.principles)
        templates = Templates(directory=config.generate.templates)
        rules = Rules(
            config=config.generate.steering, catalogue=catalogue, seed=0, templates=templates
        )
        found["principles"] = catalogue.fingerprint
        found["templates"] = steering_identity(rules)["templates"]
    return found


def fingerprint_at(path: str | Path, revision: str | None = None) -> str:
    """The fingerprint of a model directory or Hub id; ModelError where it is none."""
    return model_fingerprint(resolve_model(str(path), revision))


def _without(config: IterateConfig) -> set[str]:
    """Sections without effect: nothing is generated where pairs are labelled."""
    return {"generate"} if config.labelled else set()


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every key; an empty section is a value, so that it is not lost."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
