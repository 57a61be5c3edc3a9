"""A trained model, its card linked to its data, to a model repository."""

import json
import re
from fnmatch import translate
from pathlib import Path

from sso_data.core.errors import RunError
from sso_data.core.progress import NullProgress, Progress
from sso_data.models.directory import SAVED_FILES
from sso_data.publishing.hub import HubRepo, check_repo_id
from sso_data.publishing.public import public_json
from sso_data.publishing.readme import README, Card, read_metadata, split_page
from sso_data.publishing.upload import Parcel, Published, Target, check_target, publish, stage
from sso_data.runs.files import write_new
from sso_data.runs.workdir import locked
from sso_data.training.state import MANIFEST, METRICS, check_model, read_training

_MODEL = (*SAVED_FILES, METRICS, "loss.png")
_OURS = re.compile(f"(?!.*/)(?:{'|'.join(map(translate, (*_MODEL, MANIFEST)))})")
_NAMING = (MANIFEST, "adapter_config.json")
"""Files that name other models; the directories of this machine are removed from them."""


def check_model_target(
    repo: str, *, private: bool | None = None, progress: Progress | None = None
) -> None:
    """Check before a training that its model can be pushed to `repo`; changes nothing.

    Raises HubError.
    """
    check_repo_id(repo)
    target = Target(hub=HubRepo("model", repo), private=private)
    check_target(target, progress or NullProgress())


def push_model(
    out: Path,
    repo: str,
    *,
    private: bool | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Published:
    """Publish the finished training in `out`; the model stays where it is.

    `private` None leaves a repository as it is; a new one is private. Raises SsoDataError.
    """
    progress = progress or NullProgress()
    check_repo_id(repo)
    manifest = read_training(out)
    if manifest is None or "finished" not in manifest:
        raise RunError(f"{out}: no finished training in it; train it to the end first")
    target = Target(hub=HubRepo("model", repo), private=private, overwrite=overwrite)
    with locked(out, "model"), stage(out) as folder:
        check_model(out, manifest)
        files = {file.name: file for pattern in _MODEL for file in out.glob(pattern)}
        for name in _NAMING:
            if (out / name).is_file():
                write_new(folder / name, public_json(json.loads((out / name).read_bytes())))
                files[name] = folder / name
        front, page = split_page((out / README).read_text(encoding="utf-8"))
        parcel = Parcel(
            folder=out,
            files=files,
            card=Card(metadata=read_metadata(front), page=page.strip()),
            what="training",
            identity_file=MANIFEST,
            manifest=manifest,
            ours=_OURS,
            title=f"Trained by sso-data, {manifest['steps']} steps",
        )
        return publish(parcel, target, progress)
