"""A catalogue made from a plain description: what a model is asked, and what of it will do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from sso_data.chat.interface import Completion, CompletionRequest
from sso_data.core.errors import one_line
from sso_data.core.jinja import Templates
from sso_data.core.records import derive_seed
from sso_data.engines.interface import Refused
from sso_data.steering.answers import answer_of, json_values
from sso_data.steering.principles import Principle
from sso_data.steering.review import review

TEMPLATE = "new_principles.j2"
TOKENS_EACH = 400

_FIELDS = ("name", "adjectives", "meaning", "good", "bad")
_TEXT = {"type": "string"}


@dataclass(slots=True)
class Invention:
    """Principles found so far, and why others were not taken."""

    principles: list[Principle] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.principles]


def invent(
    description: str,
    count: int,
    ask: Callable[[CompletionRequest], Completion | Refused],
    *,
    seed: int,
    templates: Templates,
    attempts: int,
) -> Invention:
    """Ask for principles until there are `count`, at most `attempts` times; keeps all that do."""
    made = Invention()
    for number in range(attempts):
        missing = count - len(made.principles)
        if not missing:
            break
        messages = templates.messages(
            TEMPLATE, description=description, count=missing, taken=made.names
        )
        answer = ask(
            CompletionRequest(
                key=f"principles/{number}",
                messages=messages,
                max_tokens=TOKENS_EACH * (missing + 1),
                seed=derive_seed(seed, description, f"principles/{number}"),
                schema=schema(missing),
            )
        )
        if isinstance(answer, Refused):
            made.refused.append(one_line(answer.detail, 200))
        else:
            _take(answer.text, made, count)
    return made


def schema(count: int) -> dict[str, Any]:
    """The JSON schema of an answer with `count` principles."""
    adjectives = _object(good=_TEXT, bad=_TEXT)
    one = _object(name=_TEXT, adjectives=adjectives, meaning=_TEXT, good=_TEXT, bad=_TEXT)
    return _object(principles={"type": "array", "items": one, "minItems": count, "maxItems": count})


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _take(text: str, made: Invention, count: int) -> None:
    """Add the principles of an answer that are valid beside those that are there."""
    found = False
    for value in json_values(answer_of(text)):
        for candidate in _candidates(value):
            found = True
            reason = _add(candidate, made) if len(made.principles) < count else None
            if reason:
                made.refused.append(reason)
        if found:
            return
    made.refused.append("no JSON object with principles in the answer")


def _candidates(value: Any, depth: int = 0) -> Sequence[dict[str, Any]]:
    """The objects that look like principles."""
    if depth > 3:
        return []
    if isinstance(value, list):
        return [one for part in value for one in _candidates(part, depth + 1)]
    if not isinstance(value, dict):
        return []
    if "good" in value and "name" in value:
        return [value]
    return [one for part in value.values() for one in _candidates(part, depth + 1)]


def _add(candidate: dict[str, Any], made: Invention) -> str | None:
    """Why a candidate is not taken, or None."""
    name = one_line(candidate.get("name", "?"), 80)
    try:
        principle = Principle.model_validate(
            {key: candidate[key] for key in _FIELDS if key in candidate}
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{name}: {place}: {one_line(first['msg'], 120)}"
    errors = [one for one in review([*made.principles, principle]) if one.severity == "error"]
    if errors:
        return f"{name}: {errors[0].text}"
    made.principles.append(principle)
    return None
