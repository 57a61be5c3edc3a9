"""Read back: a pushed run as a run directory again, the same rows byte for byte."""

import glob
from fnmatch import fnmatch
from pathlib import Path

from sso_data.core.errors import ConfigError, HubError, RunError
from sso_data.core.paths import is_meant_as_path
from sso_data.core.progress import NullProgress, Progress
from sso_data.prompts.tables import is_hub_id
from sso_data.publishing.failures import HubTroubleError, patiently
from sso_data.publishing.hub import HubRepo, State
from sso_data.publishing.upload import LocalFile
from sso_data.runs.files import make_dir, remove_tree, swap_dir
from sso_data.runs.run import read_run, require_run
from sso_data.runs.workdir import difference, write_json

_FILES = ("run.json", "failed.jsonl", "rows/*.jsonl")


def run_directory(
    source: str, out: Path | None, *, dry_run: bool = False, progress: Progress | None = None
) -> Path:
    """The run directory of `source`: itself, or for a Hub id the one made in `out`.

    For a dry run a Hub id's files stay in the client's cache. Raises SsoDataError.
    """
    progress = progress or NullProgress()
    local = Path(source)
    may_be_pushed = source.count("/") == 1 and ":" not in source and is_hub_id(source)
    may_be_pushed = may_be_pushed and not is_meant_as_path(source)
    if local.exists() or not may_be_pushed:
        if out is not None:
            raise ConfigError(f"--out {out}: only for a run on the Hub; {source} is a local run")
        return local
    if out is None and not dry_run:
        raise RunError(
            f"{local.absolute()}: no such directory; make a run with `sso-data generate PROMPTS "
            f"--out {source}`, or, for a run on the Hub, name a directory for it with --out"
        )
    hub = HubRepo("dataset", source, needs_token=False)
    progress.phase(f"reading {hub.url}")
    state = patiently(hub.look, progress)
    if state is None:
        raise HubError(
            f"{source}: no such directory here and no such dataset on the Hub (private? `hf auth "
            "login`)"
        )
    if state.commit is None or "run.json" not in state.files:
        raise HubError(
            f"{source}: holds no run.json; only what `sso-data push` wrote can be filtered"
        )
    if not any(path.startswith("rows/") for path in state.files):
        raise HubError(
            f"{source}: holds only pairs; it can be filtered again only if its owner pushes it "
            "with --what all"
        )
    if dry_run or out is None:
        return patiently(lambda: _downloaded(hub, state, None), progress)
    if not _is_there(hub, state, out):
        _make(hub, state, out, progress)
    return out


def _is_there(hub: HubRepo, state: State, out: Path) -> bool:
    """Check for this run in `out`; RunError where it holds something else."""
    manifest = read_run(out)
    if manifest is None:
        if out.exists() and any(out.iterdir()):
            raise RunError(f"{out}: not empty and not a run; use another --out")
        return False
    assert state.commit is not None
    there = hub.read("run.json", state.commit)
    if found := difference(there, manifest, "created"):
        raise RunError(f"{out}: holds another run: {found}; use another --out")
    here = {f"rows/{file.name}": file for file in (out / "rows").glob("*.jsonl")}
    rows = {path for path in state.files if path.startswith("rows/")}
    if here.keys() != rows or not all(
        LocalFile(file).is_stored_as(state.files[path]) for path, file in here.items()
    ):
        raise RunError(f"{out}: holds this run, but with different rows; use another --out")
    return True


def _downloaded(hub: HubRepo, state: State, folder: Path | None) -> Path:
    """The run's files, each compared with what the Hub says it is.

    Where the Hub fails in between, the client may return a folder that is not whole.
    """
    found = hub.download(state, _FILES, folder)
    for path, stored in state.files.items():
        wanted = any(fnmatch(path, pattern) for pattern in _FILES)
        if wanted and not (
            (found / path).is_file() and LocalFile(found / path).is_stored_as(stored)
        ):
            raise HubTroubleError(f"{hub.repo}: download of {path} is incomplete")
    return found


def _make(hub: HubRepo, state: State, out: Path, progress: Progress) -> None:
    """Download next to `out`, then put the whole directory in its place; an earlier try resumes."""
    final = out.absolute()
    new = final.with_name(f".{final.name}.{str(state.commit)[:12]}.download")
    for other in set(final.parent.glob(f".{glob.escape(final.name)}.*.download")) - {new}:
        remove_tree(other)
    make_dir(new)
    patiently(lambda: _downloaded(hub, state, new), progress)
    remove_tree(new / ".cache")  # the client's notes on what it downloaded
    manifest = require_run(new)
    engine = manifest["config"].get("engine")
    unwanted = ("trust_remote_code", "vllm", "servers", "cluster")
    if isinstance(engine, dict) and any(engine.get(key) for key in unwanted):
        # would run code of others, or ask their servers, when the run is continued
        engine |= {"trust_remote_code": False, "vllm": {}, "servers": [], "server_model": None}
        engine["cluster"] = None
        write_json(new / "run.json", manifest)
    swap_dir(new, final)
