"""Whose a manifest is: run.json and train.json compared with those that lie elsewhere."""

import json
from collections.abc import Mapping
from typing import Any

from sso_data.config.migration import Kind, upgraded
from sso_data.runs.workdir import differences


def difference(there: bytes, here: Mapping[str, Any], *keys: str, kind: Kind = "run") -> str | None:
    """What tells the run or training of another manifest from ours, or None.

    Besides the identity the values of `keys` must agree. `there`, a manifest of this `kind`, may be
    of an earlier format than `here`.
    """
    try:
        content = upgraded(json.loads(there), kind)
        identity = dict(content["identity"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "its manifest is not readable"
    changed = differences(identity, here["identity"])
    changed += differences(
        {key: content.get(key) for key in keys}, {key: here.get(key) for key in keys}
    )
    more = f" (and {len(changed) - 2} more)" if len(changed) > 2 else ""
    return "; ".join(changed[:2]) + more if changed else None
