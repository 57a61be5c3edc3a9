"""The vectorised filter and the naive one agree on random rows, whatever the settings."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sso_data.config.run import FilterConfig
from sso_data.core.records import ALL_CELLS, VIEWS, Cell, Row
from sso_data.filtering.filters import decide, passing
from tests.factories import MEANS, encode_rows, make_row
from tests.filtering.naive import naive_reasons

ECHO = "Name one thing that it says of kites."
"""The first principle of both sides, and the text of some responses."""
TEXTS = ("A kite.", "A kite!", "A toy.", "Flies.", "As INSTRUCTED, a kite.", ECHO, "", " \n")
STEPS = (st.integers(-3, 3) | st.integers(-10, 10)).map(lambda step: step / 8)


@st.composite
def rows(draw: st.DrawFn, index: int = 0) -> Row:
    """A row near the perfect one: means on a grid of 1/8, token counts powers of two (or 0)."""
    spoilt = draw(st.booleans())
    means: dict[Cell, float | None] = {cell: mean + draw(STEPS) for cell, mean in MEANS.items()}
    if not spoilt:
        return make_row(draw(st.integers(0, 9)), means=means)
    if draw(st.booleans()):
        means[draw(st.sampled_from(ALL_CELLS))] = None
    row = make_row(
        draw(st.integers(0, 9)),
        means=means,
        texts={view: draw(st.sampled_from(TEXTS)) for view in VIEWS},
        tokens={view: draw(st.sampled_from((0, 1, 4, 8, 8, 8, 16))) for view in VIEWS},
        finish={
            view: draw(st.sampled_from(("stop",) * 6 + ("length", "unclosed_thinking")))
            for view in VIEWS
        },
    )
    steering = replace(row.steering, good=(ECHO, "Be right."), bad=("Be dull.", ECHO))
    return replace(row, steering=steering)


QUANTILES = st.sampled_from(("q0", "q0.2", "q0.5", "q0.7", "q0.8", "q1", "q1.0"))
CONFIGS = st.builds(
    FilterConfig,
    preset=st.sampled_from(("closeness", "reference")),
    steered=st.sampled_from(("chain", "contrast", "off")),
    keep_best=st.sampled_from((1.0, 1.0, 0.9, 0.5, 0.01)),
    closeness=st.sampled_from((0.0, 0.125, 0.25, 0.3, 0.5)) | QUANTILES,
    gap=st.sampled_from((0.0, 0.05, 1.25, 1.5)) | QUANTILES,
    closeness_offset=st.sampled_from((0.0, 0.0, 1.0, 3.0)),
    strict_paper=st.booleans(),
    drop_truncated=st.booleans(),
    drop_leaks=st.booleans(),
    drop_echoes=st.booleans(),
    min_tokens=st.sampled_from((0, 1, 8)),
    max_tokens=st.sampled_from((None, 8)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(rows(), max_size=24), CONFIGS)
def test_same_reasons(some: list[Row], config: FilterConfig) -> None:
    decision = decide(encode_rows(some), config)
    mine = [decision.reason(i) for i in range(len(some))]
    assert mine == naive_reasons([row.to_json() for row in some], config)
    assert len(some) == len(decision.kept) + sum(decision.dropped.values())
    assert len(some) == len(decision.kept) + np.count_nonzero(decision.reason_code)


@settings(max_examples=200, deadline=None)
@given(rows(), CONFIGS)
def test_a_row_alone(row: Row, config: FilterConfig) -> None:
    """One row passes where the filter keeps it, but for limits that come from other rows."""
    alone = decide(encode_rows([row]), config).reason(0)
    passes = bool(passing(encode_rows([row]), config)[0])
    if config.preset == "closeness" and isinstance(config.closeness, float):
        absolute = isinstance(config.gap, float)
        assert passes == (alone is None or (alone == "gap" and not absolute))
    elif alone not in {"off_policy", "gap"} or config.preset == "reference":
        assert passes == (alone is None or alone in {"off_policy", "gap"})
