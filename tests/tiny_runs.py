"""Runs of the tiny policy for tests that train on one or judge it."""

import json
from pathlib import Path
from typing import Any

from sso_data.demo import demo_config
from sso_data.generation.generate import generate
from sso_data.world import queries


class Silent:
    """A listener that hears nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


def tiny_run(folder: Path, number: int, *, seed: int, keep: bool = False, **sampling: Any) -> Path:
    """A run of `number` queries in `folder`; with `keep` its filter keeps every steered row."""
    prompts = folder / "prompts.jsonl"
    lines = [json.dumps({"prompt": text}) + "\n" for text in queries(number, seed=seed)]
    prompts.write_text("".join(lines))
    config = demo_config()
    loose = {"closeness": "q1.0", "gap": "q0.0"} if keep else {}
    changed = {
        "filter": config.filter.model_copy(update=loose),
        "sampling": config.sampling.model_copy(update=sampling),
    }
    generate(str(prompts), folder / "run", config.model_copy(update=changed), Silent())
    return folder / "run"
