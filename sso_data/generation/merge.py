"""`merge`: join the runs of several shards in one run, each row and each failure once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sso_data.config.run import RunConfig, load_config
from sso_data.core.errors import RunError
from sso_data.core.paths import real_path
from sso_data.core.progress import NullProgress, Progress
from sso_data.filtering.refilter import (
    Refiltered,
    filter_again,
    in_words,
    own_filter,
    standing_filter,
)
from sso_data.generation.elsewhere import (
    EXCEPT,
    Keys,
    failed_keys,
    resolved_once,
    taken_over,
    unlike,
)
from sso_data.runs.columns import row_key
from sso_data.runs.journal import FIRST_ROWS, Scores, load_scores
from sso_data.runs.ledger import DONE
from sso_data.runs.run import (
    Run,
    expected_rows,
    open_run,
    origin_of,
    read_elsewhere,
    read_failures,
    read_run,
    require_run,
    run_account,
    unfinished,
)
from sso_data.runs.tokens import merge_tokens
from sso_data.runs.workdir import Manifest

_ITS_OWN = (
    *("identity", "schema_version", "created", "sso_data", "steering"),
    *("config", "prompts", "sources", "given", "merged", "logprob_check", "logprob_checks"),
    EXCEPT,
)
"""Keys of run.json that are not copied from the first run."""
_PROGRESS_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The result of `merge`: the decision and counts of the merged run.

    `rows`: rows of all runs together; `repeated` of them are in more than one run, and the first is
    kept. `unfinished`: runs that are not finished, and whose rest no other one takes over, with "M
    of N prompts are done". `not_here`: rows that runs left to others (`generate --except`), which
    are not among these.
    """

    refiltered: Refiltered
    rows: int
    repeated: int
    unfinished: tuple[tuple[Path, str], ...]
    not_here: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One of the runs; `missing` prompts of it are neither done nor failed, nor taken over.

    `elsewhere` are those that it left to other runs.
    """

    path: Path
    manifest: Manifest
    scores: Scores
    failed: Keys
    elsewhere: Keys
    missing: int
    unfinished: str | None


def merge(
    runs: Sequence[Path],
    out: Path,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> Merged:
    """Join `runs`, which differ only in their prompts, in the run directory `out`.

    After an interruption the same call continues. Raises RunError when the runs do not belong
    together, or `out` holds rows of others.
    """
    progress = progress or NullProgress()
    progress.phase(f"merging {len(runs)} runs")
    resolved = resolved_once(runs)
    manifests = [require_run(run) for run in runs]
    parts = [_part(run, one, manifests) for run, one in zip(runs, manifests, strict=True)]
    _refuse_mixture(parts)
    if real_path(out) in resolved:
        raise RunError(f"{out}: is one of the runs to merge; use another --out")
    rows = _union(part.scores.keys() for part in parts)
    prompts = _union([rows, *(part.failed for part in parts)])
    not_here = np.setdiff1d(_union(part.elsewhere for part in parts), prompts)
    config = _joined_config(parts, progress)
    identity = parts[0].manifest["identity"]
    lacking = len(not_here) + sum(part.missing for part in parts)
    details = _details(parts, config, len(prompts) + lacking)
    goes_on = not overwrite and read_run(out) is not None
    first: dict[str, Any] = {} if goes_on else details
    with open_run(out, identity=identity, details=first, overwrite=overwrite) as run:
        stored = load_scores(out, dry=True).keys()
        others = np.setdiff1d(_union([stored, failed_keys(out)]), prompts, assume_unique=True)
        if len(others):
            raise RunError(
                f"{out}: holds {len(others)} prompts that are in none of the runs; use another "
                f"--out and name {out} among the runs, or --overwrite to start over"
            )
        for key, value in details.items():
            run.set(**{key: value})
        merge_tokens(runs, out)
        _add_rows(run, parts, len(np.setdiff1d(rows, stored)), progress)
        known = read_failures(out)
        for failure in chain.from_iterable(read_failures(part.path).values() for part in parts):
            if not run.ledger.has(row_key(failure.id), DONE) and failure.id not in known:
                run.write_failure(failure)
    total = sum(len(part.scores) for part in parts)
    return Merged(
        refiltered=filter_again(out, config, progress, asked=False),
        rows=total,
        repeated=total - len(rows),
        unfinished=tuple((part.path, part.unfinished) for part in parts if part.unfinished),
        not_here=len(not_here),
    )


def _part(run: Path, manifest: Manifest, all_manifests: Sequence[Manifest]) -> _Part:
    scores = load_scores(run, dry=True)
    account = run_account(run, scores)
    missing = expected_rows(manifest, account) - account.done - taken_over(manifest, all_manifests)
    return _Part(
        path=run,
        manifest=manifest,
        scores=scores,
        failed=failed_keys(run),
        elsewhere=read_elsewhere(run)[:, 0],
        missing=max(0, missing),
        unfinished=unfinished(manifest, account) if missing > 0 else None,
    )


def _union(keys: Iterable[Keys]) -> Keys:
    """Return every key once, in ascending order."""
    return np.unique(np.concatenate([np.empty(0, np.uint64), *keys]))


def _refuse_mixture(parts: Sequence[_Part]) -> None:
    """Raise RunError if the rows of two runs are not comparable."""
    first = parts[0]
    for part in parts[1:]:
        if found := unlike(first.manifest, part.manifest):
            raise RunError(
                f"{part.path}: cannot be merged with {first.path}: {'; '.join(found[:3])}"
            )


def _joined_config(parts: Sequence[_Part], progress: Progress) -> RunConfig:
    """Return the first run's configuration, without its shard.

    Its filter is the one that `filter` last used on the first run, or else the configured one; a
    note says if the other runs were filtered otherwise.
    """
    filters = [
        standing_filter(part.path, own_filter(part.manifest), asked=False, new=False)
        for part in parts
    ]
    first = parts[0]
    if any(one != filters[0] for one in filters):
        progress.note(
            "the pairs of the runs were decided differently; they are decided with "
            f"{in_words(filters[0])}, as in {first.path}"
        )
    base = first.manifest["config"] | {"filter": filters[0].model_dump(mode="json")}
    return load_config(None, ["source.shard=null"], base=base)


def _details(parts: Sequence[_Part], config: RunConfig, prompts: int) -> dict[str, Any]:
    """Return the content of the merged run.json besides the identity.

    `prompts`: an upper bound, those that are there and those that unfinished runs lack.
    """
    manifests = [part.manifest for part in parts]
    sources = chain.from_iterable(manifest.get("sources") or [] for manifest in manifests)
    origins = [origin_of(part.manifest, real_path(part.path).name) for part in parts]
    first = dict.fromkeys(chain.from_iterable(one.get(FIRST_ROWS) or () for one in manifests))
    return {
        **{key: value for key, value in manifests[0].items() if key not in _ITS_OWN},
        **({FIRST_ROWS: list(first)} if first else {}),
        **({"peoples_chats": True} if any(one.get("peoples_chats") for one in manifests) else {}),
        "config": config.model_dump(mode="json"),
        "prompts": prompts,
        "sources": list(dict.fromkeys(sources)),
        "merged": [origin.to_json() for origin in origins],
        "logprob_checks": [manifest.get("logprob_check") for manifest in manifests],
    }


def _add_rows(run: Run, parts: Sequence[_Part], total: int, progress: Progress) -> None:
    """Write the `total` rows that the merged run lacks, each line checked by its CRC."""
    written = 0
    for part in parts:
        for row in part.scores.read(np.arange(len(part.scores))):
            if run.ledger.has(row_key(row.id), DONE):
                continue
            run.write_row(row)
            written += 1
            if written % _PROGRESS_ROWS == 0 or written == total:
                progress.count(written, total, "rows written")
