"""A transformers model in memory: loaded from safetensors, run without gradients."""

import inspect
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineError, ModelError, described
from sso_data.models.facts import ModelFacts, free_memory
from sso_data.models.logprobs import logits_logprobs, target_logprobs


class LoadedModel:
    """The forward passes that sampling and scoring need."""

    def __init__(self, model_path: Path, config: EngineConfig, facts: ModelFacts) -> None:
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config.dtype, self.device)
        self.eos_ids = frozenset(facts.eos_ids)
        self._model = _load(model_path, config, self.dtype, self.device)
        self.config = self._model.config
        accepted = inspect.signature(self._model.forward).parameters
        self._keeps_logits = "logits_to_keep" in accepted
        self._plain_head = self._head_is_plain()
        self._kv_bytes = facts.kv_numbers * self.dtype.itemsize

    def tensor(self, values: list[Any]) -> Tensor:
        """Integers on the model's device."""
        return torch.tensor(values, dtype=torch.long, device=self.device)

    def numbers(self, values: list[float]) -> Tensor:
        """Real numbers on the model's device, fp64 where it has it."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.tensor(values, dtype=wide, device=self.device)

    def cache_room(self) -> int:
        """How many tokens the key-value cache may hold in the memory that is free now."""
        if self.device.type == "cuda":
            free = int(torch.cuda.mem_get_info(self.device)[0] * 0.6)
        else:
            free = free_memory() // 2
        return free // self._kv_bytes

    def last_logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Logits [B, V] after the last column of `ids` [B, W]; `cache` takes in the new columns."""
        options = {"logits_to_keep": 1} if self._keeps_logits else {}
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **options,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def completion_logprobs(
        self, prompts: list[list[int]], completions: list[list[int]]
    ) -> list[list[float]]:
        """Log-probs (nats) of each completion's ids directly after its prompt, in one forward pass.

        Rows are padded on the right, where causal attention never looks from inside a row; only the
        positions that predict completion ids reach the vocabulary.
        """
        rows = [p + c for p, c in zip(prompts, completions, strict=True)]
        width = max(map(len, rows))
        ids = self.tensor([row + [0] * (width - len(row)) for row in rows])
        places = [
            (row, len(prompt) - 1 + offset)
            for row, prompt in enumerate(prompts)
            for offset in range(len(completions[row]))
        ]
        row_index, column = self.tensor([list(place) for place in places]).unbind(-1)
        targets = self.tensor([token for completion in completions for token in completion])
        if self._plain_head:
            nats = self._scores_of_hidden(ids, row_index, column, targets)
        else:
            nats = self._scores_of_logits(ids, row_index, column, targets)
        split = torch.split(nats.cpu(), [len(completion) for completion in completions])
        return [part.tolist() for part in split]

    def _scores_of_hidden(self, ids: Tensor, row: Tensor, column: Tensor, ts: Tensor) -> Tensor:
        hidden = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        head = self._model.get_output_embeddings()
        return target_logprobs(hidden[row, column], head.weight, ts, head.bias)

    def _scores_of_logits(self, ids: Tensor, row: Tensor, column: Tensor, ts: Tensor) -> Tensor:
        """For heads that are more than a matrix (soft caps, scales): the model's own logits."""
        first = int(column.min()) if self._keeps_logits else 0
        options: dict[str, Any] = {}
        if self._keeps_logits:
            options["logits_to_keep"] = torch.arange(first, ids.shape[1], device=self.device)
        logits = self._model(input_ids=ids, use_cache=False, **options).logits
        places = torch.stack((row, column - first, ts), -1)
        parts = [part.unbind(-1) for part in torch.split(places, 512)]
        return torch.cat([logits_logprobs(logits[r, c], t) for r, c, t in parts])

    def _head_is_plain(self) -> bool:
        """Whether logits are exactly LM head times last hidden state, tried on one short input."""
        base, head = self._model.base_model, self._model.get_output_embeddings()
        if base is self._model or not isinstance(head, torch.nn.Linear):
            return False
        ids = self.tensor([[0, 1, 2, 3]])
        with torch.inference_mode():
            hidden = getattr(base(input_ids=ids, use_cache=False), "last_hidden_state", None)
            logits = self._model(input_ids=ids, use_cache=False).logits
        if hidden is None:
            return False
        made = functional.linear(hidden, head.weight, head.bias)
        largest = float(logits.abs().max())
        return made.shape == logits.shape and float((made - logits).abs().max()) <= 1e-6 * largest


def _load(model_path: Path, config: EngineConfig, dtype: torch.dtype, device: torch.device) -> Any:
    model, missing = load_weights(transformers.AutoModelForCausalLM, model_path, config, dtype)
    if missing:
        raise ModelError(
            f"{model_path}: {len(missing)} weights are missing from its safetensors files "
            f"(first: {missing[0]}); download the model again"
        )
    if config.adapter is not None:
        model = _with_adapter(model, config.adapter)
    return put_on(device, model, model_path)


def load_weights(
    kind: Any, model_path: Path, config: EngineConfig, dtype: torch.dtype
) -> tuple[Any, list[str]]:
    """A model of a transformers Auto class, from safetensors on this machine, and the names of the
    weights that its files lack. Raises ModelError where it cannot be loaded."""
    transformers.utils.logging.disable_progress_bar()
    try:
        model, loading = kind.from_pretrained(
            str(model_path),
            output_loading_info=True,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=config.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"{model_path}: cannot be loaded: {described(error)}") from error
    return model, sorted(loading["missing_keys"])


def put_on(device: torch.device, model: Any, model_path: Path) -> Any:
    """The model on the device, for inference alone; EngineError where it does not fit."""
    try:
        return model.to(device).eval().requires_grad_(False)
    except RuntimeError as error:
        raise EngineError(f"{model_path}: does not fit on {device}: {described(error)}") from error


def _with_adapter(model: Any, adapter: Path) -> Any:
    """The model with the LoRA adapter's layers in place, unmerged: as it was trained."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise EngineError("engine.adapter needs peft: pip install 'sso-data[lora]'") from error
    try:
        return PeftModel.from_pretrained(model, str(adapter)).get_base_model()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{adapter}: not a usable LoRA adapter: {described(error)}") from error


def pick_device(name: str) -> torch.device:
    """The device that `engine.device` means here; EngineError where it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineError("engine.device: cuda is not available here; use auto or cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise EngineError("engine.device: mps is not available here; use auto or cpu")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format that `engine.dtype` means on a device."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype
