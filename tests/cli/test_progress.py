"""Progress where stderr is no terminal: a line now and then, with the time left."""

import io
import re
import time
from functools import partial

import pytest
from rich.console import Console

from sso_data.cli import progress
from sso_data.cli.progress import Speed, showing_progress


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
        now += 10.0
        shown.count(300, 3000, "responses", "90 rows, kept 61%, 2 failed, 12,345 tokens/s")
        shown._bar.refresh()
        shown.phase("loading /a/long/path/of/a/model " * 9)
        now += 7.0
        shown._bar.refresh()
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in screen.getvalue().split("\r")]
    drawn = [line for line in lines if "300/3000" in line]
    assert drawn and all(line.strip().endswith("0:00:10 elapsed, 0:01:30 left") for line in drawn)
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
