"""`principles new`: a catalogue that a model makes from a plain description."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sso_data.chat.answer_checks import Examples
from sso_data.chat.interface import Completion, CompletionRequest, answer
from sso_data.chat.json_answers import json_values
from sso_data.config.run import RunConfig
from sso_data.core.errors import EngineError, InputError, one_line
from sso_data.core.jinja import Templates
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import derive_seed
from sso_data.engines.interface import Refused
from sso_data.steering.checks import content_problem, review
from sso_data.steering.models import open_writer
from sso_data.steering.principles import (
    Catalogue,
    Principle,
    load_catalogue,
    refuse_existing,
    write_catalogue,
)
from sso_data.steering.rules import TextPair

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

    Those that could be made are written, fewer than `count` too, also where the model fails or the
    process is interrupted; `progress` hears what was wrong with each answer. Raises InputError when
    `out` exists or the description is blank, EngineError when no answer held one that can be used.
    """
    progress = progress or NullProgress()
    description = description.strip()
    if not description:
        raise InputError("no description given: say in a few words what the model will do")
    refuse_existing(out)
    templates = Templates(directory=config.templates)
    templates.check()
    made: list[Principle] = []
    progress.phase(f"opening {config.steering.principle_model or config.model}")
    try:
        with open_writer(config, progress) as model:
            progress.phase(f"asking for {count} principles")
            for number in range(1, ATTEMPTS + 1):
                missing = count - len(made)
                if not missing:
                    break
                progress.count(len(made), count, "principles", f"answer {number}")
                request = _request(description, missing, made, number - 1, config, templates)
                for refused in _take(answer(model, request), missing, made, templates):
                    progress.warn(f"answer {number} of at most {ATTEMPTS}: {refused}")
            progress.count(len(made), count, "principles")
    finally:
        if made:
            write_catalogue(made, out)
        if 0 < len(made) < count:
            progress.note(f"{len(made)} of {count} principles are in {out}")
    if not made:
        raise EngineError(
            f"none of {count} principles could be made of {ATTEMPTS} answers (see the warnings); "
            "ask for fewer with -n, or a stronger model"
        )
    return load_catalogue(out)


def _request(
    description: str,
    missing: int,
    made: list[Principle],
    number: int,
    config: RunConfig,
    templates: Templates,
) -> CompletionRequest:
    """Return the question for the principles that are missing."""
    taken = [one.name for one in made]
    return CompletionRequest(
        key=f"principles/{number}",
        messages=templates.messages(TEMPLATE, description=description, count=missing, taken=taken),
        max_tokens=TOKENS_EACH * (missing + 1),
        seed=derive_seed(config.seed, description, f"principles/{number}"),
        schema=_schema(missing),
    )


def _take(
    reply: Completion | Refused, missing: int, made: list[Principle], templates: Templates
) -> Iterator[str]:
    """Add at most `missing` usable principles of an answer to `made`; yield why others are not."""
    if isinstance(reply, Refused):
        yield one_line(reply.detail, 200)
        return
    found = (list(_candidates(value)) for value in json_values(reply.text))
    candidates = next(filter(None, found), [])
    if not candidates:
        cut = ", it was cut off" if reply.finish_reason == "length" else ""
        yield f"no JSON object with principles in it{cut}: {one_line(reply.text, 80)!r}"
    for candidate in candidates:
        if not missing:
            return
        principle_or_reason = _principle(candidate, made, templates)
        if isinstance(principle_or_reason, Principle):
            made.append(principle_or_reason)
            missing -= 1
        else:
            yield principle_or_reason


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


def _principle(
    candidate: dict[str, Any], others: list[Principle], templates: Templates
) -> Principle | str:
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
    pair = TextPair(good=principle.good, bad=principle.bad)
    if reason := content_problem(pair, "", principle, _examples(templates)):
        return f"{name}: {reason} (docs/principles.md): {one_line(pair.good, 60)!r}"
    errors = [one for one in review([*others, principle]) if one.severity == "error"]
    return f"{name}: {errors[0].text}" if errors else principle


@cache
def _examples(templates: Templates) -> Examples:
    """Return the examples that the question shows."""
    return Examples([templates.messages(TEMPLATE, description="", count=1, taken=[])])
