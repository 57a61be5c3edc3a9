"""The three preference terms of SSO: under which view which response is preferred to which.

Shape letters of this package: B rows, C contrasts in the order of CONTRASTS, S sides (preferred,
other).
"""

from collections.abc import Mapping
from typing import Literal

from sso_data.core.records import Cell, View

Contrast = Literal["base", "good", "bad"]

CONTRASTS: tuple[Contrast, ...] = ("base", "good", "bad")
SEEN: Mapping[Contrast, View] = {"base": "plain", "good": "good", "bad": "bad"}
DRAWN: Mapping[Contrast, tuple[View, View]] = {
    "base": ("good", "bad"),
    "good": ("good", "bad"),
    "bad": ("plain", "good"),
}
"""The views that the preferred and the other response were drawn under: y+ over y-, and under the
bad view y0 over y+."""


def cells_of(contrast: Contrast) -> tuple[Cell, Cell]:
    """(seen, drawn) of the preferred and of the other side."""
    preferred, other = DRAWN[contrast]
    return (SEEN[contrast], preferred), (SEEN[contrast], other)
