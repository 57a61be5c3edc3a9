"""Reference log-probs: those that travel with the data where they hold, else scored once."""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray

from sso_data.config.training import LossConfig, ReferenceConfig
from sso_data.core.errors import TrainError
from sso_data.models.head import CompletionScorer
from sso_data.models.memory import pass_tokens
from sso_data.runs.files import make_dir, write_atomic
from sso_data.training.batch import pad_sequences
from sso_data.training.encode import EncodedRow
from sso_data.training.loss import PREFERENCE_TERMS, PreferenceTerm, terms_of

Nats = NDArray[np.float64]
Scorer = Callable[[Sequence[EncodedRow]], Iterator[tuple[list[int], Nats]]]
"""Gives, in any order, positions of the rows asked for and their total nats [n, C, S]."""

_QUANTILE = 0.95
STEP_0_ROWS = 16
_SAVE_SECONDS = 60.0
_CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceReport:
    """The origin of the references, and how the recorded ones compared.

    `source`: `not_needed` (the base loss has no reference), `recorded`, `scored`, or `both` (the
    recorded ones, and scored ones for the `scored_rows` that had none). `worst` is the largest
    95th percentile over the terms of what the loss sees of the difference; None: not checked.
    `formats`: number formats here and at sampling, None where the latter is not recorded.
    """

    source: Literal["not_needed", "recorded", "scored", "both"]
    rows: int
    scored_rows: int = 0
    checked_rows: int = 0
    tolerance: float | None = None
    worst: float | None = None
    formats: tuple[str, str | None] | None = None

    def __str__(self) -> str:
        match self.source:
            case "not_needed":
                return "the base loss needs no reference"
            case "scored":
                found = "" if self.worst is None else f"; recorded ones differ: {self.difference}"
                return f"references of {self.rows} rows scored here{found}"
            case _:
                more = f"; {self.scored_rows} rows scored here" if self.scored_rows else ""
                return f"references from the data{more}: {self.difference}"

    @property
    def difference(self) -> str:
        """The check in words: what differs, by how much, and why."""
        if self.worst is None:
            return "not checked"
        text = (
            f"the log-probs of sampling and those of this training put D at step 0 at most "
            f"{self.worst:.2g} from 0 in 95 % of {self.checked_rows} rows (tolerance "
            f"{self.tolerance})"
        )
        match self.formats:
            case (here, str(there)) if here != there:
                return f"{text}, because the same weights compute in {there} there and {here} here"
            case (here, str()):
                return f"{text}; both compute in {here}, by different kernels"
            case (here, None):
                return f"{text}; computed in {here} here, and how the engine did is not recorded"
        return text

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def resolve_references(
    rows: Sequence[EncodedRow],
    scorer: Scorer,
    loss: LossConfig,
    config: ReferenceConfig,
    *,
    cache: Path | None = None,
    model_key: str = "",
    writes_cache: bool = True,
    formats: tuple[str, str | None] | None = None,
) -> tuple[list[EncodedRow], ReferenceReport]:
    """The rows with references for every term of the objective, and where those came from.

    `scorer` is the policy before its first step. Scored references are kept in the file `cache`,
    whose content counts only for the same rows, terms and `model_key` (the caller's name for
    weights, number format and device); a scoring that was interrupted goes on from it. Of several
    processes, which all call this with the same rows, one has `writes_cache`.
    Raises TrainError in mode `strict` when recorded references are missing or do not hold.
    """
    if not loss.needs_reference:
        return list(rows), ReferenceReport(source="not_needed", rows=len(rows))
    terms = terms_of(loss).names
    recorded = np.stack([row.ref_CS for row in rows])
    has = _complete(_of(recorded, terms))
    report = ReferenceReport(source="scored", rows=len(rows), scored_rows=len(rows))
    if config.mode == "strict" and not has.all():
        raise TrainError(
            f"--ref strict: {int((~has).sum())} of {len(rows)} rows have no recorded log-probs "
            "(or were truncated); use --ref auto"
        )
    keep: NDArray[np.bool_] = np.zeros(len(rows), np.bool_)
    if config.mode != "rescore" and has.any():
        report = _checked(rows, np.flatnonzero(has), scorer, loss, config)
        report = replace(report, formats=formats)
        accepted = report.source == "recorded"
        if config.mode == "strict" and not accepted:
            raise TrainError(
                f"--ref strict: recorded log-probs differ from this model's: "
                f"{report.difference}; use the model that made the data, or --ref auto to score "
                "again"
            )
        keep = has if accepted else keep
    missing = np.flatnonzero(~keep)
    totals = np.where(keep[:, None, None], recorded, np.nan)
    if len(missing):
        wanted = [rows[index] for index in missing]
        store = _Cache(file=cache, key=_cache_key(wanted, terms, model_key), writes=writes_cache)
        totals[missing] = _scored(wanted, scorer, terms, store)
        source: Literal["both", "scored"] = "both" if keep.any() else "scored"
        report = replace(report, source=source, scored_rows=len(missing))
    filled = [replace(row, ref_CS=total) for row, total in zip(rows, totals, strict=True)]
    return filled, report


def loss_difference(one: Nats, other: Nats, tokens: Nats, loss: LossConfig) -> Nats:
    """Return the difference of two references in the loss: |delta D| [B, C], from totals
    [B, C, S] and token counts: nats/token for mean-based losses, times beta for total-based."""
    change = one - other
    if loss.compares == "means":
        change = change / tokens
    delta = np.abs(change[..., 0] - change[..., 1])
    return delta * loss.beta if loss.compares == "totals" else delta


def differences(rows: Sequence[EncodedRow], scorer: Scorer, loss: LossConfig) -> Nats:
    """|delta D| [B, C'] between the rows' references and the log-probs that `scorer` gives them, as
    `loss_difference` has it, over the terms C' of the objective."""
    terms = terms_of(loss).names
    here = np.full((len(rows), len(PREFERENCE_TERMS), 2), np.nan)
    for positions, found in scorer(rows):
        here[positions] = found
    recorded = np.stack([row.ref_CS for row in rows])
    tokens = np.array(
        [[[len(r.sequence(n, side)[1]) for side in (0, 1)] for n in terms] for r in rows],
        np.float64,
    )
    return loss_difference(_of(recorded, terms), _of(here, terms), tokens, loss)


def d_at_step_0(rows: Sequence[EncodedRow], scorer: Scorer, loss: LossConfig) -> float:
    """The 95th percentile of |D| before the first step, over rows spread over the data.

    In what the loss sees: nats/token, or beta times nats.
    """
    sample = [rows[index] for index in evenly(len(rows), STEP_0_ROWS)]
    return float(np.nanquantile(differences(sample, scorer, loss), _QUANTILE))


def evenly(rows: int, count: int) -> NDArray[np.intp]:
    """At most `count` positions spread over `rows`."""
    return np.linspace(0, rows - 1, min(count, rows)).round().astype(np.intp)


def model_scorer(
    model: Any,
    terms: Sequence[PreferenceTerm],
    *,
    pad_id: int,
    batch_tokens: int = 16384,
    autocast: torch.dtype | None = None,
) -> Scorer:
    """A scorer that runs `model` without gradient; at most `batch_tokens` a forward pass (but one
    row's two sequences at least), the longest rows first. `autocast`: the number format that
    training computes in, where that is not the weights' own."""
    head = CompletionScorer(model)
    compute = torch.autocast(model.device.type, dtype=autocast, enabled=autocast is not None)

    def score(rows: Sequence[EncodedRow]) -> Iterator[tuple[list[int], Nats]]:
        most = pass_tokens(model.device.type, batch_tokens)
        for group in _groups([row.length(terms) for row in rows], most):
            found = np.full((len(group), len(PREFERENCE_TERMS), 2), np.nan)
            for name in terms:
                pairs = [rows[index].sequence(name, side) for index in group for side in (0, 1)]
                batch = pad_sequences(pairs, pad_id)
                with compute:
                    nats = _totals(model, head, batch)
                found[:, PREFERENCE_TERMS.index(name)] = nats.reshape(-1, 2)
            yield group, found

    return score


def shared_scorer(scorer: Scorer) -> Scorer:
    """A scorer that deals the rows out to the processes; each of them gets every row's totals."""
    state = PartialState()
    if state.num_processes == 1:
        return scorer

    def score(rows: Sequence[EncodedRow]) -> Iterator[tuple[list[int], Nats]]:
        for start in range(0, len(rows), _CHUNK_ROWS):
            end = min(start + _CHUNK_ROWS, len(rows))
            mine = range(start + state.process_index, end, state.num_processes)
            found: list[tuple[list[int], Nats]] = []
            if len(mine):
                for positions, nats in scorer([rows[index] for index in mine]):
                    found.append(([mine[p] for p in positions], nats))
            everything = gather_object(found)
            positions = [position for part, _ in everything for position in part]
            yield positions, np.concatenate([nats for _, nats in everything])

    return score


def _totals(model: Any, head: CompletionScorer, batch: dict[str, torch.Tensor]) -> Nats:
    ids, mask, labels = (
        batch[name].to(model.device) for name in ("input_ids", "attention_mask", "labels")
    )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            nats = head.totals(model, ids, mask, labels)
    finally:
        model.train(was_training)
    return nats.cpu().double().numpy()


def _groups(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Positions of rows of about the same length, as many as fit one forward pass."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        count = max(1, batch_tokens // (2 * lengths[order[0]]))
        group, order = order[:count], order[count:]
        yield group


def _of(totals: Nats, terms: Sequence[PreferenceTerm]) -> Nats:
    """The numbers of some terms: [B, C', S] of [B, C, S]."""
    return totals[:, [PREFERENCE_TERMS.index(name) for name in terms]]


def _complete(totals: Nats) -> NDArray[np.bool_]:
    """Which rows [B] have every number of [B, C', S]."""
    return np.asarray(np.isfinite(totals).all((1, 2)))


def _checked(
    rows: Sequence[EncodedRow],
    candidates: NDArray[np.intp],
    scorer: Scorer,
    loss: LossConfig,
    config: ReferenceConfig,
) -> ReferenceReport:
    """Compare recorded references with this model's on rows spread over the data."""
    picked = candidates[evenly(len(candidates), config.check_rows)]
    seen = differences([rows[index] for index in picked], scorer, loss)
    worst = float(np.quantile(seen, _QUANTILE, axis=0).max())
    return ReferenceReport(
        source="recorded" if worst <= config.tolerance else "scored",
        rows=len(rows),
        scored_rows=0 if worst <= config.tolerance else len(rows),
        checked_rows=len(picked),
        tolerance=config.tolerance,
        worst=worst,
    )


def _scored(
    rows: Sequence[EncodedRow], scorer: Scorer, terms: Sequence[PreferenceTerm], cache: "_Cache"
) -> Nats:
    """Total nats of all rows, those that are in the cache read from it."""
    totals = cache.read(len(rows))
    missing = np.flatnonzero(~_complete(_of(totals, terms)))
    saved = time.monotonic()
    for positions, found in scorer([rows[index] for index in missing]):
        if not np.isfinite(_of(found, terms)).all():
            bad = [rows[missing[p]].id for p in positions]
            raise TrainError(f"the model gives log-probs that are not finite; rows {bad[:4]}")
        totals[missing[positions]] = found
        if time.monotonic() - saved > _SAVE_SECONDS:
            cache.write(totals)
            saved = time.monotonic()
    if len(missing):
        cache.write(totals)
    return totals


def _cache_key(rows: Sequence[EncodedRow], terms: Sequence[PreferenceTerm], model_key: str) -> str:
    """A hash over everything that a score depends on: model, terms, ids of every row."""
    digest = hashlib.sha256(f"{model_key}/{','.join(terms)}".encode())
    for row in rows:
        digest.update(row.id.encode())
        for name in terms:
            for side in (0, 1):
                for part in row.sequence(name, side):
                    digest.update(len(part).to_bytes(4, "little") + part.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cache:
    """Scored totals in a file, for the rows, terms and model that `key` identifies.

    Of several processes one `writes`.
    """

    file: Path | None
    key: str
    writes: bool

    def read(self, rows: int) -> Nats:
        """The cached totals [rows, C, S]; NaN where there are none for this key."""
        nothing = np.full((rows, len(PREFERENCE_TERMS), 2), np.nan)
        if self.file is None or not self.file.is_file():
            return nothing
        try:
            with np.load(self.file, allow_pickle=False) as content:
                fits = str(content["key"]) == self.key and content["nats"].shape == nothing.shape
                return np.asarray(content["nats"], np.float64) if fits else nothing
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return nothing

    def write(self, totals: Nats) -> None:
        """Replace the file."""
        if self.file is None or not self.writes:
            return
        stream = io.BytesIO()
        np.savez(stream, key=np.array(self.key), nats=totals)
        make_dir(self.file.parent)
        write_atomic(self.file, stream.getvalue())
