"""Facts of a model directory: context, vocabulary, end-of-sequence ids, cache size."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sso_data.config.run import EngineConfig
from sso_data.core.errors import EngineError, ModelError, SsoDataError, described
from sso_data.templating.chat_template import turn_end


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts from config.json, generation_config.json and the tokenizer.

    `context` is the context length to use, in tokens; `kv_numbers` how many numbers the key-value
    cache keeps per token (an upper bound for models that compress it). `turn_end`: the token with
    which the chat template ends turns, where no list of end-of-sequence ids names it; responses
    stop at it, so `eos_ids` holds it.
    """

    context: int
    vocab_size: int
    eos_ids: tuple[int, ...]
    kv_numbers: int
    turn_end: int | None = None


def read_model_facts(model_path: Path, config: EngineConfig) -> ModelFacts:
    """Read the facts of the model in `model_path`.

    Raises ModelError for a directory that is no usable model, EngineError for a context length
    that the model does not have.
    """
    if not (model_path / "config.json").is_file():
        raise ModelError(f"{model_path}: not a model directory (no config.json in it)")
    options = {"local_files_only": True, "trust_remote_code": config.trust_remote_code}
    try:
        from transformers import AutoConfig, AutoTokenizer

        model_config = AutoConfig.from_pretrained(str(model_path), **options)
        if model_config.is_encoder_decoder:
            raise ModelError(
                f"{model_path}: is an encoder-decoder model ({model_config.model_type}); use a "
                "causal language model"
            )
        tokenizer = AutoTokenizer.from_pretrained(str(model_path), **options)
        text_config = model_config.get_text_config(decoder=True)
        heads = text_config.num_attention_heads
        kv_heads = getattr(text_config, "num_key_value_heads", None) or heads
        head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
        own = getattr(text_config, "max_position_embeddings", None)
        wanted = config.max_model_len
        if own is None and wanted is None:
            raise ModelError(
                f"{model_path}: config.json has no context length; set engine.max_model_len"
            )
        if own is not None and wanted is not None and wanted > own:
            raise EngineError(
                f"engine.max_model_len: {wanted} is more than the model's own context of {own}"
            )
        named = _eos_ids(model_path, text_config, tokenizer)
        end = turn_end(tokenizer)
        unnamed = end if end not in named else None
        facts = ModelFacts(
            context=int(wanted or own or 0),
            vocab_size=int(text_config.vocab_size),
            eos_ids=named if unnamed is None else tuple(sorted({*named, unnamed})),
            kv_numbers=int(2 * text_config.num_hidden_layers * kv_heads * head_dim),
            turn_end=unnamed,
        )
    except SsoDataError:
        raise
    except Exception as error:  # whatever transformers raises on a broken file
        raise ModelError(f"{model_path}: cannot be loaded: {described(error)}") from error
    if min(facts.context, facts.vocab_size, facts.kv_numbers) < 1:
        raise ModelError(f"{model_path}: config.json has a size below 1; download it again")
    return facts


def _eos_ids(model_path: Path, text_config: Any, tokenizer: Any) -> tuple[int, ...]:
    """End-of-sequence ids: the generation config's, the model config's and the tokenizer's."""
    found: list[Any] = [getattr(text_config, "eos_token_id", None), tokenizer.eos_token_id]
    for name in ("config.json", "generation_config.json"):
        file = model_path / name
        if file.is_file():
            try:
                found.append(json.loads(file.read_text(encoding="utf-8")).get("eos_token_id"))
            except (OSError, ValueError, AttributeError) as error:
                detail = getattr(error, "strerror", None) or "not a JSON object"
                raise ModelError(f"{file}: {detail}; download it again") from error
    ids: set[int] = set()
    for value in found:
        ids.update(value if isinstance(value, list) else [] if value is None else [value])
    if not all(isinstance(token, int) for token in ids):
        raise ModelError(
            f"{model_path}: eos_token_id must be token ids (got {sorted(map(str, ids))})"
        )
    return tuple(sorted(ids))
