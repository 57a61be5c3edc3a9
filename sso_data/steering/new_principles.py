"""`principles new`: a catalogue that a model makes from a plain description."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sso_data.chat.interface import CompletionRequest, answer
from sso_data.chat.json_answers import json_values
from sso_data.config.run import RunConfig
from sso_data.core.errors import EngineError, InputError, one_line
from sso_data.core.jinja import Templates
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import derive_seed
from sso_data.engines.interface import Refused
from sso_data.steering.checks import review
from sso_data.steering.models import open_writer
from sso_data.steering.principles import (
    Catalogue,
    Principle,
    load_catalogue,
    refuse_existing,
    write_catalogue,
)

TEMPLATE = "new_principles.j2"
TOKENS_EACH = 400
ATTEMPTS = 6

_FIELDS = ("name", "adjectives", "meaning", "good", "bad")
_MAX_DEPTH = 3


def new_catalogue(
    description: str,
    count: int,
    out: Path,
    config: RunConfig,
    progress: Progress | None = None,
) -> Catalogue:
    """Ask for `count` principles of the described job and write them to the new directory `out`.

    Either all of them are written or nothing is. Raises InputError when `out` exists or the
    description is blank, EngineError when the answers did not hold enough that can be used.
    """
    progress = progress or NullProgress()
    description = description.strip()
    if not description:
        raise InputError("no description given: say in a few words what the model will do")
    refuse_existing(out)
    templates = Templates(directory=config.templates)
    templates.check()
    made: list[Principle] = []
    refused: list[str] = []  # why others were not taken
    progress.phase(f"asking for {count} principles")
    with open_writer(config, tell=progress.warn) as model:
        for number in range(ATTEMPTS):
            missing = count - len(made)
            if not missing:
                break
            taken = [one.name for one in made]
            request = CompletionRequest(
                key=f"principles/{number}",
                messages=templates.messages(
                    TEMPLATE, description=description, count=missing, taken=taken
                ),
                max_tokens=TOKENS_EACH * (missing + 1),
                seed=derive_seed(config.seed, description, f"principles/{number}"),
                schema=_schema(missing),
            )
            reply = answer(model, request)
            if isinstance(reply, Refused):
                refused.append(one_line(reply.detail, 200))
                continue
            found = (list(_candidates(value)) for value in json_values(reply.text))
            candidates = next(filter(None, found), [])
            if not candidates:
                refused.append("no JSON object with principles in the answer")
            for candidate in candidates:
                if len(made) == count:
                    break
                principle_or_reason = _principle(candidate, made)
                if isinstance(principle_or_reason, Principle):
                    made.append(principle_or_reason)
                else:
                    refused.append(principle_or_reason)
    if len(made) < count:
        last = f" (last problem: {refused[-1]})" if refused else ""
        raise EngineError(
            f"only {len(made)} of {count} principles are valid after {ATTEMPTS} answers"
            f"{last}; ask for fewer with -n, or a stronger model"
        )
    write_catalogue(made, out)
    return load_catalogue(out)


def _schema(count: int) -> dict[str, Any]:
    """Return the JSON schema of an answer with `count` principles."""

    def exact(**properties: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    text = {"type": "string"}
    one = exact(name=text, adjectives=exact(good=text, bad=text), meaning=text, good=text, bad=text)
    return exact(principles={"type": "array", "items": one, "minItems": count, "maxItems": count})


def _candidates(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the objects in a JSON value that look like principles."""
    if depth > _MAX_DEPTH or not isinstance(value, list | dict):
        return
    if isinstance(value, dict) and "good" in value and "name" in value:
        yield value
        return
    for part in value.values() if isinstance(value, dict) else value:
        yield from _candidates(part, depth + 1)


def _principle(candidate: dict[str, Any], others: list[Principle]) -> Principle | str:
    """Return the principle of a candidate that is valid with the others, or why it is not."""
    name = one_line(candidate.get("name", "?"), 80)
    try:
        principle = Principle.model_validate(
            {key: candidate[key] for key in _FIELDS if key in candidate}
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{name}: {place}: {one_line(first['msg'], 120)}"
    errors = [one for one in review([*others, principle]) if one.severity == "error"]
    return f"{name}: {errors[0].text}" if errors else principle
