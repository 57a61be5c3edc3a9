"""Progress of an export where stderr is no terminal: a line now and then, with the time left."""

import pytest

from sso_data.cli import progress
from sso_data.cli.progress import PlainListener


def test_a_line_now_and_then_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    listener = PlainListener()
    for done in (256, 512, 1000, 2000, 4000):
        listener.written(done, 4000, "answers")
        now += 6.0
    now += 6.0
    listener.written(10, 20, "pairs")
    assert capsys.readouterr().err.splitlines() == [
        "256/4000 answers written",
        "1000/4000 answers written, 0:00:48 left",
        "4000/4000 answers written",
        "10/20 pairs written",
    ]
