"""Progress where stderr is no terminal: a line now and then, with the time left."""

import io
import re
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sso_data.cli import progress
from sso_data.cli.generating import _work
from sso_data.cli.progress import Speed, showing_progress
from sso_data.generation.generate import _state
from sso_data.generation.pipeline import RowCounts


def test_a_line_now_and_then_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with showing_progress() as shown:
        for done in (256, 512, 1000, 2000, 4000):
            shown.count(done, 4000, "answers written")
            now += 6.0
        now += 6.0
        shown.count(10, 20, "pairs written", "kept 50%")
        shown.note("a finding")
        shown.warn("a danger")
        shown.phase("a phase")
    assert capsys.readouterr().err.splitlines() == [
        "256/4000 answers written",
        "1000/4000 answers written, 0:00:12 elapsed, 0:00:48 left",  # 744 in 12 s
        "4000/4000 answers written",
        "10/20 pairs written, kept 50%",
        "a finding",
        "warning: a danger",
        "a phase",
    ]


def test_while_nothing_more_is_done_a_line_is_not_printed_for_every_change_of_speed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All responses are there after 4 s, and their scores come for 15 s more."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with showing_progress() as shown:
        shown.count(0, 24, "responses")
        for second in range(4, 20):
            now = 100.0 + second
            shown.count(24, 24, "responses", f"{240 / second:.0f} tokens/s")
    assert capsys.readouterr().err.splitlines() == [
        "0/24 responses",
        "24/24 responses, 24 tokens/s",
        "24/24 responses, 13 tokens/s",
    ]


def test_what_goes_on_after_the_last_response_is_named() -> None:
    counts = RowCounts(rows=50, responses=30, tokens=900, seconds=9.0)
    assert _state(counts, 0.5, 10) == "scoring the last 10, 50 rows, kept 50%, 100 tokens/s"
    assert _state(counts, 0.5).startswith("50 rows")


def test_the_times_and_the_speed_at_the_end_divide() -> None:
    """60 rows in 15 of 41 s: 4 a second, and the other 26 s were loading."""
    counts = RowCounts(rows=60, tokens=3000, seconds=15.0)
    done: Any = SimpleNamespace(counts=counts, seconds=41.0, cost=lambda price: price)
    assert _work(done, None) == "0:00:41, of which 0:00:15 on rows at 4 rows/s, 200 tokens/s"
    assert _work(done, 1.0).endswith("200 tokens/s; cost 1.00, loading included")
    none: Any = SimpleNamespace(counts=RowCounts(), seconds=1.0, cost=lambda _: None)
    assert _work(none, None) == "0:00:01"


def test_bytes_are_shown_in_units(capsys: pytest.CaptureFixture[str]) -> None:
    with showing_progress() as shown:
        shown.count(1_500_000, 3_000_000_000, "bytes")
    assert capsys.readouterr().err == "1.5 MB of 3.0 GB\n"


@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_shows_both_times_by_name(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 of 3000 responses in 10 s: 90 s are left, on one line of any terminal."""
    screen, now = io.StringIO(), 100.0
    terminal = partial(
        Console,
        file=screen,
        force_terminal=True,
        width=columns,
        color_system=None,
        get_time=lambda: now,
        _environ={},
    )
    monkeypatch.setattr(progress, "SafeConsole", lambda **_: terminal())
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with showing_progress() as shown:
        shown.count(0, 3000, "responses")
        shown.count(0, 8, "parts")
        now += 2.0
        shown.count(8, 8, "parts", "scoring the last 3")
        shown._bar.refresh()
        shown.count(0, 3000, "responses")
        now += 10.0
        shown.count(300, 3000, "responses", "90 rows, kept 61%, 2 failed, 12,345 tokens/s")
        shown._bar.refresh()
        shown.phase("loading /a/long/path/of/a/model " * 9)
        now += 7.0
        shown._bar.refresh()
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in screen.getvalue().split("\r")]
    drawn = [line for line in lines if "300/3000" in line]
    assert drawn and all(line.strip().endswith("0:00:10 elapsed, 0:01:30 left") for line in drawn)
    assert any("scoring the last 3" in line for line in lines), "the phase after the last one"
    assert not any("8/8" in line and "left" in line for line in lines)
    loading = [line for line in lines if "loading /a/long" in line and "0:00:07" in line]
    assert loading and all(line.strip().endswith("0:00:07 elapsed") for line in loading)
    assert all(len(line.strip("\n")) <= columns for line in loading)
    assert all(("90 rows, kept 61%" in line) and len(line.strip("\n")) <= columns for line in drawn)


def test_speed_forgets_what_is_long_ago() -> None:
    """100 s at 1/s, then 400 s at 10/s: of the last five minutes only the latter counts."""
    speed = Speed(0.0, 50.0)
    assert speed.seconds(100) is None, "nothing was done yet"
    for second in range(1, 501):
        speed.add(float(second), 50.0 + min(second, 100) + 10 * max(0, second - 100))
    assert speed.seconds(100) == pytest.approx(10.0)
