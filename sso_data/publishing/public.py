"""Manifests and messages for the public: no directories of this machine, no tokens.

Of a local path the last part is kept, as `./name`, so that nobody takes it for a Hub id.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from sso_data.core.errors import without_secrets
from sso_data.core.paths import is_local, public_name

_NAMES = {
    *("model", "principles", "adapter", "sources", "source", "data", "name"),
    *("base_model_name_or_path", "principle_model", "templates"),
}
"""Keys whose values are names of models, of data or of directories."""

_AS_IT_IS = {"identity", "template_kwargs"}
_LEFT_OUT: Mapping[str, Any] = {"endpoint": None, "servers": [], "cluster": None}
"""Keys whose values are addresses of machines, and what stands for them."""
_PATH = re.compile(r"(?:~|\.{1,2})?/[^\s/]+/\S*")
_DIRECTORIES = re.compile(r"(?<![\w.:/-])(?:~|\.{1,2})?/(?:[^\s/:]+/)+")


def public_json(content: Mapping[str, Any]) -> bytes:
    """A manifest (run.json, train.json) as it may be published; idempotent."""
    return (json.dumps(_public(content), indent=2, ensure_ascii=False) + "\n").encode()


def public_text(text: str) -> str:
    """A message without the directories of the paths in it, and without tokens."""
    return without_secrets(_DIRECTORIES.sub("", text))


def public_setting(value: Any) -> Any:
    """A setting without directories of this machine, and without tokens."""
    if isinstance(value, dict):
        return {
            key: _LEFT_OUT[key] if key in _LEFT_OUT else public_setting(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [public_setting(inner) for inner in value]
    return clean_name(value) if isinstance(value, str) and "/" in value else value


def clean_name(name: str) -> str:
    """A name as the public may see it: of a local path the last part, and no tokens."""
    return without_secrets(public_name(name))


def _public(value: Any, key: str = "") -> Any:
    if key in _AS_IT_IS:
        return value
    if key in _LEFT_OUT:
        return _LEFT_OUT[key]
    if isinstance(value, dict):
        return {name: _public(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_public(inner, key) for inner in value]
    if not isinstance(value, str) or not value:
        return value
    is_path = is_local(value) if key in _NAMES else _PATH.fullmatch(value) is not None
    return without_secrets(f"./{public_name(value)}" if is_path else value)
