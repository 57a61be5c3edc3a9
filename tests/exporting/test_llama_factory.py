"""LLaMA-Factory on exported files, in an environment of its own: `make test-llama-factory`."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sso_data.exporting.export import export
from sso_data.world import policy_dir
from tests.exporting.making import lines_of, make_run
from tests.exporting.test_trl import policy_rows

PYTHON = os.environ.get("SSO_DATA_LLAMA_FACTORY")
WORKER = Path(__file__).with_name("llama_factory_worker.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="needs LLaMA-Factory: make test-llama-factory"),
]


def float32_policy(folder: Path) -> Path:
    """The tiny policy with float32 weights: bfloat16 arithmetic differs between processors."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(policy_dir(), folder)  # the tokenizer as it is: LLaMA-Factory reads version 4
    AutoModelForCausalLM.from_pretrained(policy_dir(), dtype="float32").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("source", ["export", "pairs"])
def test_every_row_is_kept_with_the_tokens_that_were_sampled(tmp_path: Path, source: str) -> None:
    """The exported file, and the run's own pairs/train.jsonl in its place."""
    run = make_run(
        tmp_path / "run", policy_rows(12), model=str(float32_policy(tmp_path / "policy"))
    )
    out = tmp_path / "out"
    export(run, "llama-factory", out)
    rows = lines_of(run / "pairs" / "train.jsonl")
    if source == "pairs":
        shutil.copy(run / "pairs" / "train.jsonl", out / "train.jsonl")
    done = subprocess.run(
        [str(PYTHON), str(WORKER), str(out), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads((tmp_path / "converted.json").read_text())
    assert len(found) == len(rows) == 12
    for one, row in zip(found, rows, strict=True):
        assert one["chosen"] == row["chosen_token_ids"]
        assert one["rejected"] == row["rejected_token_ids"]
    log = json.loads((tmp_path / "log.json").read_text())
    assert log[0]["loss"] == pytest.approx((1 / (2 * 0.2)) ** 2, abs=0.01), "IPO, not sigmoid"
