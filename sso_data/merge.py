"""`merge`: the runs of several shards become one run, each row and each failure once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sso_data.columns import row_key
from sso_data.config import RunConfig, load_config
from sso_data.errors import RunError
from sso_data.records import Row
from sso_data.refilter import Refiltered, refilter
from sso_data.store.ledger import DONE
from sso_data.store.run import Run, differences, open_run, read_failures, require_manifest
from sso_data.store.scores import Scores, load_scores

_ENGINE_FACTS = ("name", "device", "dtype")
_PROGRESS_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A merged run: its decision and books, and how many rows stood in more than one of the runs.

    Of a row that stands in two runs the first is kept.
    """

    refiltered: Refiltered
    rows: int
    repeated: int


def merge(
    runs: Sequence[Path],
    out: Path,
    *,
    overwrite: bool = False,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
    on_pairs: Callable[[int, int], None] | None = None,
) -> Merged:
    """Join `runs`, which differ in nothing but their prompts, in the run directory `out`.

    Interrupted, the same call goes on. Raises RunError where the runs do not belong together.
    """
    manifests = [require_manifest(run) for run in runs]
    _refuse_mixture(runs, manifests)
    if out.resolve() in {run.resolve() for run in runs}:
        raise RunError(f"{out}: is one of the runs to merge; use another --out")
    first = manifests[0]
    config = _joined_config(first)
    details = {**first, "config": config.model_dump(mode="json")}
    for key in ("identity", "schema_version", "created", "sso_data", "prompts", "steering"):
        details.pop(key, None)
    scores = [load_scores(run, dry=True) for run in runs]
    total = sum(map(len, scores))
    repeated = 0
    with open_run(out, identity=first["identity"], details=details, overwrite=overwrite) as run:
        run.note("prompts", sum(manifest.get("prompts", 0) for manifest in manifests))
        sources = chain.from_iterable(manifest.get("sources") or [] for manifest in manifests)
        run.note("sources", list(dict.fromkeys(sources)))
        run.note("logprob_checks", [manifest.get("logprob_check") for manifest in manifests])
        earlier = run.ledger.count(DONE)
        for rows, row in enumerate(_rows(scores), start=1):
            if run.ledger.has(row_key(row.id), DONE):
                repeated += 1
            else:
                run.write_row(row)
            if rows % _PROGRESS_ROWS == 0 or rows == total:
                on_rows(rows, total)
        _add_failures(run, runs)
    return Merged(
        refiltered=refilter(out, config, on_progress=on_pairs),
        rows=total,
        repeated=repeated - earlier,
    )


def _rows(runs: Sequence[Scores]) -> Iterator[Row]:
    """Every row of the runs, checked against its side file; RunError for one that is none."""
    for scores in runs:
        for line in scores.lines(np.arange(len(scores))):
            yield Row.from_json(orjson.loads(line))


def _add_failures(run: Run, parts: Sequence[Path]) -> None:
    """The newest failure of every prompt that is done in none of the runs."""
    known = read_failures(run.path)
    for part in parts:
        for failure in read_failures(part).values():
            if not run.ledger.has(row_key(failure.id), DONE) and failure.id not in known:
                run.write_failure(failure)


def _joined_config(manifest: dict[str, Any]) -> RunConfig:
    """The runs' common configuration, of all shards."""
    return load_config(None, ["source.shard=null"], base=manifest["config"])


def _refuse_mixture(runs: Sequence[Path], manifests: Sequence[dict[str, Any]]) -> None:
    """RunError where rows of two runs would not compare."""
    first = manifests[0]
    for run, manifest in zip(runs[1:], manifests[1:], strict=True):
        found = differences(first["identity"], manifest["identity"])
        here, there = (facts.get("engine") or {} for facts in (manifest, first))
        found += [
            f"engine {key} is {there.get(key)} there and {here.get(key)} here"
            for key in _ENGINE_FACTS
            if here and there and here.get(key) != there.get(key)
        ]
        if found:
            raise RunError(f"{run}: is not of the same kind as {runs[0]}: {'; '.join(found[:3])}")
