"""Rows to train on: read, compared with the model, encoded, and some of them held out."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sso_data.config.training import TrainConfig
from sso_data.core.errors import InputError
from sso_data.core.records import JsonRow
from sso_data.models.training_model import PolicyFiles
from sso_data.prompts.preferences import read_preferences
from sso_data.training.encode import EncodedRow, Encoder, EncodeReport, template_for
from sso_data.training.loss import terms_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Encoded rows for training and evaluation.

    `fingerprint`: 16 hexadecimal digits over every token id and recorded log-prob, in order.
    `made_by` counts the rows of each (model, its fingerprint); empty for sets from elsewhere.
    `foreign_model`: rows were sampled by another model, so that their log-probs do not count.
    """

    train: list[EncodedRow]
    held_out: list[EncodedRow]
    report: EncodeReport
    fingerprint: str
    template_fingerprint: str
    made_by: Counter[tuple[str, str]]
    foreign_model: bool

    @property
    def length_ratio(self) -> float:
        """Mean tokens of the chosen responses over that of the rejected ones."""
        sums = [
            sum(len(row.completions[view]) for row in self.train if view in row.completions)
            for view in ("good", "bad")
        ]
        return sums[0] / max(sums[1], 1)


def load_data(source: str, policy: PolicyFiles, config: TrainConfig) -> Data:
    """The rows of `source` for this policy.

    Raises InputError for whatever is wrong with them: another model's, columns that the objective
    needs, ids the model does not know, a template that renders otherwise, nothing left.
    """
    rows = read_preferences(source, split=config.data.split, limit=config.data.limit)
    first = next(rows)
    context = policy.facts.context
    sequence = config.sequence.model_copy(
        update={"max_length": min(config.sequence.max_length, context)}
    )
    made_by: Counter[tuple[str, str]] = Counter()
    try:
        encoder = Encoder(
            template=template_for(policy.tokenizer, first, config.views),
            config=sequence,
            contrasts=terms_of(config.loss).contrasts,
            eos_ids=frozenset(policy.facts.eos_ids),
            vocab_size=policy.facts.vocab_size,
        )
        encoded = encoder.encode(_counted(itertools.chain([first], rows), made_by, policy, config))
    except InputError as error:
        message = str(error)
        raise InputError(message if source in message else f"{source}: {message}") from error
    if not encoded:
        raise InputError(
            f"{source}: none of {encoder.report.rows} rows fits sequence.max_length "
            f"{sequence.max_length} tokens; raise it, or --set sequence.too_long=truncate"
        )
    if config.data.order == "id":
        encoded.sort(key=lambda row: row.id)
    train, held_out = _split(encoded, config.data.eval_share)
    if not train:
        raise InputError(f"{source}: every row is held out; lower data.eval_share")
    return Data(
        train=train,
        held_out=held_out,
        report=encoder.report,
        fingerprint=fingerprint_of(encoded),
        template_fingerprint=encoder.template.fingerprint,
        made_by=made_by,
        foreign_model=any(fingerprint != policy.fingerprint for _, fingerprint in made_by),
    )


def _counted(
    rows: Iterator[JsonRow],
    made_by: Counter[tuple[str, str]],
    policy: PolicyFiles,
    config: TrainConfig,
) -> Iterator[JsonRow]:
    """The rows, each checked to be of this policy where the objective wants that."""
    for row in rows:
        if found := row.get("model_fingerprint"):
            made_by[str(row.get("model")), str(found)] += 1
            if found != policy.fingerprint:
                _refuse_stranger(row, policy, config)
        yield row


def _refuse_stranger(row: JsonRow, policy: PolicyFiles, config: TrainConfig) -> None:
    """InputError for a row of another model, unless its references are to be scored anew.

    `pairs` is meant for others' rows, too: there `auto` scores them anew.
    """
    mode, objective = config.reference.mode, config.loss.objective
    if mode == "rescore" or (objective == "pairs" and mode == "auto"):
        return
    raise InputError(
        f"row {row.get('id')}: sampled by {row.get('model')} (fingerprint "
        f"{row['model_fingerprint']}), but --model {policy.name} is {policy.fingerprint}; train "
        "the model that made the data, or accept off-policy rows with --ref rescore"
    )


def without_references(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """The rows with no recorded log-probs: another model's do not count."""
    return [replace(row, ref_CS=np.full_like(row.ref_CS, np.nan)) for row in rows]


def describe(data: Data) -> list[str]:
    """What became of the rows, in a line or two."""
    report = data.report
    lines = [
        f"rows {report.rows} = encoded {report.encoded} + too long {report.too_long}; "
        f"training on {len(data.train)}, {len(data.held_out)} held out"
    ]
    if report.cut_rows:
        lines.append(
            f"{report.cut_responses} responses in {report.cut_rows} rows were cut, "
            f"{report.eos_lost} of which had ended by themselves"
        )
    if report.without_eos:
        lines.append(f"{report.without_eos} responses have no end-of-sequence token")
    return lines


_VIEW_ORDER = ("plain", "good", "bad")


def _split(rows: list[EncodedRow], share: float) -> tuple[list[EncodedRow], list[EncodedRow]]:
    """(training, held out); a row's side depends on its prompt alone."""
    train: list[EncodedRow] = []
    held_out: list[EncodedRow] = []
    for row in rows:
        prompt = row.prompts[min(row.prompts, key=_VIEW_ORDER.index)]
        digest = hashlib.sha256(b"held out/" + prompt.tobytes()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        (held_out if place < share else train).append(row)
    return train, held_out


def fingerprint_of(rows: Sequence[EncodedRow]) -> str:
    """16 hexadecimal digits over ids, tokens and recorded log-probs of rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.id.encode() + row.ref_CS.tobytes())
        for part in (row.prompts, row.completions):
            for view in sorted(part):
                ids = part[view]
                digest.update(f"{view}{len(ids)}".encode() + ids.tobytes())
    return digest.hexdigest()[:16]
