"""Several preference sets as one: how often each row is taken, and which prompts are held out."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sso_data.config.loss import SequenceConfig
from sso_data.config.reward import RewardConfig
from sso_data.config.run import ViewsConfig
from sso_data.core.records import JsonRow
from sso_data.training.encode import EncodedRow, Encoder, EncodeReport, template_for
from sso_data.training.errors import TrainError

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
    """Encodes preference sets for one model: the base contrast alone.

    `eos_ids` are all end-of-sequence ids of the model, `vocab_size` its number of embeddings.
    """

    tokenizer: Any
    sequences: SequenceConfig
    views: ViewsConfig
    eos_ids: frozenset[int]
    vocab_size: int

    def encode(self, rows: Iterable[JsonRow]) -> tuple[list[EncodedRow], EncodeReport]:
        """The rows that fit; InputError names the first one that is malformed."""
        found = list(rows)
        encoder = Encoder(
            template=template_for(self.tokenizer, found[0] if found else {}, self.views),
            config=self.sequences,
            contrasts=("base",),
            eos_ids=self.eos_ids,
            vocab_size=self.vocab_size,
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
