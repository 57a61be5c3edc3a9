"""Runs in an environment with LLaMA-Factory: converts an exported directory, trains one step.

`python llama_factory_worker.py DIR OUT` writes OUT/converted.json (of each row the ids that are
trained on) and OUT/log.json (what was logged).
"""

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - before the stand-in below: it looks for the real torchaudio
import transformers  # noqa: F401
import yaml

sound = types.ModuleType("torchaudio")  # imported for sounds, of which there are none here
sound.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
sys.modules["torchaudio"] = sound

from llamafactory.data.loader import get_dataset  # noqa: E402
from llamafactory.data.template import get_template_and_fix_tokenizer  # noqa: E402
from llamafactory.hparams import get_train_args  # noqa: E402
from llamafactory.model import load_tokenizer  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402

IGNORED = -100


def arguments(directory: Path, out: Path) -> dict[str, Any]:
    """The recipe, with what a CPU and one step need."""
    recipe = yaml.safe_load((directory / "dpo.yaml").read_text(encoding="utf-8"))
    short = {"max_steps": 1, "gradient_accumulation_steps": 1, "output_dir": str(out / "model")}
    return {**recipe, **short, "use_cpu": True, "bf16": False, "overwrite_cache": True}


def converted(options: dict[str, Any]) -> list[dict[str, list[int]]]:
    """The ids of chosen and rejected that are trained on, of every row that is kept."""
    model, data, training, _, _ = get_train_args(options)
    module = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data)
    rows = get_dataset(template, model, data, training, stage="rm", **module)["train_dataset"]
    return [
        {
            side: [i for i in row[f"{side}_labels"] if i != IGNORED]
            for side in ("chosen", "rejected")
        }
        for row in rows
    ]


def main(directory: Path, out: Path) -> None:
    options = arguments(directory, out)
    (out / "converted.json").write_text(json.dumps(converted(dict(options))))
    run_exp(dict(options))
    state = json.loads((out / "model" / "trainer_state.json").read_text())
    (out / "log.json").write_text(json.dumps(state["log_history"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
