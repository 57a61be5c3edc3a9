"""Progress where stderr is no terminal: a line now and then, with the time left."""

import time

import pytest

from sso_data.cli.progress import showing_progress


def test_a_line_now_and_then_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with showing_progress() as shown:
        shown._bar.get_time = lambda: now  # rich measures the speed: 488 rows in 6 seconds
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
        "1000/4000 answers written, 0:00:37 left",
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
