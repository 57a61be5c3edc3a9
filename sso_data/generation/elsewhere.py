"""`generate --except RUN`: rows of other runs are left out, so that the rest is dealt out anew."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sso_data.config.run import shard_of
from sso_data.core.errors import RunError
from sso_data.core.paths import real_path
from sso_data.core.progress import Progress
from sso_data.core.trees import Tree
from sso_data.runs.columns import row_key
from sso_data.runs.journal import load_scores
from sso_data.runs.ledger import DONE, FAILED
from sso_data.runs.run import Run, iterate_failures, require_run
from sso_data.runs.workdir import Manifest, differences

Keys = NDArray[np.uint64]
EXCEPT = "except"
"""Key of run.json: the runs that were left out, each with how many of its rows are made here."""


def resolved_once(runs: Sequence[Path]) -> list[Path]:
    """Return the absolute paths of runs. Raises RunError for one that is given twice."""
    found = [real_path(run) for run in runs]
    for position, path in enumerate(found):
        if path in found[:position]:
            raise RunError(f"{runs[position]}: is given more than once; give each run once")
    return found


def failed_keys(run: Path) -> Keys:
    """Return the keys of the prompts that failed, including those that are rows by now."""
    return np.fromiter({row_key(failure.id) for failure in iterate_failures(run)}, np.uint64)


class Other:
    """A run that others go on with: the keys of its rows and of its failures."""

    def __init__(self, path: Path) -> None:
        self.path, self.manifest = path, require_run(path)
        self.rows: Keys = load_scores(path, dry=True).keys()
        self.failed = failed_keys(path)
        config = self.manifest["config"]
        shard = config.get("source", {}).get("shard")
        self.share = shard_of(shard) if shard else (1, 1)
        self.samples = int(config.get("sampling", {}).get("samples", 1))
        self.holds = array("B")
        """Of each prompt seen by `Elsewhere.noting`: whether it is in the run's shard."""

    def took(self, own: Keys) -> int:
        """Return how many of `own` keys, array [prompt, sample], the run would have made, too."""
        known = np.isin(own, self.rows) | np.isin(own, self.failed) | (own == 0)
        mine = ~known & (np.frombuffer(self.holds, np.uint8) != 0)[:, None]
        return int(mine[:, : self.samples].sum())


class Elsewhere:
    """The runs given to `--except`; none is usual."""

    def __init__(self, runs: Sequence[Path], out: Path) -> None:
        """Read them. Raises RunError for what is no run, is given twice, or is `out`."""
        if real_path(out) in resolved_once(runs):
            raise RunError(f"{out}: cannot leave out its own rows; leave out --except {out}")
        self.others = [Other(run) for run in runs]

    def noting(self, contents: Iterable[str]) -> Iterator[str]:
        """Yield the content hashes of all prompts; each run notes which are of its shard."""
        for content in contents:
            for other in self.others:
                which, count = other.share
                other.holds.append(int(content, 16) % count == which - 1)
            yield content

    def refuse_mixture(
        self, identity: Mapping[str, Any], config: Tree, manifest: Manifest | None
    ) -> None:
        """Raise RunError if a run's rows are not comparable with those of this identity.

        `manifest` is that of the run that leaves rows, where it has begun.
        """
        engine = (manifest or {}).get("engine")
        for other in self.others:
            here = {"identity": identity, "config": config, "engine": engine}
            if found := unlike(other.manifest, here):
                raise RunError(
                    f"{other.path}: --except is for runs that differ only in their prompts; "
                    f"{'; '.join(found[:3])}"
                )

    def leave_to_them(self, run: Run, keys: "array[int]", samples: int, progress: Progress) -> None:
        """Mark the prompts with `keys` that they have made.

        Failures are dealt again. run.json tells `merge` how many rows of each are made here.
        """
        if not self.others:
            return
        own = np.array(keys, np.uint64).reshape(-1, samples)
        is_there = np.isin(own, np.concatenate([other.rows for other in self.others]))
        is_here = [run.ledger.has(key, DONE | FAILED) for key in own[is_there].tolist()]
        is_there[is_there] = np.logical_not(is_here)
        prompts = np.broadcast_to(own[:, :1], own.shape)
        run.leave(np.stack([own[is_there], prompts[is_there]], axis=1))
        left = np.where(is_there, np.uint64(0), own)
        named = {_name(other.manifest): (other, other.took(left)) for other in self.others}
        before = [
            one for one in run.get(EXCEPT) or () if (one["created"], one["shard"]) not in named
        ]
        entries = [
            {"run": real_path(other.path).name, "created": name[0], "shard": name[1], "took": count}
            for name, (other, count) in named.items()
        ]
        engine = next((o.manifest["engine"] for o in self.others if "engine" in o.manifest), None)
        run.set(**{EXCEPT: [*before, *entries]}, engine=run.get("engine") or engine)
        progress.note(f"{is_there.sum()} of {len(keys)} rows are left to the runs of --except")


def _name(manifest: Manifest) -> tuple[str, str | None]:
    """Return what tells a run from others wherever its directory is: its start and its shard."""
    return str(manifest.get("created")), manifest["config"].get("source", {}).get("shard")


def taken_over(manifest: Manifest, others: Iterable[Manifest]) -> int:
    """Return how many rows of a run `others` said that they make in its place."""
    name = _name(manifest)
    entries = (one for other in others for one in other.get(EXCEPT) or ())
    return sum(one["took"] for one in entries if (one["created"], one["shard"]) == name)


def unlike(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return why rows of two run.json are not comparable, one phrase each; [] if they are."""
    found = differences(there["identity"], here["identity"], there["config"], here["config"])
    old, new = there.get("engine") or {}, here.get("engine") or {}
    return found + [
        f"engine {key} is {old.get(key)} there and {new.get(key)} here"
        for key in ("name", "device", "dtype")
        if old and new and old.get(key) != new.get(key)
    ]
