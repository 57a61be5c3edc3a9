"""What is compared of a run, a training, an iteration, an evaluation and an augmentation.

Everything is read from the files that the commands wrote, without the package's own readers.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sso_data.core.fingerprints import sampled

Json = dict[str, Any]

SIDES = ("chosen", "rejected", "original")
SAMPLES = 64
"""Elements of a weight's change that are kept, evenly spread over the tensor."""


def lines_of(file: Path) -> list[Json]:
    """The objects of a file of JSON lines without their checksums; a torn last line is left out.

    Fingerprints are cut to what the earlier version recorded.
    """
    text = sampled(file.read_text(encoding="utf-8"))
    whole, _, _ = text.rpartition("\n")
    rows = [json.loads(line) for line in whole.splitlines()]
    return [{key: value for key, value in row.items() if key != "crc"} for row in rows]


def object_of(file: Path) -> Json:
    """The object of a JSON file."""
    found: Json = json.loads(sampled(file.read_text(encoding="utf-8")))
    return found


def rows_of(run: Path) -> dict[str, Json]:
    """The whole rows of a run's journal by id."""
    parts = sorted((run / "rows").glob("*.jsonl"))
    return {row["id"]: row for part in parts for row in lines_of(part)}


def run_content(run: Path) -> Json:
    """Rows, failures and pairs of a run, each in the order of their ids."""
    rows = rows_of(run)
    failures = {line["id"]: line for line in lines_of(run / "failed.jsonl")}
    return {
        "rows": {identity: _row_content(rows[identity]) for identity in sorted(rows)},
        "failed": {
            identity: {key: failures[identity][key] for key in ("stage", "reason", "attempts")}
            for identity in sorted(failures)
        },
        "pairs": sorted(row["id"] for row in lines_of(run / "pairs" / "train.jsonl")),
        "dropped": object_of(run / "pairs" / "filter.json")["dropped"],
        "prompts": object_of(run / "run.json")["prompts"],
    }


def _row_content(row: Json) -> Json:
    """`exact`: what no processor changes; `tokens` and `logp`: what was sampled and scored."""
    tokens = tuple(f"{side}_token_ids" for side in SIDES)
    counted = tuple(f"{side}_{what}" for side in SIDES for what in ("num_tokens", "finish_reason"))
    left_out = ("schema_version", *tokens, *counted, *SIDES)
    return {
        "exact": {
            key: value
            for key, value in row.items()
            if key not in left_out and not key.startswith("logp_")
        },
        "tokens": {key: row[key] for key in tokens},
        "logp": {key: value for key, value in row.items() if key.startswith("logp_")},
    }


def steering_content(run: Path) -> list[Json]:
    """What models said about the prompts, in the order of the prompts' ids."""
    lines = lines_of(run / "steering.jsonl")
    return sorted(lines, key=lambda line: (line["id"], line["kind"]))


def training_content(out: Path, start: Path) -> Json:
    """Metrics of every step, and how the weights differ from those of the model in `start`."""
    manifest = object_of(out / "train.json")
    return {
        "steps": manifest["steps"],
        "stopped": manifest["stopped"],
        "training": manifest["data"]["training"],
        "held_out": manifest["data"]["held_out"],
        "references": manifest["references"].get("source"),
        "metrics": lines_of(out / "metrics.jsonl"),
        "weights": weights_content(out, start),
    }


def weights_content(out: Path, start: Path) -> Json:
    """Of each tensor its norm and sum, and of its change the norm and some elements.

    A tensor that the model in `start` does not have is taken to have been 0 there.
    """
    before = _tensors(start)
    found = {}
    for name, tensor in sorted(_tensors(out).items()):
        change = tensor - before.get(name, torch.zeros_like(tensor))
        flat = change.flatten()
        step = max(1, flat.numel() // SAMPLES)
        found[name] = {
            "shape": list(tensor.shape),
            "norm": _short(tensor.norm()),
            "sum": _short(tensor.sum()),
            "change_norm": _short(change.norm()),
            "change": [_short(value) for value in flat[::step][:SAMPLES]],
        }
    return found


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model or of an adapter, in float64."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor.double() for file in files for name, tensor in load_file(file).items()}


def _short(value: torch.Tensor) -> float:
    return float(f"{float(value):.6g}")


def iteration_content(out: Path) -> Json:
    """The table over the rounds, and where its policies come from."""
    manifest = object_of(out / "iterate.json")
    return {
        "table": [_table_line(line) for line in lines_of(out / "rounds.jsonl")],
        "rounds": [line["round"] for line in manifest["rounds"]],
        "sources": [line["source"] for line in manifest["rounds"]],
        "first": manifest["first"],
        "runs": [run_content(folder) for folder in sorted(out.glob("round-*/run"))],
    }


def _table_line(line: Json) -> Json:
    """Without the policy's fingerprint, and without counts of margins that are 0 at the start."""
    return {
        key: value
        for key, value in line.items()
        if key != "policy" and not key.startswith("train_accuracy")
    }


def evaluation_content(out: Path) -> Json:
    """The numbers of eval.json, and the answers of the other model in the order of their ids."""
    result = object_of(out / "eval.json")
    answers = sorted(lines_of(out / "against" / "answers.jsonl"), key=lambda line: str(line["id"]))
    return {
        "result": _without(result, ("seconds", "commands", "notes", "exported")),
        "answers": answers,
        "run": run_content(out / "model"),
    }


def augmentation_content(out: Path) -> Json:
    """New queries and rejected attempts, both in the order in which they were decided."""
    report = object_of(out.with_name(f"{out.name}.report.json"))
    return {
        "queries": lines_of(out),
        "rejected": lines_of(out.with_name(f"{out.name}.rejected.jsonl")),
        "state": report["state"],
        "accepted": report["accepted"],
        "attempts": report["attempts"],
    }


def _without(line: Mapping[str, Any], keys: Iterable[str]) -> Json:
    return {key: value for key, value in line.items() if key not in keys}
