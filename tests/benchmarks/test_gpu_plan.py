"""benchmarks/gpu.py: its plan fits the time, what matters most comes first, the rest is named."""

import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import safe_open

from benchmarks import gpu
from sso_data.world import policy_dir

SCRIPT = ["gpu.py", "--out"]


def planned(*options: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    monkeypatch.setattr(sys, "argv", [*SCRIPT, "results.json", *options])
    return gpu.plan(gpu.parse())


@pytest.mark.parametrize("options", [(), ("--model", "DIR")])
def test_the_plan_fits_ten_minutes_with_vllm_first(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = planned(*options, monkeypatch=monkeypatch)
    assert sum(seconds for _, _, seconds in parts) <= gpu.SECONDS == 600
    real = "model" if options else "0.5B"
    assert [(name, what) for name, what, _ in parts[:6]] == [
        ("rows", "vllm"),
        ("agree", f"{real} vllm"),
        *(("vllm", f"0.5B {step}") for step in ("8192 V1", "8192", "2048", "16384")),
    ]
    first = [name for name, _, _ in parts[6:]]
    assert list(dict.fromkeys(first)) == [
        *("steps", "memory", "head", "agree", "references", "engine"),
    ]


def test_a_real_model_takes_the_place_of_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    random = planned(monkeypatch=monkeypatch)
    real = planned("--model", "DIR", monkeypatch=monkeypatch)
    changed = [(one[:2], other[1]) for one, other in zip(random, real, strict=True) if one != other]
    assert changed == [
        (("agree", "0.5B vllm"), "model vllm"),
        (("steps", "1.5B"), "model"),
        (("memory", "1.5B bfloat16"), "model bfloat16"),
        (("agree", "0.5B transformers"), "model transformers"),
        (("references", "policy vllm"), "model vllm"),
        (("engine", "0.5B"), "model"),
    ]


def test_every_part_is_in_both_plans_and_another_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ((), ("--tiny",)):
        names = {name for name, _, _ in planned(*options, monkeypatch=monkeypatch)}
        assert names == gpu.PARTS.keys()
    with pytest.raises(SystemExit):
        planned("--parts", "head,vlm", monkeypatch=monkeypatch)
    assert "unknown part 'vlm'; parts are rows, vllm," in capsys.readouterr().err


def test_a_part_that_cannot_end_in_time_is_named_and_the_next_call_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 120 s the first takes 70: the 55 s of agreement are too many, the 15 of the head not."""
    clock = SimpleNamespace(now=0.0, asked=[])

    def measured(name: str, what: str, seconds: float) -> dict[str, Any]:
        clock.asked.append((name, seconds))
        clock.now += 70 if name == "rows" else 10
        return {"found": name}

    monkeypatch.setattr(gpu, "PLAN", (("rows", "", 60), ("agree", "", 55), ("head", "", 15)))
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(gpu, "in_process", measured)
    monkeypatch.setattr(gpu, "machine", lambda: {"device": "none"})
    monkeypatch.setattr(sys, "path", [*sys.path])
    out = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", [*SCRIPT, str(out), "--seconds", "120"])
    gpu.main()
    found = json.loads(out.read_text())
    assert found["agree, "] == {"not measured": "it is given 55 s, and 50 s were left"}
    assert clock.asked == [("rows", 120), ("head", 30)], "ended at twice its time at the latest"
    assert capsys.readouterr().err.endswith("not measured: agree, \n")
    gpu.main()
    assert clock.asked[2:] == [("agree", 110)]
    assert json.loads(out.read_text())["agree, "] == {"found": "agree"}
    assert "not measured" not in capsys.readouterr().err


def test_the_sizes_of_a_real_model_are_those_of_its_files() -> None:
    with safe_open(policy_dir() / "model.safetensors", "numpy") as file:
        count = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    found = gpu.shape("model", Namespace(model=str(policy_dir())))
    assert found.parameters == count


def test_trl_that_fails_does_not_take_the_other_steps_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(command: list[str], **_: Any) -> SimpleNamespace:
        is_bad = "trl" in command[-1]
        found = {"ratios": {}, "sides": command[-1].split(","), "dtype": "bfloat16"}
        error = "trl: ended with exit code 1" * is_bad
        return SimpleNamespace(returncode=is_bad, stdout=json.dumps(found), stderr=error)

    monkeypatch.setattr(gpu, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=str)))
    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(run=run))
    found = gpu.steps("0.5B", Namespace(tiny=False, model=""))
    assert found["sides"] == ["authors", "ours"]
    assert found["trl"] == "not measured: trl: ended with exit code 1"
