"""A trained model, its card linked to its data, to a model repository."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sso_data.core.errors import HubError, RunError
from sso_data.publishing.card.markdown import put_between_marks
from sso_data.publishing.card.metadata import read_metadata, split_page, with_changes
from sso_data.publishing.hub.client import Hub, check_repo_id
from sso_data.publishing.hub.failures import HubTroubleError
from sso_data.publishing.hub.parcel import CARD, Parcel
from sso_data.publishing.hub.publish import Published, PushListener, Target, check_target, publish
from sso_data.publishing.push.public import public_json
from sso_data.publishing.push.staging import STAGE
from sso_data.runs.files import make_dir, remove_tree, write_new
from sso_data.runs.identity import difference
from sso_data.runs.run import locked
from sso_data.training.state import MANIFEST, read_training

_MODEL = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json"),
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "chat_template*", "*.model", "metrics.jsonl", "loss.png"),
)
_NAMING = (MANIFEST, "adapter_config.json")
"""Files that name other models, and so are cleaned of this machine's directories."""


def check_model_target(target: Target, listener: PushListener) -> None:
    """HubError where the model could not be pushed when it is trained; changes nothing."""
    check_repo_id(target.repo)
    check_target(Hub("model"), target, listener)


def push_model(out: Path, target: Target, listener: PushListener) -> Published:
    """Publish the finished training in `out`. Raises SsoDataError; the model stays where it is."""
    check_repo_id(target.repo)
    manifest = read_training(out)
    if manifest is None or "finished" not in manifest:
        raise RunError(f"{out}: no finished training in it; train it to the end first")
    hub = Hub("model")
    with locked(out, "model"):
        parcel = _parcel(out, manifest)
        listener.phase(f"looking at {hub.url(target.repo)}")
        try:
            done = publish(hub, parcel, target, listener)
        except HubTroubleError as error:
            raise HubError(
                f"{error}; the model is complete in {out}: run the same command again to push it"
            ) from error
        remove_tree(out / STAGE)
    return done


def _parcel(out: Path, manifest: Mapping[str, Any]) -> Parcel:
    folder = out / STAGE
    remove_tree(folder)
    make_dir(folder)
    files = {file.name: file for pattern in _MODEL for file in out.glob(pattern)}
    for name in _NAMING:
        if (out / name).is_file():
            write_new(folder / name, public_json(json.loads((out / name).read_bytes())))
            files[name] = folder / name
    card = (out / CARD).read_text(encoding="utf-8")
    return Parcel(
        files=files,
        what="training",
        mark=MANIFEST,
        differs=lambda there: difference(there, manifest, kind="training"),
        is_ours=_is_ours,
        card=lambda existing: _merged(card, existing or "").encode(),
        title=f"Trained by sso-data, {manifest['steps']} steps",
    )


def _is_ours(path: str) -> bool:
    """Whether a training writes such a file."""
    return "/" not in path and any(Path(path).match(pattern) for pattern in (*_MODEL, MANIFEST))


def _merged(card: str, existing: str) -> str:
    """Our card in the place of an earlier one of ours; what others wrote around it stays."""
    front, page = split_page(card)
    ours = read_metadata(front)
    there_front, there_page = split_page(existing)
    tags = read_metadata(there_front).get("tags")
    if isinstance(tags, list):
        ours["tags"] = list(dict.fromkeys([*tags, *ours["tags"]]))
    metadata = with_changes(there_front, ours)
    return f"---\n{metadata}---\n\n{put_between_marks(there_page, page).lstrip()}"
