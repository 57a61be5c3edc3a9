"""Rows to token ids: responses as sampled, prompts rendered again and checked by their hash."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sso_data.config.run import ViewsConfig
from sso_data.config.training import SequenceConfig
from sso_data.core.errors import InputError
from sso_data.core.records import SIDE_OF, JsonRow, Message, View, content_hash, hash_ids
from sso_data.prompts.rows import CORRECT_OR_SKIP, unanswerable
from sso_data.templating.chat_template import (
    ChatTemplate,
    Unrenderable,
    reserved,
    steered_turns,
    today,
)
from sso_data.templating.external_rows import preference_of, sequence_ids, turns_of
from sso_data.training.loss import (
    DRAWN,
    PREFERENCE_TERMS,
    SEEN,
    PreferenceTerm,
)

Ids = NDArray[np.int32]
_DAYS_BACK = 3650


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedRow:
    """One row as training sees it: prompts by view, responses by the view they were drawn under.

    `ref_CS` are total nats of the reference policy, float64 [3, 2] in the order of PREFERENCE_TERMS
    and (preferred, other); NaN where the row has none. `cut`: responses lost their ends, so
    recorded log-probs do not fit them.
    """

    id: str
    prompts: Mapping[View, Ids]
    completions: Mapping[View, Ids]
    ref_CS: NDArray[np.float64]  # noqa: N815 - shape letters
    cut: bool = False

    def sequence(self, term: PreferenceTerm, side: int) -> tuple[Ids, Ids]:
        """Prompt and response of a term's preferred (0) or other (1) side."""
        return self.prompts[SEEN[term]], self.completions[DRAWN[term][side]]

    def length(self, terms: Sequence[PreferenceTerm]) -> int:
        """Tokens of the longest sequence."""
        pairs = [self.sequence(name, side) for name in terms for side in (0, 1)]
        return max(len(prompt) + len(completion) for prompt, completion in pairs)


@dataclass(slots=True, kw_only=True)
class EncodeReport:
    """Counts of what became of the rows: `rows = encoded + too_long + malformed`.

    `cut_rows` of the encoded ones were truncated, with `cut_responses` responses in them, of which
    `eos_lost` lost their end-of-sequence token; `without_eos`: responses that never had one.
    """

    rows: int = 0
    encoded: int = 0
    too_long: int = 0
    cut_rows: int = 0
    cut_responses: int = 0
    eos_lost: int = 0
    without_eos: int = 0
    malformed: int = 0
    first_malformed: str = ""

    def add_malformed(self, detail: str) -> None:
        """Count a row that holds no pair that can be rendered; `detail` says where and why."""
        self.rows += 1
        self.malformed += 1
        self.first_malformed = self.first_malformed or detail

    @property
    def malformed_line(self) -> str:
        return f"{self.malformed} malformed rows left out; first: {self.first_malformed}"

    def to_json(self) -> dict[str, int]:
        return {name: count for name, count in asdict(self).items() if isinstance(count, int)}


@dataclass(slots=True, kw_only=True)
class Encoder:
    """Encodes rows for the given terms, and counts; InputError names the first bad row.

    `vocab_size` is the model's: ids beyond it are refused.
    """

    template: ChatTemplate
    config: SequenceConfig
    terms: Sequence[PreferenceTerm]
    eos_ids: frozenset[int]
    vocab_size: int
    skip_bad_rows: bool = False
    report: EncodeReport = field(default_factory=EncodeReport)

    def encode(self, rows: Iterable[JsonRow]) -> list[EncodedRow]:
        """Return the rows that fit, in their order.

        Raises InputError that names a row which is malformed, unless those are skipped.
        """
        fitted = []
        for number, row in enumerate(rows, start=1):
            where = f"row {row.get('id') or number}"
            is_own = row.get("chosen_token_ids") is not None
            try:
                encoded = self._own(row, where) if is_own else self._external(row, where)
            except (KeyError, Unrenderable, InputError) as error:
                what = f"no column {error}" if isinstance(error, KeyError) else str(error)
                detail = what if isinstance(error, InputError) else f"{where}: {what}"
                if is_own or not self.skip_bad_rows:
                    remedy = "" if is_own or "; " in detail else f"; {CORRECT_OR_SKIP}"
                    raise InputError(f"{detail}{remedy}") from error
                self.report.add_malformed(detail)
                continue
            self.report.rows += 1
            if (found := self._fitted(encoded)) is not None:
                fitted.append(found)
        return fitted

    def _own(self, row: JsonRow, where: str) -> EncodedRow:
        """A row of ours: ids as sampled, each view checked against its `prompt_hash`."""
        if isinstance(row["prompt"], str):
            raise _wrong(where, "prompt", row["prompt"], "a list of messages")
        messages = turns_of(row["prompt"], "user", where)
        seen = {SEEN[name] for name in self.terms}
        drawn = {view for name in self.terms for view in DRAWN[name]}
        return EncodedRow(
            id=str(typed(row, "id", (str, int), where)),
            prompts={view: self._prompt(row, view, messages, where) for view in seen},
            completions={
                view: self._known_ids(token_ids(row, f"{SIDE_OF[view]}_token_ids", where), where)
                for view in drawn
            },
            ref_CS=recorded_nats(row, self.terms, where),
        )

    def _prompt(self, row: JsonRow, view: View, messages: tuple[Message, ...], where: str) -> Ids:
        turns = messages
        if view != "plain":
            system = typed(row, f"system_{view}", (str,), where)
            end = f"user_{view}"
            user = typed(row, end, (str,), where) if row.get(end) is not None else ""
            turns = steered_turns(messages, system, user)
        ids = self.template.ids(turns)
        self._known_ids(ids, where)
        if hash_ids(ids) != typed(row, f"prompt_hash_{view}", (str,), where):
            raise InputError(
                f"{where}: its {view} prompt renders to different token ids than when it was "
                f"sampled (template {row.get('template_fingerprint')}, here "
                f"{self.template.fingerprint}); use the tokenizer and template of the model that "
                f"made the data ({row.get('model')})"
            )
        return np.asarray(ids, np.int32)

    def _external(self, row: JsonRow, where: str) -> EncodedRow:
        """A preference row without token ids: prompt, chosen and rejected, rendered here."""
        if any(name != "base" for name in self.terms):
            self.skip_bad_rows = False  # no row of such a set can train
            raise InputError(
                f"{where}: has no token ids (chosen_token_ids ...), so it cannot train with SSO; "
                "use --objective pairs, or data made by `sso-data generate`"
            )
        messages, chosen, rejected = preference_of(row, where)
        if problem := unanswerable(messages):
            raise InputError(f"{where}: its prompt cannot be answered: {problem[1]}")
        if self.template.is_rendered(messages[-1].content):
            raise InputError(
                f"{where}: its prompt is rendered by a chat template already; give messages, or "
                "the text alone"
            )
        prompt, said = sequence_ids(self.template, messages, (chosen, rejected), self.eos_ids)
        self._known_ids(prompt, where)
        good, bad = (self._known_ids(ids, where) for ids in said)
        completions: dict[View, Ids] = {"good": good, "bad": bad}
        return EncodedRow(
            id=str(row.get("id") or content_hash((*messages, *chosen, *rejected))),
            prompts={"plain": np.asarray(prompt, np.int32)},
            completions=completions,
            ref_CS=np.full((len(PREFERENCE_TERMS), 2), np.nan),
        )

    def _known_ids(self, ids: Sequence[int] | NDArray[np.int64], where: str) -> Ids:
        if not len(ids):
            raise InputError(f"{where}: a response has no tokens")
        found = np.asarray(ids, np.int64)
        if found.min() < 0 or found.max() >= self.vocab_size:
            raise InputError(
                f"{where}: token id {found.max()} is not in the model's vocabulary of "
                f"{self.vocab_size}; train the model that made the data"
            )
        return found.astype(np.int32)

    def _fitted(self, row: EncodedRow) -> EncodedRow | None:
        """The row with sequences of at most max_length tokens, or None when it is dropped.

        One budget for all views (max_length less the longest prompt), so that a response is the
        same ids wherever it is seen.
        """
        report, most = self.report, self.config.max_length
        ended = {view: int(ids[-1]) in self.eos_ids for view, ids in row.completions.items()}
        if row.length(self.terms) > most:
            budget = most - max(map(len, row.prompts.values()))
            if self.config.too_long == "drop" or budget < 1:
                report.too_long += 1
                return None
            long = [view for view, ids in row.completions.items() if len(ids) > budget]
            row = EncodedRow(
                id=row.id,
                prompts=row.prompts,
                completions={view: ids[:budget] for view, ids in row.completions.items()},
                ref_CS=np.full_like(row.ref_CS, np.nan),
                cut=True,
            )
            if long:
                report.cut_rows += 1
                report.cut_responses += len(long)
                report.eos_lost += sum(ended[view] for view in long)
        report.encoded += 1
        report.without_eos += sum(not done for done in ended.values())
        return row


def typed(row: JsonRow, column: str, kinds: tuple[type, ...], where: str) -> Any:
    """A column's value, if it is one of `kinds`; KeyError when there is no such column."""
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise _wrong(where, column, value, " or ".join(kind.__name__ for kind in kinds))
    return value


def token_ids(row: JsonRow, column: str, where: str) -> NDArray[np.int64]:
    """A column of token ids; InputError when it is anything but a flat list of integers."""
    value = typed(row, column, (list, tuple, np.ndarray), where)
    try:
        ids = np.asarray(value)
    except ValueError as error:  # lists of several lengths
        raise _wrong(where, column, value, "a list of token ids") from error
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise _wrong(where, column, value, "a list of token ids")
    return ids.astype(np.int64)


def _wrong(where: str, column: str, value: Any, wanted: str) -> InputError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return InputError(f"{where}: column {column!r} must be {wanted} (got {shown})")


def recorded_nats(row: JsonRow, terms: Sequence[PreferenceTerm], where: str) -> NDArray[np.float64]:
    """The row's `logp_<seen>_<drawn>` (nats) in the places of `EncodedRow.ref_CS`; NaN: missing.

    Raises InputError, which names `where`, for a value that is no log-probability.
    """
    found = np.full((len(PREFERENCE_TERMS), 2), np.nan)
    for name in terms:
        for side, drawn in enumerate(DRAWN[name]):
            column = f"logp_{SEEN[name]}_{drawn}"
            if row.get(column) is None:
                continue
            value = typed(row, column, (float, int), where)
            if not -np.inf < value <= 0:
                raise InputError(f"{where}: {column} is {value}, not a log-probability")
            found[PREFERENCE_TERMS.index(name), side] = value
    return found


def _template_kwargs(row: JsonRow) -> dict[str, Any]:
    """The template arguments that a row was made with; none in rows from elsewhere.

    Raises InputError for those with which data could choose the template.
    """
    value = row.get("template_kwargs") or "{}"
    where = f"row {row.get('id') or 1}"
    try:
        found = json.loads(value)
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _wrong(where, "template_kwargs", value, "a JSON object as text")
    if name := reserved(found):
        raise InputError(f"{where}: column 'template_kwargs' must not set {name!r}")
    return found


def template_for(tokenizer: Any, row: JsonRow, config: ViewsConfig) -> ChatTemplate:
    """The chat template as it was when `row` was made: the row's arguments and date.

    A template that shows the date is tried with past days until its fingerprint is the row's;
    where none fits, or `config` names a date, the hash of the prompts decides later. Raises
    InputError for a row's template arguments that are not allowed.
    """
    kwargs = {**_template_kwargs(row), **config.template_kwargs}
    config = config.model_copy(update={"template_kwargs": kwargs})
    template = ChatTemplate(tokenizer, config, today=today())
    if template.holds_control(str(row.get("template_kwargs") or "")):
        raise InputError(
            f"row {row.get('id') or 1}: column 'template_kwargs' holds the text of a control token"
        )
    wanted = row.get("template_fingerprint")
    if template.facts.date is None or config.date or wanted in (None, template.fingerprint):
        return template
    last = date.fromisoformat(today())
    for days in range(1, _DAYS_BACK):
        older = ChatTemplate(tokenizer, config, today=(last - timedelta(days=days)).isoformat())
        if older.fingerprint == wanted:
            return older
    return template
