"""`demo --real` from its estimate to its last line, with the tiny policy in the model's place."""

import re
from pathlib import Path

import pytest

from sso_data import demo
from sso_data.core.progress import NullProgress
from sso_data.world import policy_dir


class Notes(NullProgress):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def test_the_story_with_the_tiny_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inline = {"name": "transformers", "isolation": "inline", "dtype": "float32", "threads": 1}
    monkeypatch.setattr(demo, "_REAL_ENGINE", inline)
    monkeypatch.setattr(demo, "_REAL_STEPS", 2)
    monkeypatch.setattr(demo, "find_smollm2", lambda progress: policy_dir())
    progress = Notes()
    result = demo.run_demo(tmp_path / "run", 8, progress, real=True)
    assert result.summary.account.rows == 8
    estimates = [line for line in progress.told if "minutes from here on" in line]
    assert len(estimates) == 1
    pattern = r"at most about \d+ minutes .*generating [\d.]+, training [\d.]+, asking"
    assert re.match(pattern, estimates[0])
    assert progress.told.index(estimates[0]) < progress.told.index("8 prompts")
    assert result.trained and (result.trained.steps, result.trained.queries) == (2, 16)
    assert (tmp_path / "run" / "trained" / "adapter_model.safetensors").is_file()
    lines = result.verdict.splitlines()
    assert re.match(r"chosen shorter than rejected, all rows: +[01]\.\d+ over 8 rows", lines[0])
    assert re.match(r"words of an unprompted answer: .* before, .* after 2 steps", lines[2])


@pytest.mark.parametrize(("after", "shown"), [(-1.0, "; no difference shown"), (-3.0, "")])
def test_a_difference_is_one_beyond_two_errors(after: float, shown: str) -> None:
    found = demo.Round(queries=16, before=0.0, after=after, gain_error=1.0, steps=2)
    assert str(found).endswith(f"({after:+.3f} +- 1.000, 16 held-out queries{shown})")


def test_words_are_counted_by_hand() -> None:
    """Chosen has fewer words twice, as many once and more once: 2.5 of 4."""
    pairs = [(1, 2), (3, 9), (4, 4), (5, 1)]
    assert demo.share_better([a for a, _ in pairs], [b for _, b in pairs], less=True) == 0.625
    assert demo.share_better([a for a, _ in pairs], [b for _, b in pairs], less=False) == 0.375
