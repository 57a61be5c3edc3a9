"""Rows to train on: read, compared with the model, encoded, mixed, and some of them held out."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sso_data.config.run import ViewsConfig
from sso_data.config.training import RewardConfig, SequenceConfig, TrainConfig
from sso_data.core.errors import InputError, TrainError
from sso_data.core.fingerprints import same
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
    `off_policy`: rows were sampled by another model, so that their log-probs do not count.
    """

    train: list[EncodedRow]
    held_out: list[EncodedRow]
    report: EncodeReport
    fingerprint: str
    template_fingerprint: str
    made_by: Counter[tuple[str, str]]
    off_policy: bool

    @property
    def length_ratio(self) -> float:
        """Mean tokens of the chosen responses over that of the rejected ones."""
        sums = [
            sum(len(row.completions[view]) for row in self.train if view in row.completions)
            for view in ("good", "bad")
        ]
        return max(sums[0], 1) / max(sums[1], 1)


def load_data(source: str, policy: PolicyFiles, config: TrainConfig) -> Data:
    """The rows of `source` for this policy.

    Raises InputError for whatever is wrong with them: another model's, columns that the objective
    needs, ids the model does not know, a template that renders otherwise, nothing left.
    """
    report = EncodeReport()
    skip = report.add_malformed if config.data.skip_bad_rows else None
    rows = read_preferences(source, split=config.data.split, limit=config.data.limit, skip=skip)
    first = next(rows)
    sequence = fitting(config.sequence, policy)
    made_by: Counter[tuple[str, str]] = Counter()
    with naming(source):
        encoder = Encoder(
            template=template_for(policy.tokenizer, first, config.views),
            config=sequence,
            terms=terms_of(config.loss).names,
            eos_ids=frozenset(policy.facts.eos_ids),
            vocab_size=policy.facts.vocab_size,
            skip_bad_rows=config.data.skip_bad_rows,
            report=report,
        )
        encoded = encoder.encode(_counted(itertools.chain([first], rows), made_by, policy, config))
    if not encoded and not report.too_long:
        raise InputError(f"{source}: no row is left to train on: {report.malformed_line}")
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
        off_policy=not all(same(policy.fingerprint, found) for _, found in made_by),
    )


def fitting(sequence: SequenceConfig, policy: PolicyFiles) -> SequenceConfig:
    """The sequence settings, no longer than the model's context."""
    longest = min(sequence.max_length, policy.facts.context)
    return sequence.model_copy(update={"max_length": longest})


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Let an InputError name its source."""
    try:
        yield
    except InputError as error:
        message = str(error)
        raise InputError(message if source in message else f"{source}: {message}") from error


def _counted(
    rows: Iterator[JsonRow],
    made_by: Counter[tuple[str, str]],
    policy: PolicyFiles,
    config: TrainConfig,
) -> Iterator[JsonRow]:
    """The rows, counted by the model that made them.

    Raises InputError for a row of another model, unless its references are to be scored again.
    `pairs` is meant for others' rows, too: there `auto` scores them again.
    """
    mode, objective = config.reference.mode, config.loss.objective
    takes_others = mode == "rescore" or (objective == "pairs" and mode == "auto")
    for row in rows:
        if found := row.get("model_fingerprint"):
            made_by[str(row.get("model")), str(found)] += 1
            if not same(found, policy.fingerprint) and not takes_others:
                raise InputError(
                    f"row {row.get('id')}: sampled by {row.get('model')} (fingerprint {found}), "
                    f"but --model {policy.name} is {policy.fingerprint}; train the model that made "
                    "the data, or accept off-policy rows with --ref rescore"
                )
        yield row


def describe(data: Data) -> list[str]:
    """Return what became of the rows, in a line or two."""
    report = data.report
    lines = [
        f"rows {report.rows} = encoded {report.encoded} + too long {report.too_long}"
        + (f" + malformed {report.malformed}" if report.malformed else "")
        + f"; training on {len(data.train)}, {len(data.held_out)} held out"
    ]
    if report.malformed:
        lines.append(report.malformed_line)
    if report.cut_rows:
        lines.append(
            f"{report.cut_responses} responses in {report.cut_rows} rows were cut, "
            f"{report.eos_lost} of them lost their end-of-sequence token"
        )
    if report.without_eos:
        lines.append(f"{report.without_eos} responses have no end-of-sequence token")
    equal = sum(
        np.array_equal(row.completions["good"], row.completions["bad"])
        for row in data.train
        if {"good", "bad"} <= row.completions.keys()
    )
    if equal:
        lines.append(f"{equal} rows have two responses of the same tokens, and no preference")
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


_TEXT_COLUMNS = ("id", "prompt", "chosen", "rejected")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardData:
    """The rows of an epoch, the ones held out, and what became of each set's rows.

    `reports` is in the order own, mix[0], mix[1] ...; `taken` how many training rows an epoch has
    of each.
    """

    rows: Sequence[EncodedRow]
    eval_rows: Sequence[EncodedRow]
    reports: Sequence[EncodeReport]
    taken: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReader:
    """Encodes preference sets for one model: the base term alone.

    `eos_ids` are all end-of-sequence ids of the model, `vocab_size` its number of embeddings.
    """

    tokenizer: Any
    sequences: SequenceConfig
    views: ViewsConfig
    eos_ids: frozenset[int]
    vocab_size: int
    skip_bad_rows: bool = False

    def encode(self, rows: Iterable[JsonRow]) -> tuple[list[EncodedRow], EncodeReport]:
        """The rows that fit; InputError names the first one that is malformed."""
        found = list(rows)
        encoder = Encoder(
            template=template_for(self.tokenizer, found[0] if found else {}, self.views),
            config=self.sequences,
            terms=("base",),
            eos_ids=self.eos_ids,
            vocab_size=self.vocab_size,
            skip_bad_rows=self.skip_bad_rows,
        )
        return encoder.encode(found), encoder.report


def reward_data(
    own: Iterable[JsonRow],
    others: Sequence[Iterable[JsonRow]],
    reader: PairReader,
    config: RewardConfig,
    *,
    eval_share: float = 0.0,
    seed: int = 0,
) -> RewardData:
    """Our pairs, and those of `others` (in the order of `config.mix`), as training rows.

    About `eval_share` of the rows is held out, all of a prompt together and over all sets, so that
    no prompt is on both sides.
    Raises TrainError when nothing is left to train on.
    """
    if config.tokens == "rendered":
        own = ({name: row[name] for name in _TEXT_COLUMNS if name in row} for row in own)
    weights = [config.own_weight, *(part.weight for part in config.mix)]
    encoded = [reader.encode(rows) for rows in (own, *others)]
    sets = [rows for rows, _ in encoded]
    held = held_out_prompts([row for rows in sets for row in rows], eval_share, seed)
    taken = [
        repeated([row for row in rows if _prompt(row) not in held], weight, seed + index)
        for index, (rows, weight) in enumerate(zip(sets, weights, strict=True))
    ]
    data = RewardData(
        rows=[row for rows in taken for row in rows],
        eval_rows=[row for rows in sets for row in rows if _prompt(row) in held],
        reports=[report for _, report in encoded],
        taken=[len(rows) for rows in taken],
    )
    if not data.rows:
        raise TrainError(
            f"no pairs to train on: of {sum(report.rows for report in data.reports)} rows "
            f"{sum(report.too_long for report in data.reports)} are too long; raise max_length"
        )
    return data


def held_out_prompts(rows: Sequence[EncodedRow], share: float, seed: int) -> frozenset[bytes]:
    """Prompts (their ids as bytes) whose rows are about `share` of all, and never all of them.

    A prompt's place in the choice depends on its content and the seed, not on the rows' order.
    """
    counts: dict[bytes, int] = {}
    for row in rows:
        counts[_prompt(row)] = counts.get(_prompt(row), 0) + 1
    order = sorted(counts, key=lambda prompt: hashlib.sha256(b"%d/" % seed + prompt).digest())
    wanted, found = share * len(rows), 0
    held = []
    for prompt in order[:-1]:
        if found >= wanted:
            break
        held.append(prompt)
        found += counts[prompt]
    return frozenset(held)


def repeated(rows: Sequence[EncodedRow], weight: float, seed: int) -> list[EncodedRow]:
    """Each row floor(weight) times, and the rest of the weight as a random choice of rows."""
    whole, rest = divmod(weight, 1.0)
    count = round(rest * len(rows))
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [*rows] * int(whole) + [rows[index] for index in sorted(chosen)]


def _prompt(row: EncodedRow) -> bytes:
    return row.prompts["plain"].tobytes()


def mix_summary(data: RewardData, config: RewardConfig) -> Mapping[str, int]:
    """Training rows of an epoch by the name of their set, for reports and cards."""
    names = ["own", *(part.data for part in config.mix)]
    found: dict[str, int] = {}
    for name, count in zip(names, data.taken, strict=True):
        found[name] = found.get(name, 0) + count
    return found
