"""The words of the house: views, prompts, responses, rows and failures, as frozen records.

`view` says which system message the model sees. A response is `drawn` under one view and `seen`
(scored) under others; a `Cell` is such a pair. A log-probability is a total in nats (natural log)
over the response's token ids, end-of-sequence included when it was sampled; a mean is nats/token.
*chosen*, *rejected*, *original* name, in files, the responses drawn under good, bad, plain.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sso_data.core.errors import RunError

SCHEMA_VERSION = 1

View = Literal["plain", "good", "bad"]
Cell = tuple[View, View]
FinishReason = Literal["stop", "length", "unclosed_thinking"]
JsonRow = dict[str, Any]

VIEWS: tuple[View, ...] = ("plain", "good", "bad")
SIDE_OF: Mapping[View, str] = {"good": "chosen", "bad": "rejected", "plain": "original"}
ON_VIEW: tuple[Cell, ...] = tuple((view, view) for view in VIEWS)
ALL_CELLS: tuple[Cell, ...] = tuple((seen, drawn) for seen in VIEWS for drawn in VIEWS)
OPTIONAL_SCORE: Cell = ("good", "plain")
"""y0 seen under good: neither the loss nor the filter needs it."""
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
    """One prompt that came in.

    `id` is content (hash of the messages + occurrence number), never position; `metadata` is the
    JSON text of the input's other columns.
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

    `written_by` names per feature who wrote its texts: `catalogue`, `policy` or another model. Of a
    catalogue's text, `paraphrase_*` says which wording it is: 0 the main one, n the n-th other one.
    `system_template` is the file that made the system messages of the texts. These are empty in
    rows that do not tell.
    """

    features: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]
    chosen_by: str
    written_by: tuple[str, ...] = ()
    paraphrase_good: tuple[int, ...] = ()
    paraphrase_bad: tuple[int, ...] = ()
    system_template: str = ""

    def to_json(self) -> JsonRow:
        """Its part of a row, under the names that it has there; what is empty is left out."""
        told = {
            "written_by": list(self.written_by),
            "paraphrase_good": list(self.paraphrase_good),
            "paraphrase_bad": list(self.paraphrase_bad),
            "system_template": self.system_template,
        }
        return {
            "principles": list(self.features),
            "chosen_by": self.chosen_by,
            "principles_good": list(self.good),
            "principles_bad": list(self.bad),
            **{name: value for name, value in told.items() if value},
        }

    @classmethod
    def from_json(cls, row: JsonRow) -> "Steering":
        """The steering of a row; KeyError and TypeError as for a row."""
        return cls(
            features=_texts(row, "principles"),
            good=_texts(row, "principles_good"),
            bad=_texts(row, "principles_bad"),
            chosen_by=_text(row, "chosen_by"),
            written_by=_texts(row, "written_by") if row.get("written_by") else (),
            paraphrase_good=_integers(row, "paraphrase_good"),
            paraphrase_bad=_integers(row, "paraphrase_bad"),
            system_template=_text(row, "system_template") if row.get("system_template") else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the model said under one view: ids as sampled, and their text without control tokens."""

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
    bad view; `seed` and `prompt_hash` are per view.
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

    def mean(self, seen: View, drawn: View) -> float:
        """`logp.<seen>.<drawn>.mean` in nats per token."""
        return self.logp[seen, drawn] / self.responses[drawn].num_tokens

    def to_json(self) -> JsonRow:
        """The journal's line: flat, JSON-able, the same names as the outside row."""
        row: JsonRow = {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "source_id": self.source_id,
            "prompt": [message.to_json() for message in self.messages],
        }
        for view, side in SIDE_OF.items():
            row[side] = [{"role": "assistant", "content": self.responses[view].text}]
        row |= self.steering.to_json()
        row["system_good"] = self.system["good"]
        row["system_bad"] = self.system["bad"]
        for seen, drawn in ALL_CELLS:
            if (seen, drawn) in self.logp:
                row[f"logp_{seen}_{drawn}"] = self.logp[seen, drawn]
        for view, side in SIDE_OF.items():
            response = self.responses[view]
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
        return row

    @classmethod
    def from_json(cls, row: JsonRow) -> "Row":
        """The row of a journal line or of an outside row.

        KeyError names what is missing, TypeError what is of the wrong kind. Raises RunError for a
        row of a later format.
        """
        _refuse_later_format(row)
        return cls(
            id=_text(row, "id"),
            source_id=None if row["source_id"] is None else _text(row, "source_id"),
            messages=messages_from_json(row["prompt"]),
            steering=Steering.from_json(row),
            system={"good": _text(row, "system_good"), "bad": _text(row, "system_bad")},
            responses={view: _response(row, side) for view, side in SIDE_OF.items()},
            logp={
                (seen, drawn): _nats(row, f"logp_{seen}_{drawn}")
                for seen, drawn in ALL_CELLS
                if row.get(f"logp_{seen}_{drawn}") is not None
            },
            seed={view: _integer(row, f"seed_{view}") for view in VIEWS},
            prompt_hash={view: _text(row, f"prompt_hash_{view}") for view in VIEWS},
            model=_text(row, "model"),
            model_fingerprint=_text(row, "model_fingerprint"),
            template_fingerprint=_text(row, "template_fingerprint"),
            template_kwargs=_text(row, "template_kwargs"),
            metadata=_text(row, "metadata"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One prompt that could not be done: the stage, the reason (one word) and the detail."""

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
        """The failure of one line of failed.jsonl; raises as for a row."""
        _refuse_later_format(row)
        return cls(
            id=_text(row, "id"),
            source_id=None if row["source_id"] is None else _text(row, "source_id"),
            stage=_text(row, "stage"),
            reason=_text(row, "reason"),
            detail=_text(row, "detail"),
            attempts=_integer(row, "attempts"),
            messages=messages_from_json(row["prompt"]),
            metadata=_text(row, "metadata"),
        )


def messages_from_json(turns: list[dict[str, str]]) -> tuple[Message, ...]:
    """Chat turns as they stand in a file, as records; TypeError when they are something else."""
    if type(turns) is not list:
        raise TypeError("messages that are no list")
    return tuple(
        Message(role=_text(turn, "role"), content=_text(turn, "content")) for turn in turns
    )


def _refuse_later_format(row: JsonRow) -> None:
    """Raise RunError for a record that a later version of sso-data wrote in another format."""
    if type(row) is not dict:
        raise TypeError("not a JSON object")
    written = row.get("schema_version", SCHEMA_VERSION)
    if type(written) is int and written > SCHEMA_VERSION:
        raise RunError(
            f"row {row.get('id')}: has format {written} of a later sso-data; this version reads "
            f"rows up to format {SCHEMA_VERSION}; upgrade sso-data"
        )


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if type(value) is not str:
        raise TypeError(f"{name} is no text")
    return value


def _texts(row: JsonRow, name: str) -> tuple[str, ...]:
    value = row[name]
    if type(value) is not list or not set(map(type, value)) <= {str}:
        raise TypeError(f"{name} is no list of texts")
    return tuple(value)


def _integer(row: JsonRow, name: str) -> int:
    value = row[name]
    if type(value) is not int:
        raise TypeError(f"{name} is no integer")
    return value


def _integers(row: JsonRow, name: str) -> tuple[int, ...]:
    """A list of integers; empty where there is none."""
    value = row.get(name) or []
    if type(value) is not list or not set(map(type, value)) <= {int}:
        raise TypeError(f"{name} is no list of integers")
    return tuple(value)


def _nats(row: JsonRow, name: str) -> float:
    value = row[name]
    if type(value) not in (float, int) or not -math.inf < value < math.inf:
        raise TypeError(f"{name} is no finite number")
    return float(value)


def _response(row: JsonRow, side: str) -> Response:
    """The response of one side: its ids are 32-bit numbers, its text stands in one message."""
    ids, finish = row[f"{side}_token_ids"], row[f"{side}_finish_reason"]
    if type(ids) is not list or not set(map(type, ids)) <= {int}:
        raise TypeError(f"{side}_token_ids is no list of integers")
    if ids and not 0 <= min(ids) <= max(ids) < 2**32:
        raise TypeError(f"{side}_token_ids are no token ids")
    if finish not in get_args(FinishReason):
        raise TypeError(f"{side}_finish_reason is none of {', '.join(get_args(FinishReason))}")
    said = messages_from_json(row[side])
    if len(said) != 1:
        raise TypeError(f"{side} is not one message")
    return Response(token_ids=tuple(ids), text=said[0].content, finish_reason=finish)


def content_hash(messages: tuple[Message, ...]) -> str:
    """The content part of a row id: 20 hexadecimal digits (80 bits) of the messages' SHA-256."""
    turns = json.dumps([[m.role, m.content] for m in messages], ensure_ascii=True)
    return hashlib.sha256(turns.encode()).hexdigest()[:20]


def row_id(content: str, occurrence: int) -> str:
    """A row's identity: the content hash, and which of the equal prompts it is (from 0)."""
    return f"{content}-{occurrence}"


def derive_seed(run_seed: int, row: str, purpose: str) -> int:
    """A 48-bit seed that depends on nothing but the run's seed, the row and the purpose."""
    digest = hashlib.sha256(f"{run_seed}/{row}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def hash_ids(token_ids: list[int] | tuple[int, ...]) -> str:
    """A hash of token ids (as little-endian uint32): 16 hexadecimal digits."""
    packed = b"".join(token.to_bytes(4, "little") for token in token_ids)
    return hashlib.sha256(packed).hexdigest()[:16]
