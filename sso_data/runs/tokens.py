"""The log-prob of every token, in `tokens.jsonl` of runs with `scoring.keep_tokens`.

A sealed line holds cells of one row, written before the row is. Values are float16: each is off by
at most 2**-11 of itself, and as all have one sign, so is the sum of a cell. That sum must be the
row's total, and the ids those that the line was written for: other values are not used.
"""

import base64
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from sso_data.core.errors import RunError
from sso_data.core.records import SIDE_OF, Cell, JsonRow, Row, View, hash_ids
from sso_data.runs.files import remove_tree, replace_by
from sso_data.runs.jsonl import PeriodicSync, open_lines, read_lines, read_objects, sealed, unsealed

TOKENS = "tokens.jsonl"
ROUNDING = 2.0**-11
"""The largest relative error of a sum of kept values."""
_LEAST_NATS = 1e-6
"""Nats a token beside it: the smallest float16, and totals that were cut at 0."""

AGREED = 0.1
"""Nats a token by which the sum of a cell that is scored anew may differ from its total: other
engines, dtypes and batches round in other ways. SmolLM2-135M in bfloat16 in place of float32: .04.
"""

Cells = Mapping[Cell, Sequence[float]]
"""By (seen, drawn) the log-prob (nats) of each token of a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """An answer in pieces: single tokens, or as many as make whole characters.

    `texts` has "" for control tokens, the end among them; `sizes`: tokens of each piece; `nats`: by
    the view seen the log-prob of every token.
    """

    texts: tuple[str, ...]
    sizes: tuple[int, ...]
    nats: Mapping[View, Sequence[float]]

    def by_piece(self, seen: View) -> list[float]:
        """Return the log-prob (nats) of every piece under a view."""
        ends = accumulate(self.sizes, initial=0)
        return [sum(self.nats[seen][start:end]) for start, end in pairwise(ends)]

    def tint(self) -> list[float]:
        """Return good - bad (nats) of every piece; [] where one of them was not asked for."""
        if not {"good", "bad"} <= self.nats.keys():
            return []
        pairs = zip(self.by_piece("good"), self.by_piece("bad"), strict=True)
        return [good - bad for good, bad in pairs]

    def to_json(self) -> JsonRow:
        """Return the pieces, and by view the log-prob of every token."""
        nats = {f"logp_{seen}": list(values) for seen, values in self.nats.items()}
        return {"pieces": list(self.texts), "sizes": list(self.sizes), **nats}


Answers = Mapping[View, Tokens]
"""The answers of a row, by the view they were drawn under."""


class TokenStore:
    """`tokens.jsonl` opened for appending."""

    def __init__(self, run: Path) -> None:
        self._lines = open_lines(run / TOKENS)
        self._sync = PeriodicSync(self._lines.sync)

    def add(self, row: Row, cells: Cells) -> None:
        """Keep cells of a row. Raises RunError when they cannot be written."""
        line: JsonRow = {"id": row.id}
        line |= {f"{SIDE_OF[drawn]}_hash": _ids(row, (drawn, drawn)) for _, drawn in cells}
        for (seen, drawn), nats in cells.items():
            packed = np.minimum(np.array(nats, np.float64), 0.0).astype("<f2").tobytes()
            line[f"logp_{seen}_{drawn}"] = base64.b64encode(packed).decode()
        self._lines.append(sealed(line))
        self._sync()

    def close(self) -> None:
        """Sync and close."""
        self._lines.close()


def kept_tokens(run: Path, rows: Iterable[Row]) -> dict[str, dict[Cell, list[float]]]:
    """Return by id what is kept of rows and fits them; raises RunError for a line that changed."""
    wanted, found = {row.id: row for row in rows}, defaultdict[str, dict[Cell, list[float]]](dict)
    for where, line in read_objects(run / TOKENS) if (run / TOKENS).exists() else ():
        row = wanted.get(str(line.get("id")))
        if row is None:
            continue
        line = unsealed(line, where)
        for cell, total in row.logp.items():
            text, of = line.get(f"logp_{cell[0]}_{cell[1]}"), line.get(f"{SIDE_OF[cell[1]]}_hash")
            if text is None or of != _ids(row, cell):
                continue
            nats: list[float] = []
            with suppress(TypeError, ValueError):  # a line of others
                nats = np.frombuffer(base64.b64decode(text), "<f2").astype(float).tolist()
            count = row.responses[cell[1]].num_tokens
            limit = ROUNDING * abs(total) + _LEAST_NATS * count
            if len(nats) == count and abs(math.fsum(nats) - total) <= limit:
                found[row.id][cell] = nats
    return found


def merge_tokens(runs: Sequence[Path], out: Path) -> None:
    """Put the kept tokens of `runs` into `out`; of a row that is in several, those that fit it."""
    files = [run / TOKENS for run in runs if (run / TOKENS).exists()]
    if files:
        replace_by(out / TOKENS, (line for file in files for _, line in read_lines(file)))
    else:
        remove_tree(out / TOKENS)


def refuse_other_totals(row: Row, cells: Cells) -> None:
    """Raise RunError where the sum of a cell is further from the row's total than AGREED."""
    for (seen, drawn), nats in cells.items():
        total, said = math.fsum(nats), row.logp[seen, drawn]
        if not abs(total - said) <= AGREED * len(nats):
            raise RunError(
                f"row {row.id}: its tokens sum to {total:.3f} nats, and logp_{seen}_{drawn} is "
                f"{said:.3f}: more than another arithmetic's {AGREED:g} nats/token; use the engine "
                "and the dtype of the run"
            )


def _ids(row: Row, cell: Cell) -> str:
    return hash_ids(row.responses[cell[1]].token_ids)
