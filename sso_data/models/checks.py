"""Checks of a model before any work: what would fail at the end is said at the start."""

import json
import shutil
from collections import Counter
from pathlib import Path

from sso_data.core.errors import ModelError, RunError
from sso_data.core.records import Message
from sso_data.models.facts import ModelFacts
from sso_data.templating.chat_template import ChatTemplate

_LEAST_ROOM = 16
"""Tokens that must fit beside the shortest prompt."""
_TRAINABLE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Number formats of weights that can be trained, as safetensors names them, and their bytes."""
_STATE_BYTES = 12
"""Bytes of a checkpoint for each weight: itself and AdamW's two moments, in float32."""


def check_model(directory: Path, template: ChatTemplate, facts: ModelFacts) -> list[str]:
    """What is odd about a model, in lines for a person.

    Raises ModelError for a template that this model cannot be asked or trained with.
    """
    turns = [Message(role="user", content="Hello"), Message(role="assistant", content="Hello")]
    ids = template.ids((turns[0],))
    whole = template.plain_ids(template.render(turns, generation=False))
    name = template.tokenizer.convert_ids_to_tokens
    if (last := max([*ids, *whole])) >= facts.vocab_size:
        raise ModelError(
            f"{directory}: its chat template uses the token {name(last)!r} (id {last}), and the "
            f"model has {facts.vocab_size} embeddings; use the tokenizer that the model was "
            "trained with, or resize its embeddings"
        )
    if len(ids) + _LEAST_ROOM > facts.context:
        raise ModelError(
            f"{directory}: its context of {facts.context} tokens is too small: the chat template "
            f"alone takes {len(ids)}; use another model, or raise engine.max_model_len if it is set"
        )
    if facts.turn_end is None:
        return []
    return [
        f"the chat template ends turns with {name(facts.turn_end)!r}, which no EOS list of the "
        "model names: responses stop there, too"
    ]


def check_trainable(directory: Path) -> None:
    """Raise ModelError for quantized weights, which no gradient can change."""
    formats = weight_formats(directory)
    odd = sorted(kind for kind in formats if kind not in _TRAINABLE and kind.startswith("F"))
    config = json.loads((directory / "config.json").read_bytes())
    method = (config.get("quantization_config") or {}).get("quant_method")
    if odd or method:
        raise ModelError(
            f"{directory}: its weights are quantized ({method or ', '.join(odd)}) and cannot be "
            "trained; use the model that they were made of"
        )


def weight_formats(directory: Path) -> Counter[str]:
    """The numbers in a model's safetensors files by their format; ModelError for a broken file."""
    found: Counter[str] = Counter()
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        except (OSError, ValueError) as error:
            raise ModelError(f"{file}: not a safetensors file; download the model again") from error
        for tensor, facts in header.items():
            if tensor != "__metadata__":
                size, (start, end) = 1, facts["data_offsets"]
                for length in facts["shape"]:
                    size *= length
                found[facts["dtype"]] += size if end > start else 0
    return found


def check_space(directory: Path, out: Path, *, saved_bytes: int, checkpoints: int) -> str | None:
    """A warning where the disk may be too small for a training of `directory` into `out`.

    `saved_bytes`: bytes of a saved weight; `checkpoints`: how many whole ones there are at once.
    Raises RunError where not even the model fits.
    """
    numbers = weight_formats(directory).total()
    model = numbers * saved_bytes
    needed = model + checkpoints * numbers * _STATE_BYTES
    place = next(one for one in (out, *out.absolute().parents) if one.exists())
    free = shutil.disk_usage(place).free
    line = f"{out}: {free / 2**30:.1f} GiB of disk are free"
    if free < model:
        raise RunError(f"{line}, the trained model takes {model / 2**30:.1f} GiB; free some space")
    if free >= needed:
        return None
    return (
        f"{line}, model and checkpoints may take {needed / 2**30:.1f} GiB; free some, or lower "
        "checkpoints.keep"
    )
