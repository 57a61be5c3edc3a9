"""`merge`: the runs of several shards become one run, each row and each failure once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sso_data.config.run import FilterConfig, RunConfig, load_config
from sso_data.core.errors import RunError
from sso_data.core.progress import NullProgress, Progress
from sso_data.core.records import Row
from sso_data.filtering.refilter import Refiltered, filter_again, in_words, last_decision
from sso_data.runs.columns import row_key
from sso_data.runs.journal import Scores, load_scores
from sso_data.runs.ledger import DONE
from sso_data.runs.run import (
    Run,
    expected_prompts,
    iterate_failures,
    open_run,
    origin_of,
    read_failures,
    read_run,
    require_run,
    run_account,
    unfinished,
)
from sso_data.runs.workdir import Manifest, differences

_ENGINE_FACTS = ("name", "device", "dtype")
_ITS_OWN = (
    *("identity", "schema_version", "created", "sso_data", "steering"),
    *("config", "prompts", "sources", "given", "merged", "logprob_check", "logprob_checks"),
)
"""Keys of run.json that are not taken over from the first run."""
_PROGRESS_ROWS = 256

Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A merged run: its decision and books, and how many rows stood in more than one of the runs.

    Of a row that stands in two runs the first is kept. `unfinished` are the runs that are, with how
    far they are.
    """

    refiltered: Refiltered
    rows: int
    repeated: int
    unfinished: tuple[tuple[Path, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One of the runs; `missing` prompts of it are neither done nor failed."""

    path: Path
    manifest: Manifest
    scores: Scores
    failed: Keys
    missing: int
    unfinished: str | None


def merge(
    runs: Sequence[Path],
    out: Path,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> Merged:
    """Join `runs`, which differ in nothing but their prompts, in the run directory `out`.

    Interrupted, the same call goes on. Raises RunError where the runs do not belong together, or
    `out` holds rows of others.
    """
    progress = progress or NullProgress()
    progress.phase(f"merging {len(runs)} runs")
    parts = [_part(run) for run in _each_once(runs)]
    _refuse_mixture(parts)
    if out.resolve() in {run.resolve() for run in runs}:
        raise RunError(f"{out}: is one of the runs to merge; use another --out")
    rows = _union(part.scores.keys() for part in parts)
    prompts = _union([rows, *(part.failed for part in parts)])
    config = _joined_config(parts, progress)
    identity = parts[0].manifest["identity"]
    details = _details(parts, config, len(prompts) + sum(part.missing for part in parts))
    goes_on = not overwrite and read_run(out) is not None
    first: dict[str, Any] = {} if goes_on else details
    with open_run(out, identity=identity, details=first, overwrite=overwrite) as run:
        _refuse_others(out, prompts)
        for key, value in details.items():
            run.set(**{key: value})
        _add_rows(run, parts, rows, progress)
        _add_failures(run, parts)
    total = sum(len(part.scores) for part in parts)
    return Merged(
        refiltered=filter_again(out, config, progress, asked=False),
        rows=total,
        repeated=total - len(rows),
        unfinished=tuple((part.path, part.unfinished) for part in parts if part.unfinished),
    )


def _each_once(runs: Sequence[Path]) -> Sequence[Path]:
    """The runs; RunError for one that is named twice."""
    seen = set[Path]()
    for run in runs:
        if run.resolve() in seen:
            raise RunError(f"{run}: is named twice among the runs to merge; name each of them once")
        seen.add(run.resolve())
    return runs


def _part(run: Path) -> _Part:
    manifest = require_run(run)
    scores = load_scores(run, dry=True)
    account = run_account(run, scores)
    return _Part(
        path=run,
        manifest=manifest,
        scores=scores,
        failed=_failed_keys(run),
        missing=expected_prompts(manifest, account) - account.prompts,
        unfinished=unfinished(manifest, account),
    )


def _failed_keys(run: Path) -> Keys:
    """The keys of the prompts that failed, whether or not they are rows by now."""
    return np.fromiter({row_key(failure.id) for failure in iterate_failures(run)}, np.uint64)


def _union(keys: Iterator[Keys] | Sequence[Keys]) -> Keys:
    """Every key once, in ascending order."""
    return np.unique(np.concatenate([np.empty(0, np.uint64), *keys]))


def _refuse_others(out: Path, prompts: Keys) -> None:
    """RunError where `out` holds what none of the runs knows: its books would be of other rows."""
    there = _union([load_scores(out, dry=True).keys(), _failed_keys(out)])
    others = len(np.setdiff1d(there, prompts, assume_unique=True))
    if others:
        raise RunError(
            f"{out}: holds {others} prompts that are in none of the runs; use another --out and "
            f"name {out} among the runs, or --overwrite to start it anew"
        )


def _details(parts: Sequence[_Part], config: RunConfig, prompts: int) -> dict[str, Any]:
    """What run.json of the merged run says beyond the identity.

    `prompts` are those that are there, and what unfinished runs lack: at most so many.
    """
    manifests = [part.manifest for part in parts]
    sources = chain.from_iterable(manifest.get("sources") or [] for manifest in manifests)
    origins = [origin_of(part.manifest, part.path.resolve().name) for part in parts]
    return {
        **{key: value for key, value in manifests[0].items() if key not in _ITS_OWN},
        "config": config.model_dump(mode="json"),
        "prompts": prompts,
        "sources": list(dict.fromkeys(sources)),
        "merged": [origin.to_json() for origin in origins],
        "logprob_checks": [manifest.get("logprob_check") for manifest in manifests],
    }


def _add_rows(run: Run, parts: Sequence[_Part], rows: Keys, progress: Progress) -> None:
    """Write the rows that are not there yet."""
    there = np.intersect1d(load_scores(run.path, dry=True).keys(), rows)
    written, total = 0, len(rows) - len(there)
    for row in chain.from_iterable(_rows(part.scores) for part in parts):
        if run.ledger.has(row_key(row.id), DONE):
            continue
        run.write_row(row)
        written += 1
        if written % _PROGRESS_ROWS == 0 or written == total:
            progress.count(written, total, "rows written")


def _rows(scores: Scores) -> Iterator[Row]:
    """Every row of a run, checked against its side file; RunError for one that is none."""
    for line in scores.lines(np.arange(len(scores))):
        yield Row.from_json(orjson.loads(line))


def _add_failures(run: Run, parts: Sequence[_Part]) -> None:
    """The newest failure of every prompt that is done in none of the runs."""
    known = read_failures(run.path)
    for part in parts:
        for failure in read_failures(part.path).values():
            if not run.ledger.has(row_key(failure.id), DONE) and failure.id not in known:
                run.write_failure(failure)


def _joined_config(parts: Sequence[_Part], progress: Progress) -> RunConfig:
    """The runs' common configuration, of all shards, with the filter of the first run's pairs."""
    first = parts[0]
    filters = [_filter_of(part) for part in parts]
    if any(one != filters[0] for one in filters):
        progress.note(
            "the pairs of the runs were decided differently; they are decided with "
            f"{in_words(filters[0])}, as in {first.path}"
        )
    base = first.manifest["config"] | {"filter": filters[0].model_dump(mode="json")}
    return load_config(None, ["source.shard=null"], base=base)


def _filter_of(part: _Part) -> FilterConfig:
    """How a run's pairs are decided: as `filter` last did, or else by its own configuration."""
    last = last_decision(part.path)
    if last and last.by_filter:
        return last.config
    return load_config(None, base=part.manifest["config"]).filter


def _refuse_mixture(parts: Sequence[_Part]) -> None:
    """RunError where rows of two runs would not compare."""
    first = parts[0]
    for part in parts[1:]:
        found = differences(first.manifest["identity"], part.manifest["identity"])
        here, there = (one.manifest.get("engine") or {} for one in (part, first))
        found += [
            f"engine {key} is {there.get(key)} there and {here.get(key)} here"
            for key in _ENGINE_FACTS
            if here and there and here.get(key) != there.get(key)
        ]
        if found:
            raise RunError(
                f"{part.path}: is not of the same kind as {first.path}: {'; '.join(found[:3])}"
            )
