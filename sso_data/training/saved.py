"""What is left of a training: D of the weights in memory, of the saved files, and in bfloat16.

Every D is measured on the same rows by the same code, against the starting model in that code too.
Models are loaded one after the other, when the trained one's memory is free.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from sso_data.core.errors import SsoDataError, described
from sso_data.core.statistics import Estimate, mean_of
from sso_data.models.memory import release_device_memory
from sso_data.models.training_model import PolicyFiles, load_trained
from sso_data.training.encode import EncodedRow
from sso_data.training.reference import evenly
from sso_data.training.row_trainer import RowTrainer

COMPARED_ROWS = 64
ENGINE_DTYPE = torch.bfloat16
"""What vLLM, and `engine.dtype: auto`, load on a GPU; on a CPU the saved weights themselves."""

_LOST = 0.1
"""A share of D in memory; a smaller difference is not warned about."""

Floats = NDArray[np.float64]
Load = Callable[[Path], Any]
"""Loads the whole model of a directory in float32."""


def fixed_rows(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """At most 64 rows, spread over their ids: the same ones in whatever order they come."""
    ordered = sorted(rows, key=lambda row: row.id)
    return [ordered[index] for index in evenly(len(ordered), COMPARED_ROWS)]


def compare(
    trainer: RowTrainer, policy: PolicyFiles, load: Load, out: Path, memory: Floats | None
) -> dict[str, Any]:
    """The comparison for train.json; `memory`: preferences of the trained weights on `fixed_rows`.

    Frees the trainer's weights and optimizer. A model that cannot be loaded here (or does not fit)
    leaves the shares of changed weights, and says so under `error`.
    """
    rows = fixed_rows(trainer.train_dataset.rows)
    found: dict[str, Any] = {"rows": len(rows), "of": trainer.preference_of}
    saved_dtype, *shares = changed_shares(policy.directory, out)
    found |= dict(zip(("changed_saved", "changed_loaded"), shares, strict=True))
    found["saved_dtype"] = str(saved_dtype).removeprefix("torch.")
    _release(trainer)

    def preferences(directory: Path, dtype: torch.dtype | None = None) -> Floats:
        model = load_trained(directory, policy, load)
        for parameter in model.parameters():
            if dtype is not None:
                parameter.data = parameter.data.to(dtype).to(parameter.dtype)
        return trainer.preferences(model.to(trainer.args.device), rows)

    try:
        saved = preferences(out)
        loaded = saved if saved_dtype is ENGINE_DTYPE else preferences(out, ENGINE_DTYPE)
        start = start_loaded = np.zeros(len(rows))  # of a new reward head
        if trainer.starts_from_policy:
            start = start_loaded = preferences(policy.directory)
            if policy.dtype is not ENGINE_DTYPE:
                start_loaded = preferences(policy.directory, ENGINE_DTYPE)
    except (torch.OutOfMemoryError, SsoDataError) as error:
        return found | {"error": described(error, 200)}
    measured = {
        "memory": None if memory is None else memory - start,
        "saved": saved - start,
        "loaded": loaded - start_loaded,
    }
    for name, values in measured.items():
        estimate = None if values is None else mean_of(values)
        found[name] = estimate and estimate.to_json()
    found["lost_saved"] = _lost(measured["memory"], measured["saved"])
    found["lost_loaded"] = _lost(measured["memory"], measured["loaded"])
    return found


def _lost(memory: Floats | None, kept: Floats | None) -> float | None:
    """The share of D in memory that is missing, 0 where no difference is shown; None: unknown."""
    if memory is None or kept is None or (apart := mean_of(memory - kept)) is None:
        return None
    whole = abs(float(memory.mean()))
    return round(abs(apart.value) / whole, 4) if apart.is_shown and whole else 0.0


def changed_shares(start: Path, saved: Path) -> tuple[torch.dtype, float | None, float | None]:
    """(number format of the saved files, shares of their weights that differ from the start's).

    The first share compares in the files' own format, the second one in bfloat16. One tensor is in
    memory at a time. Of an adapter the weights that began at 0 count; None where nothing compares.
    """
    before: dict[str, Path] = {}
    for file in sorted(start.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            before |= dict.fromkeys(opened.keys(), file)
    whole, in_files, in_engine, dtype = 0, 0, 0, torch.float32
    for file in sorted(saved.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                new = opened.get_tensor(name)
                if (old := _before(name, new, before)) is None or not new.is_floating_point():
                    continue
                dtype = new.dtype
                whole += new.numel()
                in_files += int((old.to(dtype) != new).sum())
                in_engine += int((old.to(ENGINE_DTYPE) != new.to(ENGINE_DTYPE)).sum())
    return (dtype, in_files / whole, in_engine / whole) if whole else (dtype, None, None)


def _before(name: str, new: torch.Tensor, files: dict[str, Path]) -> torch.Tensor | None:
    """The starting value of a saved weight; None where it had none, or another shape."""
    if "lora_B" in name or "lora_embedding_A" in name:
        return torch.zeros_like(new)
    if name not in files:
        return None
    with safe_open(files[name], framework="pt") as opened:
        old: torch.Tensor = opened.get_tensor(name)
    return old if old.shape == new.shape else None


def _release(trainer: RowTrainer) -> None:
    """Free the memory of the trained weights and their optimizer; sharded ones stay."""
    if trainer.optimizer is not None:
        trainer.optimizer.state.clear()
    if not trainer.is_sharded:
        for parameter in trainer.model.parameters():
            parameter.grad = None
            parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    release_device_memory()


def summary(found: dict[str, Any]) -> str:
    """The comparison in a line."""
    in_files = f"in the saved {found['saved_dtype']} files"
    words = {"memory": "in memory", "saved": in_files, "loaded": "loaded in bfloat16"}
    changed = [("of the saved weights changed", found["changed_saved"])]
    if found["saved_dtype"] == "bfloat16":
        del words["loaded"]
    else:
        changed.append(("in bfloat16", found["changed_loaded"]))
    parts = [f"{text} {Estimate(*found[name])}" for name, text in words.items() if found.get(name)]
    counts = [f"{share:.2%} {text}" for text, share in changed if share is not None]
    failed = ["D of the files was not measured"] if "error" in found else []
    what = f"{found['of']} on {found['rows']} training rows, mean and 95 % interval"
    if found["rows"] < 2:  # nothing has an interval
        what = f"{found['of']} is measured from two training rows on"
    return f"{what}: {'; '.join([*parts, ', '.join(counts), *failed])}"


def warnings(found: dict[str, Any], *, merged: bool) -> list[str]:
    """What saving, or an engine's loading, undoes of the training, each with what to do."""
    more = (
        "raise optim.lr or train more steps" + ", or keep the adapter (lora.merge=false)" * merged
    )
    lost_saved, lost_loaded = found.get("lost_saved") or 0.0, found.get("lost_loaded") or 0.0
    if lost_saved > _LOST:
        return [
            f"saving in {found['saved_dtype']} undid {lost_saved:.0%} of the training; set "
            f"optim.save_dtype=float32, {more}"
        ]
    if lost_loaded > _LOST:
        return [
            f"loaded in bfloat16, as by vLLM and by engine.dtype=auto on a GPU, {lost_loaded:.0%} "
            f"of the training is gone; sample with engine.dtype=float32, {more}"
        ]
    return []


def unchanged(found: dict[str, Any] | None) -> str | None:
    """Why a training counts as none: no weight of its files differs from the start's."""
    if not found or found["changed_saved"] != 0:
        return None
    memory = found.get("memory")
    how = "optim.save_dtype=float32 keeps them, or " if memory and any(memory) else ""
    return (
        f"nothing was trained: no weight of the saved {found['saved_dtype']} files differs from "
        f"--model's; {how}raise optim.lr or train more steps, with --overwrite"
    )
