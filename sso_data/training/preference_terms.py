"""The three preference terms of SSO: under which view which response is preferred to which.

Shape letters of this package: B rows, C terms in the order of PREFERENCE_TERMS, S sides
(preferred, other).
"""

from collections.abc import Mapping
from typing import Literal

from sso_data.core.records import Cell, View

PreferenceTerm = Literal["base", "good", "bad"]

PREFERENCE_TERMS: tuple[PreferenceTerm, ...] = ("base", "good", "bad")
SEEN: Mapping[PreferenceTerm, View] = {"base": "plain", "good": "good", "bad": "bad"}
DRAWN: Mapping[PreferenceTerm, tuple[View, View]] = {
    "base": ("good", "bad"),
    "good": ("good", "bad"),
    "bad": ("plain", "good"),
}
"""The views that the preferred and the other response were drawn under: y+ over y-, and under the
bad view y0 over y+."""


def cells_of(contrast: PreferenceTerm) -> tuple[Cell, Cell]:
    """(seen, drawn) of the preferred and of the other side."""
    preferred, other = DRAWN[contrast]
    return (SEEN[contrast], preferred), (SEEN[contrast], other)
