"""Frozen records: views, prompts, steering, responses, rows and failures.

A `View` selects the system message that the model sees. A response is `drawn` under one view and
`seen` (scored) under others; a `Cell` is such a pair (seen, drawn). A log-probability is a total in
nats (natural log) over the response's token ids, end-of-sequence included when it was sampled; a
mean is nats/token. In files, *chosen*, *rejected*, *original* are the responses drawn under good,
bad, plain.
"""

import hashlib
import json
import math
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from sso_data.core.errors import RunError

SCHEMA_VERSION = 1

View = Literal["plain", "good", "bad"]
Cell = tuple[View, View]
FinishReason = Literal["stop", "length", "unclosed_thinking"]
Placement = Literal["system", "user", "both"]
"""Where a steered view shows its principles: the system message, the last user turn, or both."""

TEMPORARY = ("engine_refused", "engine_died")
"""Reasons of failures that another try may undo; with the others the same prompt fails again."""

MOST_SAMPLES = 256
"""Most rows of one prompt."""
_FURTHER_SAMPLES = frozenset(str(sample) for sample in range(2, MOST_SAMPLES + 1))
JsonRow = dict[str, Any]
T = TypeVar("T", str, int)

VIEWS: tuple[View, ...] = ("plain", "good", "bad")
STEERED_VIEWS: tuple[View, ...] = ("good", "bad")
FIRST_VIEW: View = "bad"
"""Where a row is asked for step by step, the response that every row has."""
SIDE_OF: Mapping[View, str] = {"good": "chosen", "bad": "rejected", "plain": "original"}
ON_VIEW: tuple[Cell, ...] = tuple((view, view) for view in VIEWS)
ALL_CELLS: tuple[Cell, ...] = tuple((seen, drawn) for seen in VIEWS for drawn in VIEWS)
OPTIONAL_SCORE: Cell = ("good", "plain")
"""y0 seen under good; the loss and the filter do not need it."""
NEEDED_CELLS: tuple[Cell, ...] = tuple(cell for cell in ALL_CELLS if cell != OPTIONAL_SCORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat: `role` is system, user or assistant."""

    role: str
    content: str

    def to_json(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One input prompt.

    `id` is the hash of the messages and an occurrence number, so it does not depend on the
    position; `metadata` is the JSON text of the input's other columns.
    """

    id: str
    messages: tuple[Message, ...]
    source_id: str | None = None
    metadata: str = "{}"

    @property
    def system(self) -> str | None:
        """The user's own system message, if the prompt opens with one."""
        first = self.messages[0] if self.messages else None
        return first.content if first and first.role == "system" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """The principles chosen for a prompt: one good and one bad text per feature.

    `written_by` is the author of each feature's texts: `catalogue`, `policy` or another model.
    `paraphrase_*` is the wording of a catalogue's text: 0 the main one, n the n-th other one.
    `system_template` is the file that renders the texts as system messages. These are empty in rows
    of versions that did not store them.
    `placement` is where the rendered texts stand.
    """

    features: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]
    chosen_by: str
    written_by: tuple[str, ...] = ()
    paraphrase_good: tuple[int, ...] = ()
    paraphrase_bad: tuple[int, ...] = ()
    system_template: str = ""
    placement: Placement = "system"

    def to_json(self) -> JsonRow:
        """Return its fields of a row; empty ones are left out."""
        optional = {
            "written_by": list(self.written_by),
            "paraphrase_good": list(self.paraphrase_good),
            "paraphrase_bad": list(self.paraphrase_bad),
            "system_template": self.system_template,
            "placement": self.placement if self.placement != "system" else "",
        }
        return {
            "principles": list(self.features),
            "chosen_by": self.chosen_by,
            "principles_good": list(self.good),
            "principles_bad": list(self.bad),
            **{name: value for name, value in optional.items() if value},
        }

    @classmethod
    def from_json(cls, row: JsonRow) -> "Steering":
        """Return the steering of a row; raises as `Row.from_json`."""
        more: JsonRow = {"written_by": [], "paraphrase_good": [], "paraphrase_bad": []}
        more |= {"system_template": "", "placement": "system"}
        more |= {name: row[name] for name in more if row.get(name)}
        return cls(
            features=_list(row, "principles", str),
            good=_list(row, "principles_good", str),
            bad=_list(row, "principles_bad", str),
            chosen_by=_typed(row, "chosen_by", str),
            written_by=_list(more, "written_by", str),
            paraphrase_good=_list(more, "paraphrase_good", int),
            paraphrase_bad=_list(more, "paraphrase_bad", int),
            system_template=_typed(more, "system_template", str),
            placement=_one_of(more, "placement", Placement),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A response under one view: token ids as sampled, and their text without control tokens."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One finished prompt: three responses and their log-probs under the views, kept or not.

    `logp` maps (seen, drawn) to total nats; `system` holds the system message of the good and the
    bad view ("": none of its own), `user` what stands at the end of the last user turn there (for
    the placements `user` and `both`); `seed` and `prompt_hash` are per view. `rest_not_asked`: the
    reason that had dropped the row before y+, y0 or some cells were asked for ("": complete).
    """

    id: str
    source_id: str | None
    messages: tuple[Message, ...]
    steering: Steering
    system: Mapping[View, str]
    responses: Mapping[View, Response]
    logp: Mapping[Cell, float]
    seed: Mapping[View, int]
    prompt_hash: Mapping[View, str]
    model: str
    model_fingerprint: str
    template_fingerprint: str
    template_kwargs: str = "{}"
    metadata: str = "{}"
    user: Mapping[View, str] = field(default_factory=dict)
    rest_not_asked: str = ""

    @property
    def sample(self) -> int:
        """Which sample of its prompt the row is, from 1, as its id says."""
        return split_sample(self.id)[1]

    def mean(self, seen: View, drawn: View) -> float:
        """Return `logp.<seen>.<drawn>.mean` in nats per token."""
        return self.logp[seen, drawn] / self.responses[drawn].num_tokens

    def to_json(self) -> JsonRow:
        """Return the row as a flat JSON object, as in the journal."""
        row: JsonRow = {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "source_id": self.source_id,
            **({"sample": self.sample} if self.sample > 1 else {}),
            "prompt": [message.to_json() for message in self.messages],
        }
        sides = [
            (side, self.responses[view]) for view, side in SIDE_OF.items() if view in self.responses
        ]
        for side, response in sides:
            row[side] = [{"role": "assistant", "content": response.text}]
        row |= self.steering.to_json()
        row["system_good"] = self.system["good"]
        row["system_bad"] = self.system["bad"]
        row |= {f"user_{view}": text for view, text in self.user.items() if text}
        for seen, drawn in ALL_CELLS:
            if (seen, drawn) in self.logp:
                row[f"logp_{seen}_{drawn}"] = self.logp[seen, drawn]
        for side, response in sides:
            row[f"{side}_num_tokens"] = response.num_tokens
            row[f"{side}_finish_reason"] = response.finish_reason
            row[f"{side}_token_ids"] = list(response.token_ids)
        for view in VIEWS:
            row[f"seed_{view}"] = self.seed[view]
            row[f"prompt_hash_{view}"] = self.prompt_hash[view]
        for name in ("model", "model_fingerprint", "template_fingerprint"):
            row[name] = getattr(self, name)
        row["template_kwargs"] = self.template_kwargs
        row["metadata"] = self.metadata
        return row | ({"rest_not_asked": self.rest_not_asked} if self.rest_not_asked else {})

    @classmethod
    def from_json(cls, row: JsonRow) -> "Row":
        """Return the row of a journal line or of an outside row.

        Raises KeyError for a missing field, TypeError for one of the wrong type, and RunError for a
        row of a later format.
        """
        _refuse_later_format(row)
        rest = _typed(row, "rest_not_asked", str) if row.get("rest_not_asked") else ""
        sides = {
            view: side
            for view, side in SIDE_OF.items()
            if view == FIRST_VIEW or not rest or row.get(f"{side}_token_ids") is not None
        }
        return cls(
            id=_typed(row, "id", str),
            source_id=None if row["source_id"] is None else _typed(row, "source_id", str),
            messages=messages_from_json(row["prompt"]),
            steering=Steering.from_json(row),
            system={"good": _typed(row, "system_good", str), "bad": _typed(row, "system_bad", str)},
            responses={view: _response(row, side) for view, side in sides.items()},
            logp={
                (seen, drawn): _nats(row, f"logp_{seen}_{drawn}")
                for seen, drawn in ALL_CELLS
                if row.get(f"logp_{seen}_{drawn}") is not None
            },
            seed={view: _typed(row, f"seed_{view}", int) for view in VIEWS},
            prompt_hash={view: _typed(row, f"prompt_hash_{view}", str) for view in VIEWS},
            model=_typed(row, "model", str),
            model_fingerprint=_typed(row, "model_fingerprint", str),
            template_fingerprint=_typed(row, "template_fingerprint", str),
            template_kwargs=_typed(row, "template_kwargs", str),
            metadata=_typed(row, "metadata", str),
            user={
                view: _typed(row, f"user_{view}", str)
                for view in STEERED_VIEWS
                if row.get(f"user_{view}") is not None
            },
            rest_not_asked=rest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A prompt that could not be done: the stage, the reason (one word) and the detail."""

    id: str
    stage: str
    reason: str
    detail: str
    source_id: str | None = None
    messages: tuple[Message, ...] = ()
    metadata: str = "{}"
    attempts: int = 1

    def to_json(self) -> JsonRow:
        return {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "source_id": self.source_id,
            "stage": self.stage,
            "reason": self.reason,
            "detail": self.detail,
            "attempts": self.attempts,
            "prompt": [message.to_json() for message in self.messages],
            "metadata": self.metadata,
        }

    @classmethod
    def from_json(cls, row: JsonRow) -> "Failure":
        """Return the failure of a line of failed.jsonl; raises as `Row.from_json`."""
        _refuse_later_format(row)
        return cls(
            id=_typed(row, "id", str),
            source_id=None if row["source_id"] is None else _typed(row, "source_id", str),
            stage=_typed(row, "stage", str),
            reason=_typed(row, "reason", str),
            detail=_typed(row, "detail", str),
            attempts=_typed(row, "attempts", int),
            messages=messages_from_json(row["prompt"]),
            metadata=_typed(row, "metadata", str),
        )


def messages_from_json(turns: list[dict[str, str]]) -> tuple[Message, ...]:
    """Return the messages of a JSON list of chat turns; raises TypeError if it is not one."""
    if type(turns) is not list:
        raise TypeError("messages are not a list")
    return tuple(
        Message(role=_typed(turn, "role", str), content=_typed(turn, "content", str))
        for turn in turns
    )


def _refuse_later_format(row: JsonRow) -> None:
    """Raise RunError for a record in a later format, and TypeError for what is not an object."""
    if type(row) is not dict:
        raise TypeError("not a JSON object")
    written = row.get("schema_version", SCHEMA_VERSION)
    if type(written) is int and written > SCHEMA_VERSION:
        raise RunError(
            f"row {row.get('id')}: has format {written} of a later sso-data; this version reads "
            f"rows up to format {SCHEMA_VERSION}; upgrade sso-data"
        )


def _typed(row: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = row[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is not {'an integer' if kind is int else 'text'}")
    return value


def _list(row: JsonRow, name: str, kind: type[T]) -> tuple[T, ...]:
    value = row[name]
    if type(value) is not list or not set(map(type, value)) <= {kind}:
        raise TypeError(f"{name} is not a list of {'integers' if kind is int else 'texts'}")
    return tuple(value)


def _one_of(row: JsonRow, name: str, kind: Any) -> Any:
    """Return a field, which must be one of the values of a Literal."""
    if row[name] not in get_args(kind):
        raise TypeError(f"{name} is not one of {', '.join(get_args(kind))}")
    return row[name]


def _nats(row: JsonRow, name: str) -> float:
    value = row[name]
    if type(value) not in (float, int) or not -math.inf < value < math.inf:
        raise TypeError(f"{name} is not a finite number")
    return float(value)


def _response(row: JsonRow, side: str) -> Response:
    """Return the response of one side: 32-bit token ids, and the text of its one message."""
    ids, finish = row[f"{side}_token_ids"], _one_of(row, f"{side}_finish_reason", FinishReason)
    if type(ids) is not list or not set(map(type, ids)) <= {int}:
        raise TypeError(f"{side}_token_ids is not a list of integers")
    if ids and not 0 <= min(ids) <= max(ids) < 2**32:
        raise TypeError(f"{side}_token_ids are not token ids")
    said = messages_from_json(row[side])
    if len(said) != 1:
        raise TypeError(f"{side} is not one message")
    return Response(token_ids=tuple(ids), text=said[0].content, finish_reason=finish)


def content_hash(messages: tuple[Message, ...]) -> str:
    """Return the content part of a row id: 20 hexadecimal digits of the messages' SHA-256."""
    turns = json.dumps([[m.role, m.content] for m in messages], ensure_ascii=True)
    return hashlib.sha256(turns.encode()).hexdigest()[:20]


def row_id(content: str, occurrence: int) -> str:
    """Return a row's id: the content hash and the number of the equal prompt (from 0)."""
    return f"{content}-{occurrence}"


def sample_id(first: str, sample: int) -> str:
    """Return the id of a prompt's n-th sample, from that of its first."""
    return f"{first}.{sample}" if sample > 1 else first


def split_sample(row: str) -> tuple[str, int]:
    """Return the id of a prompt's first sample, and which sample the row is (from 1)."""
    first, dot, number = row.rpartition(".")
    is_further = dot and first and number in _FURTHER_SAMPLES
    return (first, int(number)) if is_further else (row, 1)


def derive_seed(run_seed: int, row: str, purpose: str) -> int:
    """Return a 48-bit seed that depends only on the run's seed, the row and the purpose."""
    digest = hashlib.sha256(f"{run_seed}/{row}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def hash_ids(token_ids: list[int] | tuple[int, ...]) -> str:
    """Return a hash of token ids (as little-endian uint32): 16 hexadecimal digits."""
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return hashlib.sha256(packed).hexdigest()[:16]
